"""The Keras graph: it is what the tally says, flat, and every keyword does what it promises."""

from __future__ import annotations

import inspect
import json
import sys

import keras
import numpy as np
import pytest
import seeded
from variants import VARIANTS

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec
from keras_cnn.models import assemble, registry, shapes
from keras_cnn.models.backbone import NORMS
from keras_cnn.models.config import Preprocess
from keras_cnn.models.heads import Head
from keras_cnn.models.layers import Pad, Preprocessing

SMALL = (32, 32, 3)
# One of each kind of block, the smallest.
RESNETS = ["resnet18", "resnet26d", "resnetv2_18", "keras_resnet50v2", "resnet20"]
KINDS = [*RESNETS, "efficientnet_b0", "tf_efficientnetv2_b0"]


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    return {key: tuple(v.shape) for key, v in arrays.variables(model).items()}


def seed(model):
    arrays.assign(model, seeded.arrays(shapes_of(model)))
    return model


def run(model, image=None) -> np.ndarray:
    return np.asarray(model(seeded.image(32) if image is None else image, training=False))


def layers(model, kind) -> list:
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.fixture
def blank(monkeypatch):
    """Kernels of zeros: where only shapes matter, drawing millions of numbers is a waste."""
    monkeypatch.setitem(assemble.STARTS, "he", keras.initializers.Zeros)


# --- the graph and the tally ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", VARIANTS)
def test_tally_is_the_graph(name):
    config = registry.get(name)
    model, rows = kc.build(name), shapes.tally(config)
    assert shapes_of(model) == shapes.variables(rows)
    outputs = {layer.name: tuple(layer.output.shape) for layer in model.layers}
    assert {row.layer: row.output for row in rows} == {k: outputs[k] for k in outputs if k[:10] not in OUTSIDE}
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == shapes.parameters(rows)
    assert all(kc.stages(model)) and list(kc.stages(model)) == [*config.backbone.stages, "head"]


OUTSIDE = ("stem_image", "stem_prepr")  # the input and the preprocessing are no part of a backbone


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pad", ["torch", "same"])
def test_tally_is_the_graph_at_an_odd_size_and_dilated(name, pad):
    config = registry.get(name).at((75, 50, 3))
    backbone = config.backbone.with_(pad=pad)
    backbone = backbone if getattr(backbone, "stride_last", False) else backbone.with_(output_stride=8)
    config = config.with_(backbone=backbone)
    outputs = {layer.name: tuple(layer.output.shape) for layer in assemble.assemble(config).layers}
    for row in shapes.tally(config):
        assert outputs[row.layer] == row.output, row.layer


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_flat_and_named_and_a_plain_keras_model(name):
    model = kc.build(name, input_shape=SMALL, drop_path_rate=0.1, drop_rate=0.1)
    assert type(model).__name__ == "Functional" and model.name == name
    assert not layers(model, (keras.Model, keras.layers.Lambda))
    assert all(layer.name.partition("_")[0] in (*config_of(model).backbone.stages, "head") for layer in model.layers)
    assert kc.build("resnet20", name="mine").name == "mine"


# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18", "resnet20"])
def test_open_height_and_width(name):
    model = seed(kc.build(name, input_shape=(None, None, 3), classes=4))
    fixed = seed(kc.build(name, input_shape=(32, 32, 3), classes=4))
    np.testing.assert_allclose(run(model), run(fixed), atol=1e-6)
    assert run(model, seeded.image(45)).shape == (1, 4)
    with pytest.raises(ValueError):
        run(fixed, seeded.image(45))


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_numbers_of_channels(channels):
    model = kc.build("resnet20", input_shape=(16, 16, channels))
    assert arrays.variables(model)["stem_conv/kernel"].shape == (3, 3, channels, 16)
    assert len(config_of(model).preprocess.mean) == channels
    assert run(model, seeded.image(16, channels)).shape == (1, 10)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_any_type_of_pixels_gives_the_same_output(dtype):
    model, image = seed(kc.build("resnet20")), seeded.image(32)
    np.testing.assert_array_equal(run(model, image.astype(dtype)), run(model, image.astype("float32")))


def test_preprocessing_is_that_of_torchvision():
    pre, image = Preprocess(), seeded.image(8)
    x = np.asarray(Preprocessing(pre.mean, pre.std)(image))
    expected = (image.astype("float64") / 255 - np.array(pre.mean)) / np.array(pre.std)
    np.testing.assert_allclose(x, expected, atol=2e-6)
    assert x.dtype == np.float32


