"""Progressive resolution: training images that grow to the size of the network."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import keras_cnn as kc
from keras_cnn.data.growth import STEP, growing
from keras_cnn.errors import BadSpec


@given(side=st.integers(1, 600), scale=st.floats(0.1, 1), epochs=st.integers(1, 300))
def test_sides_grow_evenly_and_end_whole(side, scale, epochs):
    sides = [height for height, _ in growing((side, side), scale, epochs)]
    assert len(sides) == epochs and sides == sorted(sides)
    assert all(one == side or one % STEP == 0 for one in sides)
    last = math.ceil(0.2 * epochs)
    assert sides[-last:] == [side] * last
    assert epochs == 1 or abs(sides[0] - scale * side) <= STEP


def images(count: int = 48, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Images of stripes, broad or narrow, which their class tells."""
    draws, labels = np.random.default_rng(0), np.arange(count) % 2
    waves = np.sin(np.arange(side)[None, :, None, None] / np.where(labels, 1, 4)[:, None, None, None])
    noise = draws.normal(0, 20, (count, side, side, 3))
    return np.clip(128 + 80 * waves + noise, 0, 255).astype("uint8"), labels.astype("int32")


def network(side: int = 32) -> keras.Model:
    keras.utils.set_random_seed(0)
    return kc.build("resnet20", depths=(1, 1, 1), input_shape=(side, side, 3), classes=2)


def test_each_pass_has_its_size_and_validation_the_whole():
    data = kc.load_data({"train": images(), "val": images(8)}, network(), batch_size=16, augment="light")
    grows = replace(data, growth=((16, 16), (24, 24), (32, 32)))
    sizes = [{x.shape[1:3] for x, _ in grows.train} for _ in range(4)]
    assert sizes == [{(16, 16)}, {(24, 24)}, {(32, 32)}, {(32, 32)}]
    assert all(x.shape[1:3] == (32, 32) and x.dtype == np.uint8 for x, _ in grows.val)
    data.seek(2), grows.seek(2)
    for (whole, _), (grown, _) in zip(data.train, grows.train, strict=True):
        np.testing.assert_array_equal(whole, grown)  # at the whole size nothing is resized
    data.seek(0), grows.seek(0)
    for (whole, _), (grown, _) in zip(data.train, grows.train, strict=True):
        pictures = [Image.fromarray(np.asarray(one)).resize((16, 16), Image.Resampling.BILINEAR) for one in whole]
        np.testing.assert_allclose(np.stack(pictures).astype(float), grown, atol=1)  # Pillow rounds twice


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "tf_efficientnetv2_b0", "inception_v3"])
def test_a_network_sees_smaller_images_as_one_that_is_built_for_them(name):
    """What `train` does is sound: of no family do the layers hang on the size that they were built for."""
    model = kc.build(name, input_shape=(96, 96, 3), classes=3)
    free = kc.build(name, input_shape=(None, None, 3), classes=3)
    free.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(free(pixels))
    model.input_spec = keras.InputSpec(ndim=4)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(pixels)), expected, atol=1e-6)


def test_training_learns_goes_on_exactly_and_leaves_the_network_as_it_was(tmp_path):
    told = {"epochs": 4, "initial_scale": 0.5, "learning_rate": 0.05, "verbose": 0}
    given = {"train": images(), "val": images(16)}
    whole = network()
    history = kc.train(whole, kc.load_data(given, whole, batch_size=16), **told, out=tmp_path / "whole")
    assert max(history.history["val_accuracy"]) >= 0.75  # 0.5 is chance

    class Killed(Exception):
        """In place of a signal."""

    class Data(type(kc.load_data(given, whole))):  # a run that ends in its third pass
        def seek(self, epoch):
            if epoch == 2:
                raise Killed
            super().seek(epoch)

    broken = network()
    data = kc.load_data(given, broken, batch_size=16)
    with pytest.raises(Killed):
        kc.train(broken, Data(**vars(data)), **told, out=tmp_path / "broken")
    broken = network()
    kc.train(broken, kc.load_data(given, broken, batch_size=16), **told, out=tmp_path / "broken", resume=True)
    for ours, theirs in zip(whole.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="shape"):
        whole(np.zeros((1, 16, 16, 3)))


def test_arrays_and_masks_are_refused():
    with pytest.raises(BadSpec, match="load_data"):
        kc.train(network(), images(), initial_scale=0.5, verbose=0)
    unet = kc.build("resnet20_unet", depths=(1, 1, 1), input_shape=(32, 32, 3), classes=2)
    data = kc.load_data((images()[0], (images()[0] > 99)[..., 0].astype("uint8")), unet)
    with pytest.raises(BadSpec, match="masks"):
        kc.train(unet, data, initial_scale=0.5, verbose=0)
