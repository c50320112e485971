"""U-Nets on every kind of backbone: shapes, numbers, weights kept and begun, what learns."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from safetensors.numpy import save_file

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, convert
from keras_cnn.checkpoints.convert import smp
from keras_cnn.checkpoints.convert.rename import to_theirs
from keras_cnn.errors import BadSpec, UnknownModel, UnknownOption, WeightsMismatch
from keras_cnn.models import naming, registry, shapes
from keras_cnn.models.assemble import assemble
from keras_cnn.models.layers import Fit
from keras_cnn.transfer import split
from keras_cnn.transfer.freeze import frozen_stages

GOLDENS = json.loads(Path(__file__).parent.joinpath("goldens/unet.json").read_text())
TOLERANCE = 1e-4
TINY = "resnet18.tiny_in200"
KINDS = [(up, skip) for up in ("nearest", "bilinear", "transposed") for skip in ("concat", "add", None)]
# One of each way in which maps come to their sizes.
BACKBONES = ("resnet20", "resnetv2_18", "inception_v3", "efficientnet_b0")
LARGE = ("keras_resnet50v2", "inception_resnet_v2", "resnet50_gn")


def small(shape=(21, 30, 3), **options):
    return kc.build("resnet20", head=kc.UNet(**{"classes": 3} | options), input_shape=shape)


def photos(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fixed"),
    [
        ((97, 131), True),
        ((33, 500), False),
        pytest.param((97, 131), False, marks=pytest.mark.slow),
        pytest.param((33, 500), True, marks=pytest.mark.slow),
    ],
)
def test_the_output_has_the_images_size(size, fixed):
    model = kc.build("resnet18_unet", classes=3, input_shape=(*size, 3) if fixed else (None, None, 3))
    scores = model.predict(photos(1, *size, 3), verbose=0)
    assert scores.shape == (1, *size, 3) and scores.dtype == "float32"
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("upsample", "skip"), KINDS)
@pytest.mark.parametrize("size", [(21, 30), (None, None)])
def test_every_kind_serves_odd_sizes_and_counts_what_keras_counts(upsample, skip, size):
    model = small((*size, 3), upsample=upsample, skip=skip)
    assert model(photos(2, 21, 30, 3)).shape == (2, 21, 30, 3)
    rows = shapes.tally(kc.config_of(model))
    assert shapes.variables(rows) == {k: tuple(v.shape) for k, v in arrays.variables(model).items()}
    if size[0]:
        found = {row.layer: (row.macs, row.output) for rows in kc.profile(model).values() for row in rows}
        assert {row.layer: (row.macs, row.output) for row in rows}.items() <= found.items()


@pytest.mark.parametrize("name", [*BACKBONES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_any_backbone_carries_one(name):
    """Also where windows have no padding, where a stride has several stages or none, and where groups do not divide."""
    model = kc.build(f"{name}_unet", input_shape=(None, None, 3))
    assert model.name == f"{name}_unet"
    assert model(photos(1, 83, 107, 3)).shape == (1, 83, 107, 2)


@pytest.mark.no_keras
@pytest.mark.parametrize("name", [name for name, of in registry.architectures().items() if of.backbone.SIDES == 2])
def test_every_architecture_has_one(name):
    """With both sizes that a network may have; the output is as large as the image."""
    for shape in ((131, 97, 3), (None, None, 3)):
        config = registry.get(f"{name}_unet").at(shape)
        shapes.check_size(config)
        assert shapes.tally(config)[-1].output == (None, *shape[:2], 2)


@pytest.mark.no_keras
def test_an_output_stride_leaves_fewer_stages():
    config = registry.get("resnet50_unet")
    backbone = config.backbone.with_(output_stride=8)
    stages = shapes.by_stage(shapes.tally(config.with_(backbone=backbone)))
    assert [stage for stage in stages if naming.of_decoder(stage)] == ["decoder1", "decoder2", "decoder3"]
    assert stages["decoder1"][0].output[1:3] == (56, 56)
    assert stages["decoder3"][-1].output == (None, 224, 224, 16)


@pytest.mark.parametrize(("size", "least"), [((1, 1), 17), ((16, 200), 17)])
def test_an_image_too_small_is_refused(size, least):
    with pytest.raises(BadSpec, match=rf"resnet18_unet needs images of at least {least}x{least} pixels, not {size[0]}"):
        kc.build("resnet18_unet", input_shape=(*size, 3))
    assert kc.build("resnet18_unet", input_shape=(least, least, 3)).output_shape == (None, least, least, 2)


def test_a_map_is_cropped_at_its_end_and_padded_at_both():
    x = np.arange(1, 7, dtype="float32").reshape(1, 2, 3, 1)
    for layer, given in ((Fit((5, 2)), x), (Fit(), [x, np.zeros((1, 5, 2, 7), "float32")])):
        fitted = np.asarray(layer(given))
        assert fitted[0, :, :, 0].tolist() == [[0, 0], [1, 2], [4, 5], [0, 0], [0, 0]]


# --- numbers ---------------------------------------------------------------------------------------------------------


def seeded_unet(name):
    config = registry.get(name).at((None, None, 3)).with_(head=kc.UNet(classes=3, activation=None))
    return config, seeded.arrays(shapes.variables(shapes.tally(config)))


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_logits_equal_segmentation_models(name):
    """Through its own names and layouts, at an even and at an odd size, neither of them square."""
    (config, values), golden = seeded_unet(name), GOLDENS[name]
    found, read = convert.convert(to_theirs(values, config.backbone, smp.FORMAT), config, source="smp")
    assert found.head == config.head and read.keys() == values.keys()
    assert all((read[key] == values[key]).all() for key in values)
    model = assemble(found)
    arrays.assign(model, read)
    for size, expected in golden["logits"].items():
        image = seeded.image(int(size))[:, :, : int(size) - 8]
        logits = np.asarray(model(image, training=False))[0, ::4, ::3]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE, err_msg=f"{name}, {size}")
        assert np.std(expected, axis=(0, 1)).min() > 100 * TOLERANCE, "any image would give these logits"
        other = np.asarray(model(255 - image, training=False))[0, ::4, ::3]
        assert np.abs(other - logits).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_parameters_equal_those_of_segmentation_models(name):
    assert shapes.parameters(shapes.tally(seeded_unet(name)[0])) == GOLDENS[name]["parameters"]


def convolved(x, kernel, bias):
    """A 3x3 or 1x1 convolution with zeros around, as a sum over the window."""
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = x.shape[1:3]
    taps = [(i, j) for i in range(size) for j in range(size)]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps) + bias


def doubled(x, how, weights):
    """Twice as high and wide: nearest and bilinear as sums of neighbours, transposed as one kernel a position."""
    if how == "transposed":
        kernel, bias = weights
        spread = np.einsum("bhwc,ijoc->bhiwjo", x, kernel)
        b, h, i, w, j, o = spread.shape
        return spread.reshape(b, h * i, w * j, o) + bias
    if how == "nearest":
        return x.repeat(2, 1).repeat(2, 2)
    for axis in (1, 2):
        before = np.concatenate([x.take([0], axis), np.delete(x, -1, axis)], axis)
        after = np.concatenate([np.delete(x, 0, axis), x.take([-1], axis)], axis)
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


@pytest.mark.parametrize(("upsample", "skip"), KINDS)
def test_a_block_equals_an_independent_computation(upsample, skip):
    """The first stage of a decoder, which joins a map of an odd size and of other channels, in NumPy."""
    model = small((22, 30, 3), upsample=upsample, skip=skip, decoder=(12, 8))
    values = seeded.arrays({key: tuple(v.shape) for key, v in arrays.variables(model).items()})
    arrays.assign(model, values)
    maps = kc.features(model, ["stage2", "stage3", "decoder1"])(photos(1, 22, 30, 3))
    beside, x, expected = (np.asarray(found, "float64") for found in maps)
    of = lambda layer, *names: [values[f"{layer}/{name}"].astype("float64") for name in names]  # noqa: E731
    up = of("decoder1_up", "kernel", "bias") if upsample == "transposed" else ()
    x = doubled(x, upsample, up)[:, : beside.shape[1], : beside.shape[2]]
    assert x.shape[1:3] == (11, 15) == beside.shape[1:3]
    if skip == "concat":
        x = np.concatenate([x, beside], -1)
    elif skip == "add":
        x = x + convolved(beside, *of("decoder1_skip_conv", "kernel", "bias"))
    for block in ("decoder1_block1", "decoder1_block2"):
        x = convolved(x, values[f"{block}_conv/kernel"].astype("float64"), 0)
        gamma, beta, mean, variance = of(f"{block}_norm", "gamma", "beta", "moving_mean", "moving_variance")
        x = np.maximum((x - mean) / np.sqrt(variance + kc.config_of(model).backbone.norm_eps) * gamma + beta, 0)
    np.testing.assert_allclose(expected, x, atol=1e-5 * np.abs(x).max())


def test_a_sum_of_equal_channels_needs_no_projection():
    layers = {layer.name for layer in small(skip="add", upsample="transposed", decoder=(32, 8)).layers}
    assert "decoder1_add" in layers and "decoder1_skip_conv" not in layers


# --- options ---------------------------------------------------------------------------------------------------------


def test_names_of_classes_are_kept_by_the_configuration_alone(tmp_path):
    model = small(classes=("sky", "road"))
    config = kc.config_of(model)
    assert config.class_names == ("sky", "road") and config.head == kc.UNet(classes=2)
    assert "sky" not in str(config.head.to_dict())
    assert kc.config_of(kc.build(kc.save_pretrained(model, tmp_path))).class_names == ("sky", "road")
    replaced = kc.replace_head(model, kc.UNet(classes=["a", "b", "c"]))
    assert kc.config_of(replaced).class_names == ("a", "b", "c")
    classifier = kc.build("resnet20", head=kc.Head(classes=["cat", "dog"], task="binary"))
    assert classifier.output_shape == (None, 1) and kc.config_of(classifier).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 0}, "classes=0"),
        ({"decoder": ()}, "stages in decoder=0"),
        ({"decoder": (8, 0)}, "decoder=.8, 0."),
        ({"skip": "sum"}, "skip='sum'"),
        ({"upsample": "bicubic"}, "upsample='bicubic'"),
        ({"task": "classification"}, "task='classification'"),
        ({"hidden": (8,)}, "hidden"),
        ({"decoder_channels": (8,)}, "write decoder="),
        ({"classes": ("a", "a")}, "two classes"),
        ({"decoder": (8,)}, "makes an image smaller 2 times"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises((BadSpec, UnknownOption), match=says):
        small(**options)


def test_an_auxiliary_classifier_is_refused_beside_one():
    with pytest.raises(BadSpec, match="leave aux out"):
        kc.build("inception_v3_unet", aux=True)


def test_an_autoencoder_ends_in_the_unit_of_its_pixels():
    model = small(classes=3, skip=None, task="reconstruction")
    assert model.layers[-1].name == "head_unit"
    model.get_layer("head_unit").mean.assign([10.0, 20.0, 30.0])
    model.get_layer("head_unit").std.assign([0.0, 0.0, 0.0])
    assert np.asarray(model(photos(1, 21, 30, 3)))[0, 4, 5].tolist() == [10, 20, 30]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_scores_are_float32_under_mixed_precision(precision, policy):
    precision(policy)
    assert small()(photos(1, 21, 30, 3)).dtype == "float32"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.no_keras
def test_names_are_listed_where_they_are_asked_for():
    assert not any("unet" in name for name in kc.list_models())
    assert kc.list_models("resnet18*unet") == ["resnet18_half_unet", "resnet18_unet", "resnet18d_unet"]
    assert len(kc.list_models("*_unet")) == len(registry.architectures())
    with pytest.raises(UnknownModel, match="Did you mean resnet18"):
        kc.info("resnet18x_unet")
    with pytest.raises(UnknownModel, match=r"build\('resnet18_unet', weights=...\) takes those of resnet18"):
        kc.info("resnet18_unet.tiny_in200")


@pytest.mark.no_keras
def test_info_counts_the_decoder_by_stage():
    profile = kc.info("resnet18_unet", freeze="stage4")["profile"]
    assert list(profile) == [
        "stem", *(f"stage{s}" for s in range(1, 5)), *(f"decoder{s}" for s in range(1, 6)), "head"
    ]  # fmt: skip
    # Two convolutions without bias and their norms, behind 512 channels from below and 256 beside.
    assert profile["decoder1"]["parameters"] == 9 * 256 * (512 + 256 + 256) + 2 * 2 * 256
    assert profile["head"]["parameters"] == 9 * 16 * 2 + 2
    learns = {stage for stage, row in profile.items() if row["trainable"]}
    assert learns == {stage for stage in profile if naming.on_top(stage)}


# --- weights ---------------------------------------------------------------------------------------------------------


def same(one, other, where):
    one, other = arrays.arrays(one), arrays.arrays(other)
    keys = [key for key in one if where(key)]
    assert keys
    return all((one[key] == other[key]).all() for key in keys)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kc.build("resnet18_unet", weights=TINY, classes=11, input_shape=(64, 64, 3)),
        lambda: kc.build(TINY, head=kc.UNet(classes=11)),
        lambda: kc.build(registry.get("resnet18").with_(head=kc.UNet(classes=11)), weights=TINY),
        lambda: kc.replace_head(kc.build(TINY), kc.UNet(classes=11)),
    ],
)
def test_the_encoder_has_the_weights_of_a_classifier(call):
    model = call()
    assert model.output_shape == (None, 64, 64, 11) and model.name in ("resnet18_unet", "resnet18")
    assert same(kc.build(TINY), model, lambda key: not naming.on_top(key))
    config = kc.config_of(model)
    assert config.provenance["base"] and not config.class_names and config.head == kc.UNet(classes=11)


def test_a_file_of_a_classifier_gives_the_encoder(tmp_path):
    source = kc.build("resnet18", classes=4)
    theirs = to_theirs(arrays.arrays(source), kc.config_of(source).backbone, convert.timm.FORMAT)
    save_file({key: np.ascontiguousarray(value) for key, value in theirs.items()}, tmp_path / "a.safetensors")
    model = kc.build("resnet18_unet", weights=tmp_path / "a.safetensors")
    assert model.output_shape[-1] == 2 and same(source, model, lambda key: not naming.on_top(key))


def test_a_file_of_a_unet_gives_all_of_it(tmp_path):
    source = kc.build("resnet18", head=kc.UNet(classes=4))
    arrays.save(arrays.arrays(source), tmp_path / "ours.safetensors")
    theirs = to_theirs(arrays.arrays(source), kc.config_of(source).backbone, smp.FORMAT)
    save_file({key: np.ascontiguousarray(value) for key, value in theirs.items()}, tmp_path / "theirs.safetensors")
    for name in ("ours", "theirs"):
        model = kc.build("resnet18_unet", weights=tmp_path / f"{name}.safetensors")
        assert model.output_shape[-1] == 4 and same(source, model, lambda key: True)
        new = kc.build("resnet18_unet", weights=tmp_path / f"{name}.safetensors", classes=3)
        assert same(source, new, lambda key: not naming.of_classes(key))
    with pytest.raises(WeightsMismatch, match="decoder"):
        kc.build("resnet18", weights=tmp_path / "theirs.safetensors")


def test_a_saved_unet_reads_back_and_keeps_its_decoder_for_other_classes(tmp_path):
    model = small(classes=("a", "b", "c"), decoder=(12, 8), skip="add")
    place = kc.save_pretrained(model, tmp_path / "unet")
    again, images = kc.build(place), photos(1, 21, 30, 3)
    assert same(model, again, lambda key: True)
    np.testing.assert_array_equal(model(images), again(images))
    for other in (kc.build(place, classes=5), kc.build("resnet20_unet", weights=place, classes=5)):
        assert other.output_shape[-1] == 5 and kc.config_of(other).head.decoder == (12, 8)
        assert same(model, other, lambda key: not naming.of_classes(key))
    assert same(model, kc.replace_head(model, 5), lambda key: not naming.of_classes(key))
    afresh = kc.build(place, head=kc.UNet(classes=3, decoder=(12, 8)))  # joins otherwise: another decoder
    assert same(model, afresh, lambda key: not naming.on_top(key))
    classifier = kc.build(place, head=kc.Head(classes=4))
    assert classifier.output_shape == (None, 4) and same(classifier, model, lambda key: not naming.on_top(key))


def test_a_keras_file_gives_equal_outputs(tmp_path):
    for shape in ((21, 30, 3), (None, None, 3)):
        model = small(shape, upsample="transposed", skip="add")
        model.save(tmp_path / "unet.keras")
        images = photos(2, 21, 30, 3)
        for again in (keras.saving.load_model(tmp_path / "unet.keras"), kc.build(tmp_path / "unet.keras")):
            np.testing.assert_array_equal(model(images), again(images))
            assert kc.config_of(again).head == kc.config_of(model).head


def test_folded_for_prediction_it_says_the_same():
    from keras_cnn.deploy.fold import fold

    model = small((None, None, 3), skip="add")
    images = photos(2, 21, 30, 3)
    np.testing.assert_allclose(fold(model)(images), model(images, training=False), atol=1e-5)


# --- learning --------------------------------------------------------------------------------------------------------


def test_freezing_leaves_the_decoder_to_learn():
    model = kc.freeze(small())
    learning = {naming.stage_of(layer.name) for layer in model.layers if layer.trainable_weights}
    assert learning == {"decoder1", "decoder2", "head"}
    assert frozen_stages(model) == ["stem", "stage1", "stage2", "stage3"]
    assert list(kc.stages(model)) == ["stem", "stage1", "stage2", "stage3", "decoder1", "decoder2", "head"]
    kc.unfreeze(model, "stage2", bn="frozen")
    table = {row.stage: row.batchnorm for row in kc.trainable_table(model)}
    assert (table["stage3"], table["decoder1"]) == ("frozen", "train")


def test_a_phase_counts_the_decoder_to_the_head():
    from keras_cnn.training.options import FineTuneOptions
    from keras_cnn.training.phases import plan

    first, every = plan(list(kc.stages(small())), FineTuneOptions(layer_decay=0.5, learning_rate=1e-3))
    heads = {"decoder1", "decoder2", "head"}
    assert first.rates.keys() == heads and len(set(first.rates.values())) == 1
    assert {every.rates[name] for name in heads} == {max(every.rates.values())}
    assert every.rates["stem"] < every.rates["stage3"] < every.rates["decoder1"]


def test_skips_leave_no_place_to_cut():
    for shape in ((21, 30, 3), (None, None, 3)):
        model = kc.freeze(small(shape))
        assert split.divide(model) is None
        with pytest.raises(BadSpec, match="no one place to cut"):
            split.backbone(model)


def test_without_skips_the_code_is_a_place_to_cut():
    model = kc.freeze(small(skip=None))
    lower, upper = split.divide(model)
    assert lower.output_shape == (None, 6, 8, 64) and not lower.trainable_weights
    images = photos(2, 21, 30, 3)
    np.testing.assert_allclose(upper(lower(images)), model(images), atol=1e-6)


@pytest.mark.slow
def test_it_learns_with_plain_keras(tmp_path):
    """The bright half of an image from the dark one: accuracy by pixel far above a guess, and outputs that are kept."""
    rng = np.random.default_rng(0)
    masks = rng.random((16, 3, 4)).repeat(7, 1).repeat(8, 2)[:, :21, :30] > 0.5
    images = np.clip(masks[..., None] * 90 + rng.integers(40, 120, (16, 21, 30, 3)), 0, 255).astype("uint8")
    model = small(classes=2, decoder=(16, 16))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = model.evaluate(images, masks.astype("int32"), verbose=0)[0]
    model.fit(images, masks.astype("int32"), epochs=12, batch_size=4, verbose=0)
    loss, accuracy = model.evaluate(images, masks.astype("int32"), verbose=0)
    assert loss < before and accuracy > 0.9
    model.save(tmp_path / "a.keras")
    expected = model.predict(images, verbose=0)
    again = kc.build(kc.save_pretrained(model, tmp_path / "a"))
    for other in (keras.saving.load_model(tmp_path / "a.keras"), again):
        np.testing.assert_array_equal(other.predict(images, verbose=0), expected)