@pytest.mark.parametrize("value", ["zero", "lowest"])
def test_pad(value):
    x = np.ones((2, 3, 4, 5), "float32")
    y = np.asarray(Pad(((1, 2), (0, 1), (2, 0)), value)(x))
    assert y.shape == (2, 6, 5, 7) and Pad(((1, 2), (0, 1), (2, 0))).compute_output_shape((2, None, 4, 5)) == (
        2,
        None,
        5,
        7,
    )
    assert y.sum() == (x.sum() if value == "zero" else -np.inf) and y[:, 1:4, :4, 2:].min() == 1


# --- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "output", "names"),
    [
        (Head(classes=0), (None, 64), ["head_pool"]),
        (Head(classes=0, pooling=None), (None, 4, 4, 64), []),
        (Head(classes=3, pooling="max"), (None, 3), ["head_pool", "head_logits", "head_probs"]),
        (Head(classes=3, activation=None), (None, 3), ["head_pool", "head_logits"]),
        (
            Head(classes=3, hidden=(8, 6), dropout=0.5),
            (None, 3),
            [
                *("head_pool", "head_drop1", "head_dense1", "head_act1", "head_drop2", "head_dense2", "head_act2"),
                *("head_drop", "head_logits", "head_probs"),
            ],
        ),
    ],
)  # fmt: skip
def test_heads(head, output, names):
    model = kc.build("resnet20", input_shape=(16, 16, 3), head=head)
    assert model.output_shape == output
    assert [layer.name for layer in model.layers if layer.name.startswith("head_")] == names
    assert shapes_of(model) == shapes.variables(shapes.tally(config_of(model)))
    again = kc.build("resnet20", input_shape=(16, 16, 3), classes=head.classes)
    assert config_of(model).head == head and again.output_shape[-1] == output[-1]


def test_max_pooling_and_features_without_classifier():
    model = kc.build("resnet20", head=Head(classes=0, pooling="max"))
    maps = seed(kc.build("resnet20", head=Head(classes=0, pooling=None)))
    means = seed(kc.build("resnet20", classes=0))
    np.testing.assert_allclose(run(seed(model)), run(maps).max((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(run(means), run(maps).mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_are_what_the_activation_takes(activation):
    logits = run(seed(kc.build("resnet20", classifier_activation=None)))
    expected = {
        "softmax": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    }[activation](logits)
    np.testing.assert_allclose(run(seed(kc.build("resnet20", classifier_activation=activation))), expected, atol=1e-6)


# --- keywords of the backbone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [norm.replace("N", "8") for norm in NORMS])
@pytest.mark.parametrize("name", ["resnet20", "resnetv2_18"])
def test_every_norm_builds_and_is_alone(norm, name):
    model = kc.build(name, input_shape=(33, 33, 3), norm=norm)  # instance norm takes no maps of one position
    kinds = {"batch": "BatchNormalization", "none": None}
    found = {type(layer).__name__ for layer in model.layers if "Normalization" in type(layer).__name__}
    assert found == {kinds.get(norm, "GroupNormalization")} - {None}
    assert np.isfinite(run(model, seeded.image(33))).all()
    assert shapes_of(model) == shapes.variables(shapes.tally(config_of(model)))
    # Without a normalisation after it, a convolution needs its own bias.
    assert arrays.variables(model).keys() >= ({"stage1_block1_conv1/bias"} if norm == "none" else set())


@pytest.mark.parametrize(("norm", "axes"), [("layer", (1, 2, 3)), ("instance", (1, 2))])
def test_layer_and_instance_norm_normalise_over_what_their_names_say(norm, axes):
    model = kc.build("resnet20", input_shape=(16, 16, 3), norm=norm)
    y = np.asarray(keras.Model(model.input, model.get_layer("stem_norm").output)(seeded.image(16)))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axes), 1, atol=1e-2)


def test_group_norm_needs_a_divisor_of_the_channels():
    with pytest.raises(BadSpec, match=r"group:24.*24.*64|group:24.*64.*24"):
        kc.build("resnet18", norm="group:24")


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", ["resnet50", "resnet26d", "resnetv2_18"])
@pytest.mark.parametrize(("stride", "sides"), [(8, [16, 8, 8, 8]), (16, [16, 8, 4, 4]), (32, [16, 8, 4, 2])])
def test_output_stride(name, stride, sides):
    model = kc.build(name, input_shape=(64, 64, 3), output_stride=stride)
    maps = kc.features(model, [f"stage{s}" for s in range(1, 5)]).outputs
    assert [f.shape[1] for f in maps] == sides
    assert shapes_of(model) == shapes_of(kc.build(name, input_shape=(64, 64, 3)))


def test_dilation_computes_the_same_features_more_densely():
    """At output stride 8 every second feature is one of stride 16 (DeepLab, 1606.00915, section 3.1)."""
    coarse, fine = (
        run(seed(kc.build("resnet18", input_shape=(128, 128, 3), head=Head(classes=0, pooling=None), output_stride=s)),
            seeded.image(128))
        for s in (16, 8)
    )  # fmt: skip
    assert coarse.shape[1:3] == (8, 8) and fine.shape[1:3] == (16, 16)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, 32) for name in RESNETS), ("inception_resnet_v1", 80)],
)
def test_concatenation_starts_as_the_sum(name, side, tmp_path):
    image = seeded.image(side)
    added = seed(kc.build(name, input_shape=(side, side, 3), classes=5, classifier_activation=None))
    merged = kc.build(kc.save_pretrained(added, tmp_path / "net"), merge="concat")
    fuses = shapes_of(merged).keys() - shapes_of(added).keys()
    assert fuses and all(key.split("/")[0].endswith("_fuse") for key in fuses)
    np.testing.assert_allclose(run(merged, image), run(added, image), rtol=1e-4, atol=1e-4)
    fuse = next(layer for layer in merged.layers if layer.name.endswith("_fuse"))
    fuse.kernel.assign(0.5 * fuse.kernel)
    assert np.abs(run(merged, image) - run(added, image)).max() > 1e-3  # it is more than a sum


