"""Augmentation: what each level does to pixels and labels, that a key gives it bit for bit; subsets of a data set."""

import dataclasses
import importlib.util
import os
import random
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import folder, noise

from keras_cnn import data
from keras_cnn.data import augment
from keras_cnn.data.augment import AUGMENTS, Level
from keras_cnn.errors import BadSpec
from keras_cnn.models.config import Preprocess

tf = pytest.importorskip("tensorflow")

SMALL = Preprocess(size=(16, 20), crop=1.0)
STRONG = ["medium", "heavy"]


def noises(count=12, height=16, width=20, channels=3):
    return np.stack([noise(height, width, channels, seed=i) for i in range(count)])


def mapped(level, images, labels=None, *, steps=((0, 0),), seed=0, classes=4, parallel=None, threads=0, **options):
    """What the level makes of the same batch at each (epoch, step): [(images, labels)]."""
    labels = np.arange(len(images), dtype=np.int32) % classes if labels is None else labels
    change = augment.augmenter(level, channels=images.shape[-1], classes=classes, seed=seed, **options)
    keys = tf.data.Dataset.from_tensor_slices(np.array(steps, np.int64))
    batches = keys.map(
        lambda key: change(tf.constant(images), tf.constant(labels), key[0], key[1]), num_parallel_calls=parallel
    )
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = threads
    return [(x.numpy(), y.numpy()) for x, y in batches.with_options(settings)]


def equal(some, others):
    return all(
        np.array_equal(left, right)
        for one, other in zip(some, others, strict=True)
        for left, right in zip(one, other, strict=True)
    )


def one_pass(batches):
    return [(x.numpy(), y.numpy()) for x, y in batches]


# --- one key, one batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["held", "streamed"])
def test_batches_follow_from_seed_pass_and_step_alone(tmp_path, cache_bytes):
    root = folder(tmp_path, {"a": 11, "b": 11})

    def load(**options):
        return data.load_data(root, SMALL, batch_size=5, augment="heavy", cache_bytes=cache_bytes, **options)

    loaded = load()
    passes = [one_pass(loaded.train) for _ in range(3)]
    assert [len(x) for x, _ in passes[0]] == [5, 5, 5, 3]  # 3 images, of which most operations get none
    assert not equal(passes[0], passes[1])
    keras.utils.set_random_seed(9)  # which must not matter
    resumed = load()
    next(iter(resumed.train))  # nor what was drawn before
    resumed.seek(2)
    assert equal(one_pass(resumed.train), passes[2])
    loaded.seek(1)
    assert equal(one_pass(loaded.train), passes[1])
    assert not equal(one_pass(load(seed=1).train), passes[0])


def test_parallel_calls_threads_and_earlier_batches_do_not_matter():
    images, steps = noises(), [(epoch, step) for epoch in (0, 1) for step in range(6)]
    alone = mapped(AUGMENTS["heavy"], images, steps=steps)
    assert equal(alone, mapped(AUGMENTS["heavy"], images, steps=steps, parallel=8, threads=8))
    assert equal(alone[:3:-1], mapped(AUGMENTS["heavy"], images, steps=steps[:3:-1], parallel=3, threads=1))


def test_every_seed_pass_and_step_draws_anew():
    # Keras takes seeds modulo 2**31 - 2; a pass must not repeat the steps of another for it.
    steps = [(epoch, step) for epoch in (0, 1, 2, 4000) for step in (0, 1, 4, 8)]
    batches = [x for seed in (0, 1) for x, _ in mapped(AUGMENTS["medium"], noises(), steps=steps, seed=seed)]
    assert len({x.tobytes() for x in batches}) == 2 * len(steps)


def test_neither_python_nor_a_policy_of_keras_changes_anything():
    images = noises()
    before = mapped(AUGMENTS["heavy"], images)
    state = random.getstate()  # from which Keras seeds kernels
    policy, order = keras.config.dtype_policy(), keras.config.image_data_format()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.set_image_data_format("channels_first")
        assert equal(mapped(AUGMENTS["heavy"], images), before)
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(order)
    assert random.getstate() == state


