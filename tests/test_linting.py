"""`kc.lint` names seeded faults and what is so in published networks, and nothing else; what it says is true."""

from __future__ import annotations

import doctest
import importlib
import json

import keras
import numpy as np
import pytest
from keras import Input, Model, Sequential, layers
from variants import HUGE

import keras_cnn as kc
from keras_cnn.errors import BadSpec
from keras_cnn.insight.lint_rules import RULES
from keras_cnn.models import assemble, registry
from keras_cnn.models.families.resnet import ResNet

RNG = np.random.default_rng(0)
# The biases of keras.applications' ResNets are as published: each is in front of a batch norm; in V2 some are in front
# of a sum, and every way from there leads into one. V2's first, which a pool with zeros at its border follows, is not.
BIASED = {"ResNet50": 53, "ResNet50V2": 16 + 4}


def told(model) -> list[tuple[str, str, int | None]]:
    return [(found.layer, found.rule, found.parameters) for found in kc.lint(model)]


def rules(model) -> dict[str, str]:
    return {found.layer: found.rule for found in kc.lint(model)}


# --- seeded faults: a small model for each kind, and the same mended ------------------------------------------------


def linear(mended):
    """Two convolutions, then two dense layers, with no activation; the mend is one for each."""
    act = "relu" if mended else None
    return [
        Input((16, 16, 3)),
        layers.Conv2D(32, 3, activation=act, name="conv1"),
        layers.Dropout(0.1),
        layers.Conv2D(64, 3, 2, "same", activation="relu", name="conv2"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(100, activation=act, name="dense1"),
        layers.Dense(10, activation="softmax", name="dense2"),
    ]


def between(mended):
    """A batch norm alone between convolutions; and one behind an activation, whose gamma and beta the next can hold."""
    return [
        Input((16, 16, 3)),
        layers.Conv2D(16, 3, use_bias=False, name="conv1"),
        layers.BatchNormalization(name="norm1"),
        layers.Activation("relu" if mended else "linear"),
        layers.Conv2D(16, 3, activation="relu", name="conv2"),
        layers.BatchNormalization(name="norm2", center=not mended, scale=not mended),
        layers.Conv2D(16, 3, activation="relu", name="conv3"),
    ]


def biased(mended):
    """A bias in front of a batch norm, of an instance norm, and of a layer norm, which leaves it there."""
    return [
        Input((16, 16, 3)),
        layers.Conv2D(8, 3, use_bias=not mended, name="conv1"),
        layers.MaxPooling2D(padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.SeparableConv2D(8, 3, use_bias=not mended, name="conv2"),
        layers.GroupNormalization(-1),
        layers.ReLU(),
        layers.Conv2D(8, 3, name="conv3"),
        layers.GroupNormalization(4),
        layers.ReLU(),
        layers.Conv2D(8, 3, name="conv4"),
        layers.ZeroPadding2D(),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


def dropped(mended):
    """Dropout that batch norms see, through a dense layer too; and one whose statistics stay as they were made."""
    rate = 0.0 if mended else 0.5
    return [
        Input((16, 16, 3)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.BatchNormalization(trainable=mended, name="frozen"),
        layers.SpatialDropout2D(rate),
        layers.Activation("relu"),
        layers.BatchNormalization(name="norm1"),
        layers.Activation("relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dropout(rate),
        layers.Dense(8, use_bias=False),
        layers.BatchNormalization(name="norm2"),
        layers.Activation("relu"),
        layers.Dropout(0.5),
        layers.Dense(2, "softmax"),
    ]


def trapped(mended):
    """Python code, a stride with nowhere to go, and a softmax in half precision."""
    half = keras.DTypePolicy("mixed_float16")
    return [
        Input((8, 8, 3)),
        layers.Rescaling(2.0) if mended else layers.Lambda(lambda x: 2.0 * x, name="code"),
        layers.Conv2D(8, 3, 4, "same", activation="relu", dtype=half),
        layers.Conv2D(8, 3, 2, "same", activation="relu", dtype=half),
        layers.ZeroPadding2D(dtype=half),
        layers.Conv2D(8, 3, 1 if mended else 2, activation="relu", name="last", dtype=half),
        layers.Flatten(dtype=half),
        layers.Dense(2, "softmax", dtype="float32" if mended else half, name="scores"),
    ]


FAULTS = {
    # conv1 and conv2 as one: 3x3 and 2 more by the second's window; 896 + 18,496 parameters for 25 * 3 * 64 + 64.
    linear: [("conv2", "linear-linear", 14_528), ("dense2", "linear-linear", 6_500 + 1_010 - 650)],
    between: [("conv2", "missing-activation", None), ("norm2", "affine-norm", 32)],
    biased: [("conv1", "bias-before-norm", 8), ("conv2", "bias-before-norm", 8)],
    dropped: [
        ("frozen", "untrained-norm", None),
        ("norm1", "dropout-before-norm", None),
        ("norm2", "dropout-before-norm", None),
    ],
    trapped: [("code", "lambda-layer", None), ("last", "stride-of-one", None), ("scores", "half-output", None)],
}


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)
def test_seeded_faults_are_named_and_mended_ones_are_not(make):
    assert told(Sequential(make(mended=False))) == FAULTS[make]
    assert told(Sequential(make(mended=True))) == []
    for found in kc.lint(Sequential(make(mended=False))):
        assert found.message.endswith(".") and ": " in found.message and found.rule in RULES


def test_the_message_tells_what_both_maps_are_as_one():
    conv, dense = kc.lint(Sequential(linear(mended=False)))
    assert "follows conv1" in conv.message and "one 5x5 convolution from 3 to 64 channels" in conv.message
    assert "follows dense1" in dense.message and "one dense layer from 64 to 10 channels" in dense.message


def test_nested_models_are_entered_and_frozen_ones_known_by_their_call():
    inner = Sequential(between(mended=False), name="inner")
    image = Input((16, 16, 3))
    found = {(f.layer, f.rule) for f in kc.lint(Model(image, inner(image, training=False)))}
    assert found == {
        ("inner/norm1", "untrained-norm"),
        ("inner/conv2", "missing-activation"),
        ("inner/norm2", "untrained-norm"),
        ("inner/norm2", "affine-norm"),
    }


def test_what_has_its_reason_is_left_alone():
    x = image = Input((16, 16, 24))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(8, 1, name="pointwise")(x)  # a separable convolution, and a bottleneck
    x = shared = layers.Conv2D(48, 1, name="expand")(x)
    x = layers.Conv2D(24, 1, name="other")(x)  # what it follows is an output, too
    y = layers.Conv2D(24, 3, padding="same", name="sum_of")(layers.ReLU()(x))
    x = layers.Conv2D(24, 1, name="behind")(layers.Add()([x, y]))  # not the sum alone
    twice = layers.Dense(24, name="twice")
    assert told(Model(image, [shared, twice(layers.ReLU()(twice(x)))])) == []


def test_a_norm_holds_what_the_next_map_cannot():
    """Zeros at the border of a padded map are none of beta's; a map without bias has no place for it."""
    for options, parameters in [({}, 32), ({"padding": "same"}, 16), ({"use_bias": False}, 16)]:
        norm = layers.BatchNormalization(name="norm")
        model = Sequential([Input((16, 16, 16)), norm, layers.Conv2D(4, 3, **options)])
        assert told(model) == [("norm", "affine-norm", parameters)]
    tail = [layers.LayerNormalization(name="norm"), layers.Dense(3)]
    assert told(Sequential([Input((16,)), *tail])) == [("norm", "affine-norm", 32)]


# --- networks as they are -------------------------------------------------------------------------------------------


@pytest.fixture
def blank(monkeypatch):
    """Kernels of zeros are made in no time, and no rule looks at them."""
    monkeypatch.setitem(assemble.STARTS, "he", keras.initializers.Zeros)


def by_family() -> list[str]:
    """Of each family what has the fewest layers, and each kind of block and norm."""
    return [
        *("resnet18", "resnet26d", "resnetv2_18", "resnet20", "resnet50_gn", "resnetv2_50x1_bit", "resnext50_32x4d"),
        *("efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b0"),
        *("inception_v3", "inception_resnet_v1", "tcn", "resnet18_unet"),
    ]


def all_others() -> list:
    names = [name for name in registry.architectures() if name not in by_family() and "keras_" not in name]
    return [pytest.param(name, marks=pytest.mark.slow) for name in names if name not in HUGE or name == "resnet1202"]


@pytest.mark.usefixtures("blank")
@pytest.mark.large_graphs
@pytest.mark.parametrize("name", [*by_family(), *all_others()])
def test_our_networks_have_nothing_to_say_of(name):
    assert told(kc.build(name)) == []


@pytest.mark.usefixtures("blank")
def test_frozen_random_statistics_are_told():
    found = rules(kc.build("resnet20", freeze="stage1"))
    assert set(found.values()) == {"untrained-norm"} and len(found) == 1 + 6
    assert told(kc.build("resnet18.tiny_in200", freeze="stage3", classes=3)) == []


@pytest.mark.large_graphs
@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", [pytest.param("ResNet50", marks=pytest.mark.slow), "ResNet50V2"])
def test_of_keras_applications_is_told_what_is_so(name):
    theirs = kc.lint(getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3)))
    ours = kc.lint(kc.build(f"keras_{name.lower()}", input_shape=(64, 64, 3)))
    for found in (theirs, ours):
        assert {finding.rule for finding in found} == {"bias-before-norm"} and len(found) == BIASED[name]
    assert sorted(f.parameters for f in theirs) == sorted(f.parameters for f in ours)
    if name == "ResNet50V2":
        assert {f.layer[-7:] for f in theirs} == {"_0_conv", "_3_conv"}


@pytest.mark.parametrize("name, few", [("MobileNetV2", 0), ("DenseNet121", 0), ("Xception", 0), ("ConvNeXtTiny", 4)])
@pytest.mark.slow
def test_other_networks_of_keras_applications(name, few):
    """ConvNeXt's layer norms before a downsampling convolution and before the classifier have a gamma and a beta."""
    found = rules(getattr(keras.applications, name)(weights=None))
    assert len(found) == few and set(found.values()) <= {"affine-norm"}


# --- what is told is true -------------------------------------------------------------------------------------------


def test_biases_that_are_told_do_nothing_in_training_and_others_do():
    keras_v2 = {"preact": True, "conv_bias": True, "stride_last": True, "pool_pad": "zero"}
    network = ResNet(depths=(2, 2), widths=(8, 16), strides=(2, 1), stem_width=8, **keras_v2)
    model = kc.build(network, input_shape=(48, 48, 3), classes=3, classifier_activation=None)
    images = RNG.integers(0, 255, (4, 48, 48, 3))
    before = np.asarray(model(images, training=True))
    found = list(rules(model))
    assert len(found) == 4 + 2 and "stem_conv" not in found
    for name in found:
        bias = model.get_layer(name).bias
        bias.assign(RNG.normal(size=bias.shape))
    np.testing.assert_allclose(model(images, training=True), before, atol=2e-4)
    bias = model.get_layer("stem_conv").bias
    bias.assign(100 * RNG.normal(size=bias.shape))
    assert np.abs(np.asarray(model(images, training=True)) - before).max() > 1e-2


def test_maps_that_are_told_to_be_one_are_linear():
    """f(x + y) + f(0) is f(x) + f(y), with the batch norm's statistics moved too."""
    model = Sequential(between(mended=False)[:5])
    model.layers[-1].activation = keras.activations.linear
    model.layers[1].set_weights([RNG.uniform(0.5, 2, 16) for _ in range(4)])
    assert "conv2" in rules(model)
    x, y = RNG.normal(size=(2, 1, 16, 16, 3)).astype("float32")
    f = lambda x: np.asarray(model(x))  # noqa: E731
    np.testing.assert_allclose(f(x + y) + f(0 * x), f(x) + f(y), atol=1e-4)


# --- people ---------------------------------------------------------------------------------------------------------


def test_a_model_without_a_graph_is_told():
    class Hidden(Model):
        def call(self, x):
            return x

    for model in (Hidden(), Sequential([layers.Dense(3)]), None):
        with pytest.raises(BadSpec, match="has no graph to walk"):
            kc.lint(model)
    with pytest.raises(BadSpec, match=r"'resnet50' is a name: give the model itself, such as kc.build\('resnet50'\)"):
        kc.lint("resnet50")


def test_the_command_tells_a_table_or_json_and_succeeds(run, tmp_path):
    network = ResNet(depths=(1,), widths=(8,), strides=(1,), stem_width=8, conv_bias=True)
    kc.save_pretrained(kc.build(network, input_shape=(32, 32, 3), classes=2), tmp_path / "biased")
    code, out, _ = run("lint", tmp_path / "biased")
    assert code == 0 and "stem_conv" in out and "bias-before-norm" in out
    assert out.splitlines()[-1] == "5 findings; 88 parameters could be left out."
    code, out, _ = run("lint", tmp_path / "biased", "--json")
    assert code == 0 and json.loads(out)[0]["layer"] == "stem_conv"
    code, out, _ = run("lint", "resnet20")
    assert (code, out) == (0, "resnet20: nothing to say.\n")
    code, _, error = run("lint", "resnet21")
    assert code == 2 and "resnet20" in error


def test_the_docstring_example_runs():
    module = importlib.import_module("keras_cnn.insight.linting")
    assert doctest.testmod(module) == (0, 4)