def test_a_basic_block_is_as_wide_within_as_is_said():
    model = kc.build("resnet18", base=32, input_shape=SMALL)
    assert model.get_layer("stage2_block1_conv1").kernel.shape == (3, 3, 64, 64)
    assert model.get_layer("stage2_block1_conv2").kernel.shape == (3, 3, 64, 128)


def test_a_small_stem_has_no_width_of_its_own():
    with pytest.raises(BadSpec, match="a small stem is as wide as the first stage: give widths"):
        kc.build("resnet20", stem_width=64)
    stem = kc.build(kc.compound_scale("resnet20", 2), input_shape=SMALL).get_layer("stem_conv")
    assert stem.kernel.shape[-1] > 16


def test_dropout_and_stochastic_depth():
    model = kc.build("resnet20", drop_rate=0.3, drop_path_rate=0.8)
    assert model.get_layer("head_drop").rate == 0.3
    paths = [layer for layer in layers(model, keras.layers.Dropout) if layer.name.endswith("_droppath")]
    assert [layer.rate for layer in paths] == pytest.approx([0.8 * i / 8 for i in range(1, 9)])
    y = np.asarray(paths[-1](np.ones((64, 4, 4, 64), "float32"), training=True))
    assert set(np.unique(y.std((1, 2, 3)))) == {0.0}  # whole samples
    assert {0.0, 5.0} == set(np.round(np.unique(y), 3))
    assert not layers(kc.build("resnet20"), keras.layers.Dropout)
    image = seeded.image(32)
    np.testing.assert_array_equal(run(model, image), run(model, image))


def test_efficientnets_have_the_dropout_of_the_paper():
    assert kc.build("efficientnet_lite0", input_shape=(64, 64, 3)).get_layer("head_drop").rate == 0.2
    assert registry.get("efficientnet_b7").head.dropout == 0.5
    assert not layers(kc.build("efficientnet_lite0", input_shape=(64, 64, 3), drop_rate=0.0), keras.layers.Dropout)


def test_stochastic_depth_of_inceptions():
    model = kc.build("inception_resnet_v1", input_shape=(139, 139, 3), drop_path_rate=0.5)
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_droppath")]
    assert rates == pytest.approx([0.5 * i / 20 for i in range(1, 21)])  # 5, 10, 5 and the last; the first has none
    with pytest.raises(BadSpec, match="Inception has no residual branches to drop"):
        kc.build("inception_v3", drop_path_rate=0.1)


def test_act():
    model = kc.build("resnet20", act="silu")
    hidden = [layer for layer in layers(model, keras.layers.Activation) if not layer.name.startswith("head_")]
    assert len(hidden) == 19 and {layer.activation for layer in hidden} == {keras.activations.silu}