ON_JAX = """
import sys, zlib
import keras, numpy as np, tensorflow as tf
from keras_cnn.data import augment
assert keras.backend.backend() == "jax"
images = np.load(sys.argv[1])
change = augment.augmenter(augment.AUGMENTS["heavy"], channels=3, classes=4, seed=0)
labels = tf.range(len(images)) % 4
steps = tf.data.Dataset.range(2).map(lambda step: change(tf.constant(images), labels, tf.constant(0, tf.int64), step))
print([zlib.crc32(x.numpy().tobytes()) for x, _ in steps])
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_networks_on_jax_get_the_same_batches(tmp_path):
    np.save(tmp_path / "images.npy", noises())
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(data.__file__).parents[2]), *sys.path])
    command = [sys.executable, "-c", ON_JAX, str(tmp_path / "images.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    batches = mapped(AUGMENTS["heavy"], noises(), steps=[(0, 0), (0, 1)])
    assert done.stdout.strip() == str([zlib.crc32(x.tobytes()) for x, _ in batches]), done.stderr[-2000:]


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "expected"), [("shift", 2886340342), ("light", 2856452224)])
def test_shift_and_light_keep_the_bits_they_have_always_had(level, expected):
    (images, labels), *_ = mapped(AUGMENTS[level], noises(16, 20, 30), steps=[(3, 5)], seed=7)
    assert zlib.crc32(images.tobytes()) == expected
    assert labels.tolist() == [0, 1, 2, 3] * 4 and labels.dtype == np.int32


@pytest.mark.parametrize(("level", "mirrors"), [("light", True), ("shift", False)])
def test_light_images_are_shifted_or_mirrored_originals(level, mirrors):
    # The value of a pixel tells its place, so that the shift can be read off and checked by plain numpy.
    rows, columns = np.meshgrid(np.arange(20), np.arange(30), indexing="ij")
    image = np.stack([rows, columns, rows * 0 + 7], -1).astype(np.uint8)
    batch = np.repeat(image[None], 64, 0)
    moved, _ = mapped(AUGMENTS[level], batch)[0]
    assert moved.shape == batch.shape and moved.dtype == np.uint8 and not np.array_equal(moved, batch)
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    options = {
        (dy, dx, flip): padded[dy : dy + 20, dx : dx + 30][:, :: -1 if flip else 1]
        for dy in range(5)
        for dx in range(7)
        for flip in (False, True)
    }
    seen = [next(key for key, value in options.items() if np.array_equal(value, one)) for one in moved]
    assert {dy for dy, _, _ in seen} == set(range(5)) and {dx for _, dx, _ in seen} == set(range(7))
    assert {flip for _, _, flip in seen} == ({False, True} if mirrors else {False})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("level", STRONG)
def test_images_of_any_channels_stay_uint8_and_are_all_changed(level, channels):
    images = noises(32, channels=channels)
    images[..., 3:] = 77
    changed, _ = mapped(AUGMENTS[level], images)[0]
    assert changed.dtype == np.uint8 and changed.shape == images.shape
    assert all(not np.array_equal(*pair) for pair in zip(changed, images, strict=True))
    assert (changed[..., 3:] == 77).all()  # alpha, the same everywhere, is neither brightened nor erased


@pytest.mark.parametrize("name", [*augment.WARPS, *augment.TONES])
def test_operations_grow_with_magnitude_and_keep_what_a_photograph_shows(name, monkeypatch):
    rows, columns = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48), indexing="ij")
    blob = 60 + 150 * np.exp(-4 * (rows**2 + columns**2))
    image = np.stack([blob, 0.8 * blob, 200 - blob / 2], -1).astype(np.uint8)
    for table in ("WARPS", "TONES"):
        monkeypatch.setattr(augment, table, {key: at for key, at in getattr(augment, table).items() if key == name})
    distance = []
    for magnitude in (0.5, 1.0):
        changed = mapped(Level(operations=1, magnitude=magnitude), np.repeat(image[None], 24, 0))[0][0]
        distance.append(np.abs(changed.astype(float) - image).mean())
        if name in augment.WARPS:  # by reflection: nothing empty comes in
            assert image.min() <= changed.min() and changed.max() <= image.max()
        else:
            assert min(np.corrcoef(one[..., 0].ravel(), blob.ravel())[0, 1] for one in changed) > 0.8
    assert 0 < distance[0] <= distance[1]


def test_every_image_draws_its_own_operation_and_keeps_its_place():
    images = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None, None], 2, 1)
    operations = [lambda x, draws, i=i: x + tf.constant(i, tf.uint8) for i in range(5)]
    change = augment._one_of(operations, [0.1, 0.2, 0.0, 0.4, 0.3])
    changed = change(tf.constant(images), augment._draws(tf.constant([1, 2], tf.int64))).numpy()
    added = (changed - images)[:, :, 0, 0]
    assert (added == added[:, :1]).all() and changed.shape == images.shape
    counts = np.bincount(added[:, 0], minlength=5)
    assert counts[2] == 0 and (np.abs(counts - np.array([20, 40, 0, 80, 60])) < 4 * np.sqrt(50)).all()


def test_a_gray_rectangle_covers_the_wanted_share_of_images():
    images = np.full((400, 20, 30, 1), 9, np.uint8)
    erased = mapped(Level(erase=0.25), images)[0][0][..., 0] != 9
    hit = erased.any((1, 2))
    assert 65 < hit.sum() < 135  # 100 expected, 4 deviations
    areas = []
    for one in erased[hit]:
        box = one[np.ix_(one.any(1), one.any(0))]
        assert box.all()
        areas.append(box.size / one.size)
    assert 0.005 < min(areas) < 0.1 and 0.2 < max(areas) < 0.45


def test_glyphs_are_never_mirrored_at_any_level():
    images = np.zeros((128, 40, 40, 1), np.uint8)
    images[:, :, 20:] = 255

    def mirrored(level, chiral):
        left, right = np.split(mapped(level, images, chiral=chiral)[0][0].astype(float), 2, axis=2)
        return (left.mean((1, 2, 3)) > right.mean((1, 2, 3))).sum()

    for level in ("light", "medium"):
        assert mirrored(AUGMENTS[level], True) == 0
        assert 40 < mirrored(AUGMENTS[level], False) < 88
    unmixed = dataclasses.replace(AUGMENTS["heavy"], mix=False)
    assert mirrored(unmixed, True) == 0 and mirrored(unmixed, False) > 40


def test_glyphs_are_not_continued_by_their_mirror_image(monkeypatch):
    monkeypatch.setattr(augment, "WARPS", {"RandomTranslation": augment.WARPS["RandomTranslation"]})
    monkeypatch.setattr(augment, "TONES", {})
    images = np.zeros((64, 40, 40, 1), np.uint8)
    images[:, 18:22, 2:6] = 240  # a dot beside the border: reflected, it would be there twice

    def most(chiral):
        level = Level(operations=1, magnitude=1.0)
        return mapped(level, images, chiral=chiral)[0][0].sum((1, 2, 3), dtype=float).max() / images[0].sum()

    assert most(True) < 1.05 and most(False) > 1.5


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels_share_a_mixed_image_as_its_pixels_do():
    # Image i is of class i and of value 10 i all over, so that its pixels tell what went into a mixture.
    count, height, width = 12, 24, 30
    values = 10 * np.arange(count)
    images = np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (count, height, width, 3))
    steps = [(0, step) for step in range(40)]
    batches = mapped(Level(mix=True), images, np.arange(count, dtype=np.int32), steps=steps, classes=count)
    mixups = 0
    for mixed, shares in batches:
        assert shares.dtype == np.float32 and shares.shape == (count, count) and (shares >= 0).all()
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
        assert ((shares > 0).sum(1) <= 2).all() and (shares[np.arange(count), np.arange(count)] > 0).any()
        if (mixed == mixed[:, :1, :1]).all() and not np.isin(mixed, values).all():  # MixUp: values between two others
            mixups += 1
            np.testing.assert_allclose(mixed[:, 0, 0, 0], shares @ values, atol=0.51)
        else:  # CutMix: whole pixels of two images
            pixels = (mixed[..., 0].reshape(count, -1)[:, :, None] == values).mean(1)
            np.testing.assert_allclose(pixels.sum(1), 1)
            np.testing.assert_allclose(pixels, shares, atol=1 / height + 1 / width)
    assert 8 < mixups < 32


def test_only_train_is_augmented_and_only_its_labels_are_mixed(tmp_path):
    loaded = data.load_data(folder(tmp_path, {"a": 8, "b": 8}), SMALL, augment="heavy", batch_size=4)
    assert [spec.dtype.name for spec in loaded.train.element_spec] == ["uint8", "float32"]
    assert loaded.train.element_spec[0].shape.as_list() == [None, 16, 20, 3]
    assert loaded.train.element_spec[1].shape.as_list() == [None, 2]
    for batches, name in ((loaded.val, "val"), (loaded.plain, "train")):
        images, labels = (np.concatenate(part) for part in zip(*one_pass(batches), strict=True))
        np.testing.assert_array_equal(images, loaded.arrays(name).images)
        np.testing.assert_array_equal(labels, loaded.arrays(name).labels)
        assert labels.dtype == np.int32


def test_an_unknown_level_is_refused_with_the_choices():
    with pytest.raises(BadSpec, match=r"augment='severe': .*None, 'shift', 'light', 'mix', 'crop', 'medium', 'heavy'"):
        data.load_data("digits", SMALL, augment="severe")


# --- subsets --------------------------------------------------------------------------------------------------------

COUNTS = {"a": 9, "b": 4, "c": 14}


@cache
def whole():
    return data.load_data("digits", Preprocess(size=(8, 8), crop=1.0).for_channels(1), augment="light", batch_size=64)


@settings(max_examples=30, deadline=None)
@given(small=st.integers(1, 200), more=st.integers(0, 100), seed=st.integers(0, 3))
def test_subsets_are_nested_balanced_and_in_order(small, more, seed):
    few, many = (whole().subset(count, seed) for count in (small, small + more))
    for part, most in ((few, small), (many, small + more)):
        full = whole().counts["train"]
        assert part.counts["train"] == {name: min(most, count) for name, count in full.items()}
        assert part.sizes["val"] == whole().sizes["val"] and part.arrays("val") is whole().arrays("val")
    places = {source.key: i for i, source in enumerate(whole().splits.train.sources)}
    few_at, many_at = ([places[source.key] for source in part.splits.train.sources] for part in (few, many))
    assert set(few_at) <= set(many_at) and few_at == sorted(few_at)
    np.testing.assert_array_equal(few.arrays().images, whole().arrays().images[few_at])
    np.testing.assert_array_equal(few.arrays().labels, whole().arrays().labels[few_at])


def test_a_subset_has_passes_of_its_own():
    loaded = whole()
    first, again, other = loaded.subset(5), loaded.subset(5), loaded.subset(5, seed=1)
    one_pass(loaded.train.take(1))
    passes = [one_pass(first.train) for _ in range(2)]
    assert equal(passes[0], one_pass(again.train)) and not equal(*passes)
    assert not np.array_equal(first.arrays().images, other.arrays().images)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in one_pass(first.plain)]), first.arrays().images)
    with pytest.raises(BadSpec, match="per_class=0"):
        loaded.subset(0)


def test_held_and_streamed_subsets_agree_and_miss_the_unreadable(tmp_path):
    root = folder(tmp_path, {f"train/{name}": count for name, count in COUNTS.items()} | {"val/a": 1})
    (root / "train/a/000.png").write_bytes(b"x")
    held = data.load_data(root, SMALL, skip_bad=True).subset(8)
    names = [source.name for source in held.splits.train.sources]
    assert held.counts["train"] == {"a": 8, "b": 4, "c": 8} and str(root / "train/a/000.png") not in names
    expected = [data.load_image(source.read(), SMALL) for source in held.splits.train.sources]
    np.testing.assert_array_equal(held.arrays().images, np.stack(expected))
    (root / "train/a/000.png").unlink()
    held, streamed = (data.load_data(root, SMALL, cache_bytes=room).subset(3) for room in (1 << 30, 0))
    np.testing.assert_array_equal(held.arrays().images, streamed.arrays().images)
    assert equal(one_pass(held.train), one_pass(streamed.train))
