"""Batch norm in the convolution before it: the same outputs, and only where that is right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.deploy.fold import fold

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
