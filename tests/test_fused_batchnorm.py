"""The batch norm of our networks is Keras', faster: outputs, statistics and gradients, in training and prediction."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

import keras_cnn as kc
from keras_cnn.models.layers import BatchNormalization

KINDS = (BatchNormalization, keras.layers.BatchNormalization)


def both(shape, **options):
    """Ours and Keras' layer with the same gamma, beta and statistics."""
    draws = np.random.default_rng(0)
    values = [draws.uniform(0.5, 2, shape[-1]) for _ in range(4)]
    pair = [
        kind(epsilon=1e-3, momentum=0.9, **options) for kind in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for layer in pair:
        layer.build(shape)
        layer.set_weights(values)
    return pair


def steps(layer, given, wanted):
    """(losses, weights and statistics) of two steps of SGD; a layer below learns by the gradient that comes through."""
    inputs, below = keras.Input(given.shape[1:]), keras.layers.Dense(given.shape[-1], use_bias=False)
    below.build((None, given.shape[-1]))
    below.set_weights([np.eye(given.shape[-1]) + 0.1])
    model = keras.Model(inputs, layer(below(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    losses = [float(model.train_on_batch(given, wanted)) for _ in range(2)]
    return losses, model.get_weights()


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 7, 3), (8, 3)])
def test_training_equals_that_of_keras(shape):
    draws = np.random.default_rng(1)
    given, wanted = draws.normal(3, 2, shape).astype("float32"), draws.normal(0, 1, shape).astype("float32")
    (our_losses, ours), (losses, theirs) = (steps(layer, given, wanted) for layer in both(shape))
    np.testing.assert_allclose(our_losses, losses, rtol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"synchronized": True}, {"renorm": True}])
def test_other_forms_are_those_of_keras(options):
    given = np.random.default_rng(1).normal(3, 2, (6, 5, 4, 3)).astype("float32")
    options = {**options, "axis": -1}
    pair = [kind(**options) for kind in KINDS]
    ours, theirs = (ops.convert_to_numpy(layer(given, training=True)) for layer in pair)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("trainable, training", [(True, False), (False, True)])
def test_frozen_and_at_prediction_it_uses_what_it_has_seen(trainable, training):
    given = np.random.default_rng(1).normal(3, 2, (6, 5, 4, 3)).astype("float32")
    pair = both(given.shape, trainable=trainable)
    before = pair[0].get_weights()
    ours, theirs = (ops.convert_to_numpy(layer(given, training=training)) for layer in pair)
    np.testing.assert_array_equal(ours, theirs)
    for one, other in zip(before, pair[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_statistics_of_low_precision_are_float32(policy, precision):
    precision(policy)
    given = np.random.default_rng(1).normal(300, 20, (32, 8, 8, 3)).astype("float32")
    ours, theirs = both(given.shape)
    for layer in (ours, theirs):
        assert layer(given, training=True).dtype == policy.removeprefix("mixed_")
        assert layer.moving_mean.dtype == "float32"
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_a_saved_network_is_read_again_and_is_one_of_keras(tmp_path):
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2)
    model.save(tmp_path / "a.keras")
    norms = [x for x in keras.saving.load_model(tmp_path / "a.keras").layers if isinstance(x, BatchNormalization)]
    assert norms and all(isinstance(norm, keras.layers.BatchNormalization) for norm in norms)
