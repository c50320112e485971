"""The Python interface: no keyword is swallowed, words from elsewhere get an answer, and the obvious call works."""

from __future__ import annotations

import inspect

import images
import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec, KerasCnnError, UnknownModel, UnknownOption
from keras_cnn.models.hints import HINTS, VALUES

QUIET = {"verbose": 0, "batch_size": 16, "probe": False}


def net(**options):
    return kc.build("resnet20", **{"input_shape": (16, 16, 3), "classes": ["dark", "light"], **options})


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise, dark or light by class."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    return (rng.integers(0, 60, (count, 16, 16, 3)) + 190 * labels[:, None, None, None]).astype("uint8"), labels


# --- unknown keywords -----------------------------------------------------------------------------------------------


@pytest.mark.no_keras
@pytest.mark.parametrize("name", kc.__all__)
def test_no_public_name_swallows_a_keyword(name):
    with pytest.raises(UnknownOption, match=f"{name} has no option 'surely_unknown'") as told:
        getattr(kc, name)(surely_unknown=1)
    assert isinstance(told.value, KerasCnnError) and isinstance(told.value, TypeError)


@pytest.mark.no_keras
@pytest.mark.parametrize(
    "call, word, mend",
    [
        ("fine_tune", "rate", "write learning_rate="),
        ("fine_tune", "cycle", "write warmup="),
        ("fine_tune", "lr", "head_learning_rate="),
        ("fine_tune", "freez", "write above="),
        ("fine_tune", "losses", "loss"),
        ("fine_tune", "epoch", "did you mean 'epochs'?"),
        ("train", "rate", "write learning_rate="),
        ("train", "smoothing", "write label_smoothing="),
        ("train", "optimiser", "did you mean 'optimizer'"),
        ("build", "include_top", "classes=0"),
        ("build", "pooling", "kc.Head(classes=0, pooling='max')"),
        ("build", "num_classes", "write classes="),
        ("build", "pretrained", "build('resnet50.a1_in1k')"),
        ("build", "in_chans", "input_shape="),
        ("build", "features_only", "kc.features"),
        ("build", "clases", "did you mean 'classes'?"),
        ("save_pretrained", "license", "provenance={'license': ...}"),
        ("Head", "num_classes", "write classes="),
        ("Preprocess", "crop_pct", "write crop="),
    ],
)
def test_words_from_elsewhere_and_misspelt_ones_get_an_answer(call, word, mend):
    with pytest.raises(UnknownOption) as told:
        getattr(kc, call)(**{word: 1})
    assert mend in str(told.value) and str(told.value)[-1] in ".?" and ".." not in str(told.value).replace("...", "")


def test_a_value_from_elsewhere_gets_an_answer():
    with pytest.raises(UnknownOption, match=r"weights='imagenet' is no value here: name a tag, as in build\('resnet50"):
        kc.build("resnet50", weights="imagenet")


@pytest.mark.no_keras
def test_hints_are_for_words_that_are_no_options():
    for name, words in HINTS.items():
        assert not words.keys() & inspect.signature(getattr(kc, name)).parameters.keys(), name
    for name, option, _ in VALUES:
        assert option in inspect.signature(getattr(kc, name)).parameters


@pytest.mark.no_keras
def test_signatures_stay_for_people_and_editors():
    assert next(iter(inspect.signature(kc.Head).parameters)) == "classes"
    shown = inspect.signature(kc.fine_tune).parameters
    assert {"model", "epochs", "provenance"} <= shown.keys()
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in shown.values())
    assert inspect.getdoc(kc.build).startswith("A flat functional Keras model")


def test_nothing_is_written_by_a_call_with_an_unknown_keyword(tmp_path):
    for call in (kc.fine_tune, kc.train):
        with pytest.raises(UnknownOption):
            call(net(), data(), out=tmp_path / "run", rate=1e-3)
    assert not (tmp_path / "run").exists()


def test_provenance_is_one_dict_of_facts(tmp_path):
    path = kc.save_pretrained(net(), tmp_path / "net", provenance={"license": "mit", "data": "greys"})
    assert kc.config_of(kc.build(path)).provenance == {"source": "net", "license": "mit", "data": "greys"}
    with pytest.raises(BadSpec, match="provenance='mit': give an object"):
        kc.save_pretrained(net(), tmp_path / "other", provenance="mit")
    assert not (tmp_path / "other").exists()


