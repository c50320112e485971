"""Exact batch-norm statistics: those of the whole set, at every depth, whatever the batches."""

from __future__ import annotations

import images
import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype="uint8")


@pytest.fixture
def model():
    return kc.build("resnet20", classes=3)


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_statistics_are_the_populations(model):
    kc.recalibrate_batchnorm(model, IMAGES, batch_size=10)
    layers = norms(model)
    for layer, inputs in zip(layers, keras.Model(model.input, [n.input for n in layers])(IMAGES), strict=True):
        values = keras.ops.convert_to_numpy(inputs).astype("float64")
        np.testing.assert_allclose(layer.moving_mean, values.mean((0, 1, 2)), atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, values.var((0, 1, 2)), rtol=1e-4, atol=1e-7)


def inputs_of_norms(model, *batches):
    """For each batch norm what it sees of all batches, in float64: (elements, channels)."""
    below = keras.Model(model.input, [layer.input for layer in norms(model)])
    seen = zip(*(below(batch, training=False) for batch in batches), strict=True)
    return [np.concatenate([np.asarray(v, "float64").reshape(-1, v.shape[-1]) for v in values]) for values in seen]


def test_statistics_under_mixed_precision_are_as_exact(precision):
    """What a batch norm sees is bfloat16 then; its mean and variance need not be."""
    precision("mixed_bfloat16")
    model = kc.build("resnet20", classes=3)
    kc.recalibrate_batchnorm(model, IMAGES, batch_size=12)
    for layer, values in zip(norms(model), inputs_of_norms(model, IMAGES[:12], IMAGES[12:]), strict=True):
        np.testing.assert_allclose(layer.moving_mean, values.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, values.var(0), rtol=1e-4, atol=1e-7)


def test_images_of_differing_sizes_count_by_their_pixels():
    model = kc.build("resnet20", classes=3, input_shape=(None, None, 3))
    small, large = IMAGES[:12, :16, :16], IMAGES[12:] // 4
    kc.recalibrate_batchnorm(model, [small, large])
    for layer, values in zip(norms(model), inputs_of_norms(model, small, large), strict=True):
        np.testing.assert_allclose(layer.moving_mean, values.mean(0), atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, values.var(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("held", [True, False])
def test_data_is_taken_as_at_prediction(tmp_path, held):
    folder = images.folder(tmp_path / "pets", {"a": 12, "b": 12}, size=(16, 16))
    model = kc.build("resnet20", classes=2, input_shape=(16, 16, 3))
    data = kc.load_data(folder, model, augment="heavy", batch_size=5, **({} if held else {"cache_bytes": 0}))
    kc.recalibrate_batchnorm(model, data)
    found = arrays.arrays(model)
    kc.recalibrate_batchnorm(model, data.arrays("train").images)
    for key, value in arrays.arrays(model).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def test_batches_do_not_matter(model):
    kc.recalibrate_batchnorm(model, IMAGES, batch_size=24)
    whole = arrays.arrays(model)
    kc.recalibrate_batchnorm(model, [(IMAGES[:5], None), (IMAGES[5:], None)])
    for key, value in arrays.arrays(model).items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_only_statistics_change(model):
    before = arrays.arrays(model)
    kc.recalibrate_batchnorm(model, (IMAGES, np.zeros(24)))
    after = arrays.arrays(model)
    changed = {key.rpartition("/")[2] for key in before if (before[key] != after[key]).any()}
    assert changed == {"moving_mean", "moving_variance"}


def test_a_domain_shift_is_undone(model):
    """Darker images with the statistics of darker images look as the old ones did with the old statistics."""
    look = lambda images: np.asarray(kc.features(model, ["stage1"])(images))  # noqa: E731
    kc.recalibrate_batchnorm(model, IMAGES)
    bright, dark = look(IMAGES), IMAGES / 4
    shifted = np.abs(look(dark) - bright).mean()
    kc.recalibrate_batchnorm(model, dark)
    assert np.abs(look(dark) - bright).mean() < 0.3 * shifted


def test_a_network_without_batch_norm_is_left_alone():
    model = kc.build("resnet20", classes=3, norm="group:8")
    before = arrays.arrays(model)
    kc.recalibrate_batchnorm(model, IMAGES)
    assert all((value == before[key]).all() for key, value in arrays.arrays(model).items())


def test_no_images_is_an_error(model):
    with pytest.raises(BadData, match="no image"):
        kc.recalibrate_batchnorm(model, IMAGES[:0])