def test_a_residual_branch_starts_as_the_identity():
    model = kc.build("resnet20")
    gammas = {k: v for k, v in arrays.arrays(model).items() if k.endswith("_norm2/gamma")}
    assert len(gammas) == 9 and not any(v.any() for v in gammas.values())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's")
def test_variables_of_a_savedmodel_have_the_paths_of_keras(tmp_path):
    import tensorflow as tf

    model = kc.build("resnet20", classes=3)
    assert all(variable.value.name == f"{variable.path}:0" for variable in model.variables)
    model.export(tmp_path / "net", verbose=False)
    names = {variable.name.removesuffix(":0") for variable in tf.saved_model.load(tmp_path / "net").variables}
    assert names == {variable.path for variable in model.variables}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are TensorFlow's")
def test_variables_of_checkpoints_and_traced_graphs_have_the_paths_of_keras(tmp_path):
    import tensorflow as tf

    told = {"depths": (1, 1, 1), "input_shape": SMALL, "classes": 3}
    model, again = (seed(kc.build("resnet20", **told)), kc.build("resnet20", **told))
    traced = tf.function(lambda images: model(images, training=False))
    graph = traced.get_concrete_function(tf.TensorSpec((1, *SMALL))).graph
    assert {v.name for v in graph.variables} == {f"{v.path}:0" for v in model.variables}
    saved = tf.train.Checkpoint(model=model).write(str(tmp_path / "weights"))
    assert not [name for name, _ in tf.train.list_variables(saved) if name.startswith("variable")]
    tf.train.Checkpoint(model=again).read(saved).assert_consumed()
    for one, other in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=one.path)


def test_room_for_recursion_is_made_only_where_it_is_needed(monkeypatch):
    limits = []
    monkeypatch.setattr(sys, "setrecursionlimit", limits.append)
    kc.build("resnet20", depths=(1, 1, 1))
    before = sys.getrecursionlimit()
    with assemble.recursion(before // 2):
        pass
    assert not limits
    with assemble.recursion(before // 2 + 1):
        assert limits == [before + before // 2 + 1]
    assert limits[1:] == [before]


def test_room_for_recursion_is_given_back():
    """Keras makes models by recursion; a deep network gets the room for it, and nobody else's limit changes."""
    kc.build("resnet20")
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 250)
        limit = sys.getrecursionlimit()
        model = kc.build("resnet110")  # of some 400 layers
        assert kc.features(model, "stage3").output_shape == (None, 8, 8, 64)
        with pytest.raises(BadSpec):
            kc.build("resnet110", act="wrong")
        assert sys.getrecursionlimit() == limit
    finally:
        sys.setrecursionlimit(before)


# --- precision, saving ----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("classes", [10, 0])
def test_mixed_precision_gives_float32_near_the_exact_output(request, classes):
    exact = run(seed(kc.build("resnet20", classes=classes, input_shape=SMALL)))
    request.getfixturevalue("mixed")
    model = seed(kc.build("resnet20", classes=classes, input_shape=SMALL))
    assert model.get_layer("stage1_block1_conv1").compute_dtype == "bfloat16"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    output = model(seeded.image(32), training=False)
    assert classes == 0 or keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_allclose(np.asarray(keras.ops.cast(output, "float32")), exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", KINDS)
def test_a_keras_file_gives_the_same_output_and_knows_what_it_is(name, tmp_path):
    pre = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(32, 32), crop=0.9, mode="squash")
    model = seed(kc.build(name, input_shape=SMALL, classes=["cat", "dog"], preprocess=pre, drop_path_rate=0.1))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(run(again), run(model))
    config = config_of(again)
    assert (config.class_names, config.preprocess) == (("cat", "dog"), pre)
    assert config == config_of(model) and config.architecture == name
    json.dumps(config.to_dict())
    assert kc.replace_head(again, Head(classes=7)).output_shape == (None, 7)


def test_a_model_of_another_maker_has_no_configuration():
    other = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)], name="other")
    with pytest.raises(BadSpec, match=r"other.* was not made by keras_cnn\.build"):
        config_of(other)


def test_build_from_a_spec():
    config = registry.get("resnet20").for_classes(3)
    config = config.with_(backbone=config.backbone.with_(depths=(1, 1, 1), widths=(4, 8, 16)))
    model = kc.build(config)
    assert model.output_shape == (None, 3) and config_of(model) == config
