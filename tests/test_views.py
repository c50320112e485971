"""Answers as the mean over views: an image and its mirror image, or its corners and its centre."""

from dataclasses import replace

import images
import keras
import numpy as np
import pytest
from PIL import Image

import keras_cnn as kc
from keras_cnn.data import read_image, resize_and_crop
from keras_cnn.data.images import five_crops
from keras_cnn.errors import BadSpec
from keras_cnn.models.config import Preprocess

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


# --- parts of a photo -----------------------------------------------------------------------------------------------


def photos(folder, sides=((20, 30), (31, 22), (24, 24))):
    """Photos of several shapes, in two classes; their paths."""
    paths = [folder / "ab"[i % 2] / f"{i}.png" for i in range(len(sides))]
    for i, (path, (height, width)) in enumerate(zip(paths, sides, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(images.noise(height, width, seed=i)))
    return paths


def resized(image, preprocess):
    """The whole photo as torchvision's Resize(floor(size / crop)) leaves it: uint8 (height, width, channels)."""
    short = int(preprocess.size[0] / preprocess.crop)
    height, width = image.shape[:2]
    tall, wide = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    return np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("height,width", [(20, 30), (31, 22), (24, 24), (400, 301), (12, 12)])
def test_five_crops_are_those_of_torchvision(height, width):
    """FiveCrop(16) behind Resize(18): slices of the resized photo, the centre as at prediction."""
    preprocess, image = Preprocess(size=(16, 16)), images.noise(height, width)
    whole = resized(image, preprocess)
    tall, wide = (side - 16 for side in whole.shape[:2])
    places = [(0, 0), (0, wide), (tall, 0), (tall, wide), (round(tall / 2), round(wide / 2))]
    expected = np.stack([whole[top : top + 16, left : left + 16] for top, left in places])
    found = five_crops(image, preprocess)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[-1], resize_and_crop(image, preprocess))


def test_five_crops_of_weights_that_see_the_whole_photo():
    preprocess, image = Preprocess(size=(16, 16), crop=1.0), images.noise(40, 40)
    found = five_crops(image, preprocess)
    np.testing.assert_array_equal(found[-1], resize_and_crop(image, preprocess))
    larger = resized(image, replace(preprocess, crop=0.875))
    assert larger.shape[:2] == (18, 18)
    np.testing.assert_array_equal(found[:4], [larger[:16, :16], larger[:16, 2:], larger[2:, :16], larger[2:, 2:]])


@pytest.mark.parametrize("views", ["five", "ten"])
@pytest.mark.parametrize("task", ["classification", "multilabel", "binary", "regression"])
def test_answers_are_the_mean_over_parts_of_a_photo(task, views, tmp_path):
    paths = photos(tmp_path / "photos")
    outputs = {"classification": {"classes": ["a", "b"]}, "multilabel": {"classes": ["a", "b"], "task": task}}
    outputs |= {"binary": {"classes": ["a", "b"], "task": task}, "regression": {"targets": ("age",), "task": task}}
    keras.utils.set_random_seed(0)
    net = kc.build("resnet20", depths=(1, 1, 1), preprocess=Preprocess(size=(16, 16)), **outputs[task])
    plain, several = kc.predictor(net), kc.predictor(net, views=views, batch_size=2)
    crops = np.stack([five_crops(read_image(path), Preprocess.of(net)) for path in paths])
    turns = (1, -1) if views == "ten" else (1,)
    seen = [np.ascontiguousarray(crops[:, i, :, ::turn]) for i in range(5) for turn in turns]
    expected = np.mean([plain.scores(part) for part in seen], axis=0)
    np.testing.assert_allclose(several.scores([str(path) for path in paths]), expected, atol=1e-6)
    assert np.abs(expected - plain.scores([str(path) for path in paths])).max() > 1e-5
    if task == "classification":
        result = kc.evaluate(net, tmp_path / "photos", views=views)
        order = [[name.endswith(path.name) for name in result.names].index(True) for path in paths]
        np.testing.assert_allclose(result.outputs[order], expected, atol=1e-6)


@pytest.mark.parametrize("views", ["five", "ten"])
def test_images_that_were_trained_on_are_known_in_their_parts(tmp_path, views):
    photos(tmp_path / "photos", ((20, 30),) * 10)
    net = network(preprocess=Preprocess(size=(16, 16)))
    data = kc.load_data(tmp_path / "photos", net, batch_size=4)
    kc.train(net, data, epochs=1, out=tmp_path / "run", verbose=0)
    result = kc.evaluate(tmp_path / "run", data, split="train", views=views)
    assert len(result) == 0 and len(result.trained_on) == data.sizes["train"]


@pytest.mark.parametrize("views", ["five", "ten"])
def test_parts_that_cannot_be_cut(tmp_path, views):
    net = network()
    for data in ((X, np.arange(6) % 2), kc.load_data({"train": (X, np.arange(6) % 2)}, net, val_split=0.0)):
        split = {} if isinstance(data, tuple) else {"split": "train"}
        with pytest.raises(BadSpec, match="cut from photos before they have the network's size"):
            kc.evaluate(net, data, views=views, **split)
    with pytest.raises(BadSpec, match="which arrays have already: give files, or views='mirror'"):
        kc.predictor(net, views=views)(X)
    told = {"depths": (1, 1, 1), "input_shape": (16, 16, 3)}
    unet = kc.build("resnet20", head=kc.UNet(classes=2, decoder=(8, 8, 8)), **told)
    with pytest.raises(BadSpec, match=f"views='{views}' are parts of an image, and this network answers every pixel"):
        kc.predictor(unet, views=views)
    tcn = kc.build("tcn", input_shape=(16, 2), classes=2, widths=(4,), dilations=(1,))
    with pytest.raises(BadSpec, match="this network reads sequences: leave it out"):
        kc.predictor(tcn, views=views)


def test_a_network_of_another_make_is_measured():
    net = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    for views in (None, "mirror"):
        assert len(kc.evaluate(net, (X, np.arange(6) % 2), views=views)) == 6
