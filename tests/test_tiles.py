"""Large images by tiles: the same as at once, wherever that is possible."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.deploy.tiles import starts
from keras_cnn.errors import BadData, BadSpec


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype("uint8")


@pytest.fixture(scope="module")
def pointwise():
    """Answers each pixel from that pixel alone."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 1, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, keras.layers.Conv2D(4, 1, activation="softmax")(x), name="pointwise")


@pytest.mark.no_keras
@pytest.mark.parametrize("overlap", [0, 1, 7, 15])
@pytest.mark.parametrize("size", [16, 17, 31, 32, 33, 100])
def test_tiles_cover_a_side_and_share_what_they_should(size, overlap):
    found = starts(size, 16, overlap)
    assert found[0] == 0 and found[-1] + 16 == size
    assert all(0 < after - before <= 16 - overlap for before, after in itertools.pairwise(found))
    fewer = len(found) - 1
    assert fewer == 0 or fewer * (16 - overlap) + overlap < size, "fewer would do"


@pytest.mark.parametrize("tile", [16, (16, 24), (64, 16)])
@pytest.mark.parametrize("overlap", [0, 5, 12])
def test_a_pointwise_network_says_the_same_to_the_bit(pointwise, tile, overlap):
    """Up to the order of sums in a convolution of another size, so that the scores are first rounded by the network."""
    image = photo(50, 71)
    exact = keras.Model(pointwise.input, keras.ops.round(pointwise.output * 64) / 64)
    found = kc.predict_tiles(exact, image, tile=tile, overlap=overlap, batch_size=3)
    assert found.dtype == "float32" and found.shape == (50, 71, 4)
    np.testing.assert_array_equal(found, exact.predict_on_batch(image[None])[0])
    assert len(np.unique(found)) > 4


@pytest.fixture(scope="module")
def unet():
    model = kc.build("resnet20", head=kc.UNet(classes=3, decoder=(16, 16)), input_shape=(None, None, 3))
    arrays.assign(model, seeded.arrays({key: tuple(v.shape) for key, v in arrays.variables(model).items()}))
    return model


def test_a_unet_differs_little_and_less_the_more_tiles_share(unet):
    """Blended tiles are nearer to the whole than tiles side by side are, on the mean and at their worst."""
    image = photo(128, 128)
    whole = unet.predict_on_batch(image[None])[0]
    off = [np.abs(kc.predict_tiles(unet, image, tile=64, overlap=n) - whole) for n in (0, 16, 48)]
    means, worst = [o.mean() for o in off], [o.max() for o in off]
    assert means[0] > means[1] > means[2] and worst[2] < worst[0]
    assert means[2] < 0.1 * np.abs(whole - whole.mean((0, 1))).mean()


def test_seams_do_not_show(unet):
    """From one pixel to the next there is no larger step than the tiles and the whole have themselves."""
    image = photo(64, 96)
    step = lambda scores, x: np.abs(scores[:, x] - scores[:, x - 1]).mean()  # noqa: E731
    whole = unet.predict_on_batch(image[None])[0]
    found = kc.predict_tiles(unet, image, tile=64, overlap=32)
    largest = max(step(whole, x) for x in range(1, 96))
    assert max(step(found, x) for x in (32, 64)) <= largest


def test_a_small_image_is_seen_whole(unet):
    image = photo(40, 50)
    found = kc.predict_tiles(unet, image, tile=64)
    np.testing.assert_array_equal(found, unet.predict_on_batch(image[None])[0])
    assert kc.predict_tiles(unet, photo(40, 150), tile=64).shape == (40, 150, 3)


def test_a_network_of_one_size_gives_its_own_tiles(unet):
    fixed = kc.build("resnet20", head=kc.UNet(classes=3, decoder=(16, 16)), input_shape=(32, 40, 3))
    fixed.set_weights(unet.get_weights())
    image = photo(70, 90)
    expected = kc.predict_tiles(unet, image, tile=(32, 40), overlap=8)
    np.testing.assert_allclose(kc.predict_tiles(fixed, image), expected, atol=1e-5)
    with pytest.raises(BadSpec, match="32x40 only"):
        kc.predict_tiles(fixed, image, tile=64)
    with pytest.raises(BadData, match="20x90 is smaller than the 32x40"):
        kc.predict_tiles(fixed, photo(20, 90))


def test_the_network_sees_a_batch_at_once(pointwise):
    """However large the image: as many tiles as asked for, and never more."""
    seen = []

    class Watched:
        name, input_shape = "watched", (None, None, None, 3)

        def predict_on_batch(self, images):
            seen.append(images.shape)
            return pointwise.predict_on_batch(images)

    kc.predict_tiles(Watched(), photo(64, 100), tile=32, overlap=0, batch_size=3)
    assert {shape[1:] for shape in seen} == {(32, 32, 3)} and [shape[0] for shape in seen] == [3, 3, 2]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, BadSpec, "give tile="),
        ({"tile": 0}, BadSpec, "tile=0"),
        ({"tile": (8, 8, 8)}, BadSpec, "tile="),
        ({"tile": 32, "overlap": 32}, BadSpec, "not including, the tile's 32"),
        ({"tile": 32, "overlap": -1}, BadSpec, "overlap=-1"),
        ({"tile": 32, "batch_size": 0}, BadSpec, "batch_size=0"),
    ],
)
def test_what_cannot_be_is_refused(pointwise, options, error, says):
    with pytest.raises(error, match=says):
        kc.predict_tiles(pointwise, photo(40, 40), **options)


def test_what_is_no_image_or_no_answer_for_each_pixel_is_refused(pointwise):
    for wrong in (photo(40, 40)[None], photo(40, 40)[..., :1]):
        with pytest.raises(BadData, match="give one image"):
            kc.predict_tiles(pointwise, wrong, tile=32)
    with pytest.raises(BadSpec, match="not scores of each pixel"):
        kc.predict_tiles(kc.build("resnet20", input_shape=(None, None, 3)), photo(40, 40), tile=32)
