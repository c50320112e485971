"""Batch norm in the linear map before it, scales in the first: the same outputs, and only where that is right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.deploy import fold as folding
from keras_cnn.deploy.fold import fold, unfolded
from keras_cnn.errors import FoldWarning
from keras_cnn.models.layers import Pad

RNG = np.random.default_rng(0)


def norms(model):
    return [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(
    "name,size,left",
    [("resnet18", 32, 0), ("efficientnet_b0", 32, 0), ("inception_v3", 96, 0), ("resnetv2_18", 32, None)],
)
def test_a_folded_network_gives_the_same(name, size, left):
    model = kc.build(name, input_shape=(size, size, 3), classes=5, classifier_activation=None)
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    before = arrays.arrays(model)
    folded = fold(model)
    images = RNG.integers(0, 255, (3, size, size, 3), "uint8")
    expected, found = (np.asarray(m(images, training=False)) for m in (model, folded))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert len(norms(folded)) < len(norms(model)) and len(norms(folded)) == (
        len(norms(folded)) if left is None else left
    )
    folded.layers[-1].set_weights([value + 1 for value in folded.layers[-1].get_weights()])
    after = arrays.arrays(model)
    assert all((after[key] == value).all() for key, value in before.items())


def test_a_norm_that_is_not_alone_behind_a_plain_convolution_stays():
    image = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(4, 3, name="shared")(image)
    active = keras.layers.Conv2D(4, 3, activation="relu", name="active")(image)
    alone = keras.layers.Conv2D(4, 3, name="alone")(image)
    outputs = [
        keras.layers.BatchNormalization(name="one")(shared),
        keras.layers.Activation("relu")(shared),
        keras.layers.BatchNormalization(name="two")(active),
        keras.layers.BatchNormalization(scale=False, center=False, name="three")(alone),
    ]
    model = keras.Model(image, outputs)
    for layer in model.layers:
        layer.set_weights([RNG.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    folded = fold(model)
    assert norms(folded) == ["one", "two"]
    images = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    for found, expected in zip(folded(images), model(images), strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-4)


def drawn(model):
    """The model with statistics, kernels and biases that any mistake shows in."""
    for layer in model._flatten_layers(include_self=False):
        layer.set_weights([RNG.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def same(model, folded, top=255):
    images = RNG.integers(0, top + 1, (3, *model.input_shape[1:])).astype("float32")
    wanted, found = (np.asarray(m(images, training=False)) for m in (model, folded))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


L = keras.layers
MAPS = {
    "convolution": lambda: L.Conv2D(4, 3),
    "grouped": lambda: L.Conv2D(4, 3, groups=2, use_bias=False),
    "depthwise": lambda: L.DepthwiseConv2D(3, depth_multiplier=3),
    "separable": lambda: L.SeparableConv2D(5, 3, depth_multiplier=2),
    "transposed": lambda: L.Conv2DTranspose(5, 3, strides=2, use_bias=False),
    "dense": lambda: L.Dense(5),
}


@pytest.mark.parametrize("name", MAPS)
def test_every_linear_map_takes_norms_in(name):
    """Two of them, and what only training needs between."""
    map_ = MAPS[name]()
    layers = [map_, L.Dropout(0.5), L.BatchNormalization(), L.GaussianNoise(1.0), L.BatchNormalization(scale=False)]
    model = drawn(keras.Sequential([keras.Input((8, 8, 4)), *layers]))
    folded = fold(model)
    assert kinds(folded) == ["InputLayer", type(map_).__name__]
    same(model, folded, top=1)


@pytest.mark.parametrize("name", ["convolution", "depthwise", "standardised"])
@pytest.mark.parametrize(
    "before, pad, left",
    [
        ([("rescaling", 0.5, 0.0)], "same", []),
        ([("rescaling", 0.5, -1.0)], "valid", []),
        ([("rescaling", 0.5, -1.0)], "same", ["Rescaling"]),
        ([("rescaling", 0.5, 0.0)], "zeros", ["ZeroPadding2D"]),
        ([("rescaling", 0.5, [1.0, 2.0]), ("normalization",), ("rescaling", [2.0, 3.0], 1.0)], "valid", []),
        ([("rescaling", 0.5, [1.0, 2.0]), ("normalization",)], "zeros", ["Rescaling", "ZeroPadding2D"]),
    ],
)
def test_the_scale_of_pixels_is_in_the_first_convolution(name, before, pad, left):
    from keras_cnn.models.layers import StandardisedConv2D

    make = {"rescaling": L.Rescaling, "normalization": L.Normalization}
    map_ = {"convolution": L.Conv2D, "standardised": StandardisedConv2D}.get(name)
    told = {"padding": "same" if pad == "same" else "valid", "use_bias": False}
    first = map_(4, 3, **told) if map_ else L.DepthwiseConv2D(3, depth_multiplier=2, **told)
    zeros = [L.ZeroPadding2D(1)] if pad == "zeros" else []
    steps = [make[one](*numbers) for one, *numbers in before]
    model = keras.Sequential([keras.Input((9, 9, 2)), *steps, *zeros, first, L.BatchNormalization()])
    folded = fold(drawn(model))
    assert kinds(folded)[1:-1] == left and not unfolded(folded)
    same(model, folded)


def test_a_photo_that_is_used_twice_keeps_its_scale():
    image = keras.Input((8, 8, 3))
    scaled = L.Rescaling(0.1)(image)
    model = drawn(keras.Model(image, L.Concatenate()([scaled, L.Conv2D(3, 3, padding="same")(scaled)])))
    assert "Rescaling" in kinds(fold(model))
    same(model, fold(model))


def test_models_in_models_are_laid_open():
    """With layers of the same names, one of them called twice; a numeric Normalization among them."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Normalization(name="n"), L.Conv2D(4, 3, name="c")], name="in")
    image = keras.Input((10, 10, 3))
    twice = L.Conv2D(3, 3, padding="same", name="c")
    x = inner(twice(twice(image))[:, 1:-1, 1:-1])
    model = drawn(keras.Model(image, L.BatchNormalization(name="n")(x)))
    folded = fold(model)
    assert not unfolded(folded) and [layer.name for layer in folded.layers if layer.weights] == ["c", "n", "c_1"]
    same(model, folded, top=1)


