"""Random parts of whole photographs: which, how they are resized, that a key gives them; what is left as it was."""

import dataclasses
import io

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode, folder, noise, picture
from PIL import Image

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.data import crops, index, survey
from keras_cnn.data.augment import AUGMENTS
from keras_cnn.data.files import Source
from keras_cnn.models.config import Preprocess

tf = pytest.importorskip("tensorflow")

SMALL = Preprocess(size=(16, 20), crop=1.0)
COUNTS = {"train/a": 7, "train/b": 6, "val/a": 2, "val/b": 3}


@pytest.fixture
def photos(tmp_path):
    """Noise of 41 x 63 pixels and a few more."""
    return folder(tmp_path, COUNTS, size=(41, 63))


def load(root, **options):
    return data.load_data(root, SMALL, **{"augment": "crop", "batch_size": 5, **options})


def one_pass(batches):
    return [(x.numpy(), y.numpy()) for x, y in batches]


def equal(some, others):
    return all(np.array_equal(x, z) and np.array_equal(y, w) for (x, y), (z, w) in zip(some, others, strict=True))


def alike(some, others):
    """The same labels, and images that go together: one way squashes photos before it takes parts of them."""
    return all(
        np.array_equal(y, w) and np.corrcoef(x.ravel().astype(float), z.ravel().astype(float))[0, 1] > 0.8
        for (x, y), (z, w) in zip(some, others, strict=True)
    )


# --- which photos, and at what size ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(100, 100)], (32, 40)),  # twice the network's size
        ([(24, 30)], (24, 30)),  # the photos' own
        ([(24, 300)], (24, 30)),  # the side that has less to choose from decides
        ([(17, 40)], None),  # hardly larger
        ([(8, 8)], None),
        ([(8, 8), (24, 30), (100, 100)], (24, 30)),  # the median
    ],
)
def test_photos_are_held_at_up_to_twice_the_networks_size(sizes, expected):
    sources = [Source("", "", lambda size=size: io.BytesIO(encode(noise(*size)))) for size in sizes]
    bad = Source("", "", lambda: io.BytesIO(b"no photo"))
    assert crops.canvas(survey.look(sources).sizes, SMALL) == expected
    assert crops.canvas(survey.look([*sources, bad]).sizes, SMALL) == expected
    assert crops.canvas(survey.look(sources).sizes, dataclasses.replace(SMALL, interpolation="nearest")) is None


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_data_says_what_it_crops_from(photos, augment):
    cropped = augment in ("crop", "medium", "heavy")
    loaded = load(photos, augment=augment)
    assert loaded.canvas == ((32, 40) if cropped else None)
    assert (loaded.held["train"].photos is not None) == bool(cropped)


def test_parts_of_glyphs_are_not_taken(photos):
    signs = dataclasses.replace(index(photos), chiral=True)
    assert load(signs).canvas is None
    shifted = one_pass(load(signs, augment="shift").train)
    assert equal(one_pass(load(signs).train), shifted)  # nor are they mirrored


# --- parts ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(stretch=st.floats(0.2, 5.0), seed=st.integers(0, 1000))
def test_parts_lie_within_the_photo_and_keep_their_shape(stretch, seed):
    parts = crops.boxes(tf.fill([500], stretch), tf.constant([seed, 0], tf.int64)).numpy().astype(float)
    top, left, height, width = parts.T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    shape = width / height * stretch
    assert (shape > 1 / crops.RATIO - 1e-4).all() and (shape < crops.RATIO + 1e-4).all()


def test_parts_of_a_square_have_every_area_from_the_least_to_all():
    area = np.prod(crops.boxes(tf.ones(4000), tf.constant([1, 2], tf.int64)).numpy()[:, 2:], 1)
    assert crops.LEAST - 1e-5 < area.min() < crops.LEAST + 0.01 and 0.98 < area.max() <= 1 + 1e-5


def means(photo, size):
    """A photo shrunk: each pixel the mean of those that it covers, by how much of them it does."""
    for axis, (side, wanted) in enumerate(zip(photo.shape[:2], size, strict=True)):
        edges = np.arange(wanted + 1) * side / wanted
        covered = np.minimum(edges[1:, None], np.arange(1, side + 1)) - np.maximum(edges[:-1, None], np.arange(side))
        photo = np.moveaxis(np.tensordot(np.clip(covered, 0, 1) * wanted / side, photo, (1, axis)), 0, axis)
    return photo


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_part_is_the_mean_of_what_it_covers(channels):
    photo = noise(40, 60, channels)
    parts = np.array([[0, 0, 1, 1], [0.25, 0.1, 0.5, 0.7], [0.1, 0.6, 0.6, 0.4]], np.float32)
    found = crops.cut(tf.constant(np.stack([photo] * 3)), tf.constant(parts), (16, 20)).numpy()
    assert found.dtype == np.uint8 and found.shape == (3, 16, 20, channels)
    for one, box in zip(found, [(0, 40, 0, 60), (10, 30, 6, 48), (4, 28, 36, 60)], strict=True):
        np.testing.assert_allclose(one, means(photo[box[0] : box[1], box[2] : box[3]], (16, 20)), atol=0.51)