# --- the obvious call -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [kc.fine_tune, kc.train])
def test_arrays_as_keras_has_them(call):
    told = {"epochs": 1, "verbose": 0, **({"head_epochs": 0, "probe": False} if call is kc.fine_tune else {})}
    weights = net().get_weights()
    losses = []
    for given, held_out in (((data(),), {"val": data(16)}), (data(), {"validation_data": data(16)})):
        model = net()
        model.set_weights(weights)
        keras.utils.set_random_seed(0)
        losses.append(call(model, *given, **held_out, **told).history["val_loss"])
    assert losses[0] == losses[1]


def test_train_takes_data(tmp_path):
    folder = images.folder(tmp_path / "pets", {"dark": 6, "light": 6}, size=(16, 16))
    model = net()
    history = kc.train(model, kc.load_data(folder, model, batch_size=4), epochs=1, verbose=0).history
    assert "val_accuracy" in history


def test_stages_that_were_frozen_stay_frozen(capsys):
    model = net(freeze="stage2")
    before = {layer.name: layer.get_weights() for layer in model.layers}
    kc.fine_tune(model, data(), head_epochs=0, epochs=1, probe=False, batch_size=16, verbose=2)
    assert "stage2 and what is below stay frozen, as they were: above='stage2'" in capsys.readouterr().out
    moved = {
        layer.name.partition("_")[0]
        for layer in model.layers
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), before[layer.name], strict=True))
    }
    assert moved == {"stage3", "head"}


def test_a_backbone_that_was_frozen_as_a_whole_follows_the_schedule(capsys):
    model = net(freeze="stage3")
    kc.fine_tune(model, data(), head_epochs=0, epochs=1, probe=False, batch_size=16, verbose=2)
    assert "schedule='two-phase' decides when it learns: 'head' keeps it frozen" in capsys.readouterr().out
    assert model.get_layer("stem_conv").trainable


@pytest.mark.parametrize(
    "what, told",
    [(0.5, {"fraction": 0.5}), ("stage2", {"upto": "stage2"}), ("stage[12]_.*", {"match": "stage[12]_.*"})],
)
def test_freeze_tells_a_stage_from_a_share_and_a_pattern(what, told):
    flags = lambda model: [layer.trainable for layer in model.layers]  # noqa: E731
    assert flags(kc.freeze(net(), what)) == flags(kc.freeze(net(), **told))
    told = {"above" if key == "upto" else key: value for key, value in told.items()}
    assert flags(kc.unfreeze(kc.freeze(net()), what)) == flags(kc.unfreeze(kc.freeze(net()), **told))


def test_freeze_by_two_ways_is_refused():
    with pytest.raises(BadSpec, match="upto and fraction are given"):
        kc.freeze(net(), "stage2", fraction=0.5)


def test_one_stage_gives_one_map():
    maps = kc.features(net(), "stage2")
    assert maps.output_shape == (None, 8, 8, 32)
    assert maps(data(2)[0]).shape == (2, 8, 8, 32)


def test_a_head_is_replaced_by_a_number_or_by_names():
    five = kc.replace_head(net(drop_rate=0.3), 5)
    assert five.output_shape == (None, 5) and kc.config_of(five).head.dropout == 0.3
    assert kc.config_of(kc.replace_head(net(), ["a", "b", "c"])).class_names == ("a", "b", "c")
    assert kc.replace_head(net(), 0).output_shape == (None, 64)


def test_an_image_is_loaded_for_a_network(tmp_path):
    (file, *_) = sorted(images.folder(tmp_path / "pets", {"a": 1, "b": 1}, size=(40, 30)).rglob("*.png"))
    model = net()
    image = kc.load_image(file, model)
    assert image.shape == (16, 16, 3)
    np.testing.assert_array_equal(image, kc.load_image(file, kc.Preprocess.of(model)))


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.no_keras
@pytest.mark.parametrize(
    "name, near",
    [
        ("restnet50", "resnet50"),
        ("renset50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("efficentnet_b0", "efficientnet_b0"),
        ("InceptionV3", "inception_v3"),
        ("efficientnetv2_s", "tf_efficientnetv2_s"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(UnknownModel, match=rf"Did you mean {near}\b"):
        kc.info(name)


@pytest.mark.no_keras
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "vgg16", "densenet121", "xception", "regnety_032", "vit_base", "rexnet"]
)
def test_no_other_family_is_offered_for_one_that_is_not_here(name):
    with pytest.raises(UnknownModel) as told:
        kc.info(name)
    assert "Did you mean" not in str(told.value) and "keras-cnn list" in str(told.value)


@pytest.mark.no_keras
def test_the_beginning_of_names_lists_them():
    assert kc.list_models("resnet") == kc.list_models("resnet*") and len(kc.list_models("resnet")) > 10
    assert kc.list_models("resnet50") == ["resnet50"] and kc.list_models("nothing") == []
    assert "resnet50.a1_in1k" in kc.list_models("resnet50", pretrained=True)
