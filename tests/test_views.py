"""Answers as the mean over an image and its mirror image."""

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec

X = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype("uint8")
FLIPPED = np.ascontiguousarray(X[:, :, ::-1])


def network(**told):
    keras.utils.set_random_seed(0)
    return kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=2, **told)


def test_classes_are_the_mean_of_both_views():
    net = network()
    both = kc.predictor(net, views="mirror").scores(X)
    one, other = (kc.predictor(net).scores(x) for x in (X, FLIPPED))
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)
    assert np.abs(both - one).max() > 1e-5
    np.testing.assert_allclose(kc.predictor(net, views="mirror").scores(FLIPPED), both, atol=1e-6)
    y = np.arange(6) % 2
    expected = (both.argmax(-1) == y).mean()
    assert kc.evaluate(net, (X, y), views="mirror").metrics["accuracy"] == pytest.approx(expected)


def test_maps_are_mirrored_back():
    keras.utils.set_random_seed(0)
    told = {"depths": (1, 1, 1), "input_shape": (16, 16, 3)}
    net = kc.build("resnet20", head=kc.UNet(classes=2, decoder=(8, 8, 8)), **told)
    both, mirrored = (kc.predictor(net, views="mirror").scores(x) for x in (X, FLIPPED))
    np.testing.assert_allclose(both, mirrored[:, :, ::-1], atol=1e-6)


def test_views_that_are_none():
    with pytest.raises(BadSpec, match="views"):
        kc.predictor(network(), views="flip")
    tcn = kc.build("tcn", input_shape=(16, 2), classes=2, widths=(4,), dilations=(1,))
    with pytest.raises(BadSpec, match="this network reads sequences: leave it out"):
        kc.predictor(tcn, views="mirror")