@pytest.mark.parametrize("axis, left", [(-1, []), (1, ["norm"])])
def test_a_norm_over_another_axis_stays(axis, left):
    layers = [L.Conv2D(6, 3), L.BatchNormalization(axis=axis, name="norm")]
    model = drawn(keras.Sequential([keras.Input((8, 8, 2)), *layers]))
    assert unfolded(fold(model)) == left
    same(model, fold(model))


def test_padding_that_a_pool_never_picks_is_finite_behind_relu():
    def model(activation):
        padded = [Pad(((1, 1), (1, 1), (0, 0)), "lowest", name="pad"), L.MaxPool2D(3, 2)]
        return keras.Sequential([keras.Input((9, 9, 2)), L.Activation(activation), *padded])

    for activation, value in {"relu": "zero", "tanh": "lowest"}.items():
        folded = fold(model(activation))
        assert folded.get_layer("pad").value == value
        same(model(activation), folded)


@pytest.mark.parametrize("make, left", [("MobileNetV3Small", 0), ("Xception", 0), ("DenseNet121", 62)])
@pytest.mark.slow
def test_models_of_keras_applications(make, left):
    """In DenseNet, the norms behind concatenations and pools, which have no map of their own."""
    model = getattr(keras.applications, make)(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(RNG.uniform(0.5, 1.5, layer.moving_mean.shape))
            layer.moving_mean.assign(RNG.normal(0, 0.1, layer.moving_mean.shape))
    folded = fold(model)
    assert len(unfolded(folded)) == left
    same(model, folded)


def test_swish_is_two_plain_operations_and_is_saved_so(tmp_path):
    given = keras.Input((8, 8, 2))
    x = L.Activation("swish", name="alone")(L.Conv2D(4, 3, activation="silu", name="with")(given))
    model = drawn(keras.Model(given, x))
    folded = fold(model)
    assert all(folded.get_layer(name).activation is not keras.activations.silu for name in ("alone", "with"))
    same(model, folded)
    folded.save(tmp_path / "net.keras")
    same(model, keras.saving.load_model(tmp_path / "net.keras"))


def test_a_copy_that_answers_otherwise_is_not_used(monkeypatch):
    model = drawn(keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(4, 3), L.BatchNormalization(name="norm")]))
    honest = folding._number
    monkeypatch.setattr(folding, "_number", lambda variable, absent=0.0: honest(variable, absent) * 1.1)
    with pytest.warns(FoldWarning, match="answers otherwise"):
        folded = fold(model)
    assert unfolded(folded) == ["norm"]
    same(model, folded)