def test_a_part_with_fewer_pixels_is_enlarged_as_pillow_does():
    photo = noise(40, 60)
    (found,) = crops.cut(tf.constant(photo[None]), tf.constant([[0.25, 0.1, 0.2, 0.3]]), (16, 20)).numpy()
    expected = picture(photo[10:18, 6:24]).resize((20, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.array(expected).astype(int), atol=1)  # Pillow rounds twice


def test_all_of_a_photo_at_its_own_size_is_itself():
    photos = np.stack([noise(16, 20, seed=seed) for seed in range(3)])
    everything = tf.constant([[0, 0, 1, 1]] * 3, tf.float32)
    np.testing.assert_array_equal(crops.cut(tf.constant(photos), everything, (16, 20)), photos)


@pytest.mark.parametrize(("mode", "stretch"), [("center", 1.6), ("squash", 1.0)])
def test_a_whole_photo_is_squashed_and_knows_by_how_much(mode, stretch):
    photo = noise(40, 80)
    held, found = crops.whole(photo, (32, 40), dataclasses.replace(SMALL, mode=mode))
    assert found == stretch
    np.testing.assert_array_equal(held, np.array(picture(photo).resize((40, 32), Image.Resampling.BICUBIC)))


# --- passes ---------------------------------------------------------------------------------------------------------


def test_parts_follow_from_seed_pass_and_step_alone(photos):
    loaded = load(photos)
    passes = [one_pass(loaded.train) for _ in range(3)]
    assert [x.shape for x, _ in passes[0]] == [(5, 16, 20, 3), (5, 16, 20, 3), (3, 16, 20, 3)]
    assert not equal(passes[0], passes[1])
    resumed = load(photos)
    resumed.seek(2)
    assert equal(one_pass(resumed.train), passes[2])
    assert not equal(one_pass(load(photos, seed=1, val_split=0).train), passes[0])


def test_every_image_of_a_batch_is_another_part(photos):
    """Of one photo, whose pixels tell their place; mirrored for half of them, unless it may not be."""
    rows, columns = np.meshgrid(np.arange(64.0), np.arange(80.0), indexing="ij")
    photo = np.stack([3 * rows, 3 * columns, 0 * rows], -1).astype(np.uint8)
    for place, count in COUNTS.items():
        for i in range(count):
            (photos / place / f"{i:03}.png").write_bytes(encode(photo))
    (batch, _), *_ = one_pass(load(photos, batch_size=13).train)
    assert len({one.tobytes() for one in batch}) == 13
    rising = [one[..., 1].astype(int)[:, -1].mean() > one[..., 1].astype(int)[:, 0].mean() for one in batch]
    assert 0 < sum(rising) < 13
    assert all(one[-1, :, 0].mean() > one[0, :, 0].mean() for one in batch)  # never upside down


def test_photos_that_fill_the_memory_are_decoded_anew_into_the_same_parts(photos):
    seen, whole = (18 * 16 * 20 * 3, 13 * 32 * 40 * 3)
    held = load(photos, cache_bytes=seen + whole)
    assert held.held["train"].photos is not None
    for room in (seen + whole - 1, 0):
        streamed = load(photos, cache_bytes=room)
        assert streamed.canvas == held.canvas
        assert "train" not in streamed.held or streamed.held["train"].photos is None
        held.seek(0)
        assert all(alike(one_pass(streamed.train), one_pass(held.train)) for _ in range(2))
    assert "train" in load(photos, cache_bytes=seen).held


def test_unreadable_photos_are_left_out_of_parts_too(photos):
    (photos / "train/a/003.png").write_bytes(b"no photo")
    seen = 18 * 16 * 20 * 3
    for room in (1 << 30, seen, 0):
        loaded = load(photos, skip_bad=True, cache_bytes=room)
        batches = one_pass(loaded.train)
        sizes = [len(y) for _, y in batches]  # not known beforehand, it is missing in the batch that it would be in
        assert (sizes == [5, 5, 2] if room else sum(sizes) == 12) and loaded.skipped == [
            str(photos / "train/a/003.png")
        ]
        assert sorted(np.concatenate([y for _, y in batches])) == [0] * 6 + [1] * 6


def test_photos_that_are_hardly_larger_are_shifted_instead(tmp_path):
    root = folder(tmp_path, COUNTS, size=(16, 20))
    assert load(root).canvas is None
    assert equal(one_pass(load(root).train), one_pass(load(root, augment="light").train))


def test_a_subset_takes_its_whole_photos_along(photos):
    held, streamed = (load(photos, cache_bytes=room).subset(4) for room in (1 << 30, 0))
    photos_held = held.held["train"].photos
    assert photos_held is not None and photos_held.shape == (8, 32, 40, 3)
    assert alike(one_pass(held.train), one_pass(streamed.train))


# --- what is judged, and what features are taken of, is as it was ----------------------------------------------------


def test_evaluation_sees_the_pixels_that_it_always_saw(photos):
    loaded = load(photos)
    for name, batches in (("train", loaded.plain), ("val", loaded.val)):
        sources = dict(loaded.splits.items())[name].sources
        expected = np.stack([data.load_image(source.read(), SMALL) for source in sources])
        np.testing.assert_array_equal(loaded.arrays(name).images, expected)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in one_pass(batches)]), expected)


def test_a_head_learns_on_features_of_images_as_at_prediction(photos, tmp_path):
    ends = []
    for augment in (None, "crop"):
        keras.utils.set_random_seed(0)
        net = kc.build("resnet20", classes=("a", "b"), input_shape=(16, 16, 3))
        loaded = data.load_data(photos, net, augment=augment, batch_size=5)
        assert (loaded.canvas is None) == (augment is None)
        kc.fine_tune(net, loaded, schedule="head", head_epochs=2, probe=False, cache=tmp_path / "cache", verbose=0)
        ends.append(net.get_weights())
    assert all(map(np.array_equal, *ends))
