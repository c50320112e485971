"""Features that are computed once: where a network is cut, what is kept on disk, and when it is not used."""

from __future__ import annotations

import importlib
import os
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn import files
from keras_cnn.data.examples import Batches, Examples
from keras_cnn.errors import CacheWarning
from keras_cnn.transfer import cache, split

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (20, 16, 16, 3), "uint8")
SHAPE = {"input_shape": (16, 16, 3), "classes": 3}


@pytest.fixture(scope="module")
def net():
    return kc.build("resnet20", freeze="stage3", **SHAPE)


@pytest.fixture(scope="module")
def lower(net):
    return split.divide(net)[0]


class Counting:
    """A network that counts the images it is shown; padding is black."""

    def __init__(self, network):
        self.network, self.seen, self.output_shape = network, 0, network.output_shape

    def predict_on_batch(self, images):
        self.seen += sum(image.any() for image in images)
        return self.network.predict_on_batch(images)


# --- the cut --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,freeze,last",
    [
        ("resnet20", "stage3", "head_pool"),
        ("resnet20", "stage2", "stage2_block3"),
        ("efficientnet_b0", "top", "head_pool"),
        ("inception_v3", "stage2", "stage2"),
        ("resnet18", "stage[12]_.*|stem_.*", "stage2_block2"),
    ],
)
def test_a_network_is_cut_as_high_as_it_is_frozen(name, freeze, last):
    size = 96 if name == "inception_v3" else 32
    model = kc.build(name, input_shape=(size, size, 3), classes=3, freeze=freeze)
    lower, upper = split.divide(model)
    assert lower.output._keras_history.operation.name.startswith(last)
    images = RNG.integers(0, 255, (2, size, size, 3), "uint8")
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(np.asarray(upper(lower(images, training=False), training=False)), expected, atol=1e-6)
    assert {v.path for v in upper.trainable_variables} == {v.path for v in model.trainable_variables}
    # What is below the cut gives the same in training: that is why it may be computed once.
    np.testing.assert_array_equal(np.asarray(lower(images, training=True)), np.asarray(lower(images, training=False)))


def test_nothing_is_cut_where_the_stem_learns_or_chance_rules():
    assert split.divide(kc.build("resnet20", **SHAPE)) is None
    assert split.divide(kc.freeze(kc.build("resnet20", drop_path_rate=0.5, **SHAPE), upto="stem"))
    model = kc.build("resnet20", drop_path_rate=0.5, freeze="stage3", **SHAPE)
    low = split.divide(model)[0].output._keras_history.operation.name
    assert low.startswith("stage1_block1")  # the first block's rate is 0, the next one's is not


def test_the_backbone_ends_below_the_whole_head():
    model = kc.build("resnet20", input_shape=(16, 16, 3), head=kc.Head(classes=3, hidden=(8,), dropout=0.5))
    lower, upper = split.backbone(model)
    assert lower.output_shape == (None, 64) and [v.path for v in upper.weights] == [
        v.path for v in model.weights if v.path.startswith("head")
    ]


# --- the order of batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count,batch", [(7, 3), (8, 4), (1, 4)])
def test_every_epoch_has_all_examples_in_an_order_of_its_own(count, batch):
    inputs, labels = np.arange(count * 2).reshape(count, 2), np.arange(count)

    def epochs(data, number):
        found = []
        for epoch in range(data.epoch, data.epoch + number):
            data.seek(epoch)
            found.append(np.concatenate([data[i][1] for i in range(len(data))]))
        return found

    first = epochs(Examples([(inputs, labels)], batch, seed=3), 4)
    assert all(sorted(epoch) == list(labels) for epoch in first)
    late = Examples([(inputs, labels)], batch, seed=3)
    late.seek(2)
    np.testing.assert_array_equal(epochs(late, 2), first[2:])
    if count > 5:
        assert len({tuple(epoch) for epoch in first}) == 4
    assert np.array_equal(epochs(Examples([(inputs, labels)], batch), 1)[0], labels)


def test_fit_sees_the_epochs_in_turn():
    seen = []

    class Watched(Examples):
        def __getitem__(self, index):
            if index == len(self) - 1:
                seen.append(self.epoch)
            return super().__getitem__(index)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = Watched([(np.zeros((9, 2), "float32"), np.zeros((9, 1), "float32"))], 2, seed=0)
    data.seek(5)
    follow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: data.seek(epoch))
    model.fit(data, initial_epoch=1, epochs=4, verbose=0, callbacks=[follow])
    assert seen[-3:] == [1, 2, 3] and set(seen) <= {1, 2, 3, 5}  # Keras peeks at a batch before the first epoch


def test_views_take_turns():
    data = Examples([(np.full(4, view), np.full(4, view)) for view in range(2)], 4, seed=0)
    found = []
    for epoch in range(5):
        data.seek(epoch)
        found.append(int(data[0][0][0]))
    assert found == [0, 1, 0, 1, 0]


# --- the store ------------------------------------------------------------------------------------------------------


def test_each_image_is_computed_once(lower, tmp_path):
    network, store = Counting(lower), cache.Store(lower, tmp_path)
    first = cache.features(network, [IMAGES[:8], IMAGES[8:16]], store)
    assert network.seen == 16
    again = cache.features(network, [IMAGES[4:]], cache.Store(lower, tmp_path))
    assert network.seen == 20  # the four that are new
    np.testing.assert_array_equal(again[:12], first[4:])
    np.testing.assert_allclose(again, lower.predict(IMAGES[4:], verbose=0), atol=1e-6)


def test_other_pixels_weights_numerics_or_cuts_are_other_features(net, lower, tmp_path):
    digests = {cache.digest(lower)}
    digests.add(cache.digest(split.divide(kc.build("resnet20", freeze="stage2", **SHAPE))[0]))
    other = kc.build("resnet20", freeze="stage3", **SHAPE)
    other.set_weights(net.get_weights())
    assert cache.digest(split.divide(other)[0]) in digests  # the same network, built again
    kernel = other.get_layer("stem_conv").kernel
    kernel.assign(kernel * np.float32(1 + 1e-6))
    digests.add(cache.digest(split.divide(other)[0]))
    pixels = kc.Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, size=(16, 16))
    other = kc.build("resnet20", freeze="stage3", preprocess=pixels, **SHAPE)
    other.set_weights(net.get_weights())
    digests.add(cache.digest(split.divide(other)[0]))
    assert len(digests) == 4
    one = IMAGES[:1].copy()
    one[0, 3, 3, 1] ^= 1
    store, network = cache.Store(lower, tmp_path), Counting(lower)
    cache.features(network, [IMAGES[:1]], store)
    cache.features(network, [one], store)
    assert network.seen == 2


@pytest.mark.parametrize("what", ["format", "package", "keras", "backend"])
def test_another_release_keeps_its_own_features(lower, what, monkeypatch):
    """Otherwise the features that it computes a little differently would be mixed with those that are there."""
    before = cache.digest(lower)
    backend = importlib.import_module(keras.backend.backend())
    module, name = {
        "format": (cache, "FORMAT"),
        "package": (cache, "version"),
        "keras": (keras, "__version__"),
        "backend": (backend, "__version__"),
    }[what]
    monkeypatch.setattr(module, name, (lambda package: "another") if what == "package" else "another")
    assert cache.digest(lower) != before
    monkeypatch.undo()
    assert cache.digest(lower) == before


def flip_value(store):
    with sqlite3.connect(store.path) as rows:
        image, value = rows.execute("SELECT image, value FROM features").fetchone()
        rows.execute("UPDATE features SET value = ? WHERE image = ?", (value[:9] + b"x" + value[10:], image))


def swap_values(store):
    """What damage to the pages of a database may amount to: each row is whole, and another image's."""
    with sqlite3.connect(store.path) as rows:
        (one, a), (other, b) = rows.execute("SELECT image, value FROM features").fetchall()[:2]
        rows.executemany("UPDATE features SET value = ? WHERE image = ?", [(b, one), (a, other)])


def no_value(store):
    with sqlite3.connect(store.path) as rows:
        rows.execute("UPDATE features SET value = NULL")


def text_value(store):
    with sqlite3.connect(store.path) as rows:
        rows.execute("UPDATE features SET value = 'text'")


def other_table(store):
    with sqlite3.connect(store.path) as rows:
        rows.execute("ALTER TABLE features RENAME TO others")


def page_layout(store):
    """Every row can be read; those that are put there later may overwrite each other."""
    content = bytearray(store.path.read_bytes())
    content[4096 + 7] = 200  # bytes that the second page, the table's, says lie idle between its rows
    store.path.write_bytes(content)


def no_database(store):
    store.path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("harm", [flip_value, swap_values, no_value, text_value, other_table, page_layout, no_database])
def test_a_damaged_file_is_put_aside_and_made_anew(lower, tmp_path, harm):
    store = cache.Store(lower, tmp_path)
    expected = cache.features(lower, [IMAGES[:3]], store)
    harm(store)
    with pytest.warns(CacheWarning, match=rf"{store.path.name} was damaged .* put aside, and its features are") as told:
        found = cache.features(lower, [IMAGES[:3]], cache.Store(lower, tmp_path))
    np.testing.assert_array_equal(found, expected)
    assert sum(issubclass(one.category, CacheWarning) for one in told) == 1
    assert store.path.with_name(store.path.name + ".damaged").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        kept = cache.features(None, [IMAGES[:3]], cache.Store(lower, tmp_path))
    np.testing.assert_array_equal(kept, expected)


def test_the_networks_used_longest_ago_make_room(lower, tmp_path):
    stores = {}
    for upto in ("stage1", "stage2"):
        network = split.divide(kc.build("resnet20", freeze=upto, **SHAPE))[0]
        stores[upto] = cache.Store(network, tmp_path)
        cache.features(network, [IMAGES[:2]], stores[upto])
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    store = cache.Store(lower, tmp_path, limit=size)
    cache.features(lower, [IMAGES[:2]], store)
    assert not stores["stage1"].path.exists() and stores["stage2"].path.exists() and store.path.exists()


def test_only_our_own_files_make_room(lower, tmp_path):
    """The folder is one that a person may have named, with work of theirs in it."""
    theirs = [tmp_path / name for name in ("mine.sqlite", "abc.sqlite", "A" * 32 + ".sqlite", "0" * 32 + ".sqlite.old")]
    for file in theirs:
        file.write_bytes(bytes(100_000))
    ours = tmp_path / ("0" * 32 + ".sqlite")
    ours.write_bytes(bytes(100_000))
    store = cache.Store(lower, tmp_path, limit=60_000)  # theirs alone are more: they do not count
    cache.features(lower, [IMAGES[:3]], store)
    assert store.usable and not ours.exists() and all(file.stat().st_size == 100_000 for file in theirs)


def _alone(store):
    store.path.unlink()


def _with_its_folder(store):
    _alone(store)
    store.path.parent.rmdir()


@pytest.mark.parametrize("remove", [_alone, _with_its_folder])
def test_a_file_that_another_process_removed_is_made_again(lower, tmp_path, remove):
    store = cache.Store(lower, tmp_path / "cache")
    cache.features(lower, [IMAGES[:8]], store)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        remove(store)
        assert store.get([b"any"]) == {}
        remove(store)
        found = cache.features(lower, [IMAGES[:8], IMAGES[8:16]], store)
    np.testing.assert_array_equal(cache.features(None, [IMAGES[:16]], cache.Store(lower, tmp_path / "cache")), found)


def test_rows_whose_file_is_removed_amid_the_writing_are_computed_but_later_ones_kept(lower, tmp_path, monkeypatch):
    store, pack, removed = cache.Store(lower, tmp_path), cache._pack, []

    def unlucky(*row):
        if not removed:
            removed.append(store.path.unlink())
        return pack(*row)

    monkeypatch.setattr(cache, "_pack", unlucky)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        found = cache.features(lower, [IMAGES[:8], IMAGES[8:16]], store)
    np.testing.assert_allclose(found, lower.predict(IMAGES[:16], verbose=0), atol=1e-6)
    kept = cache.Store(lower, tmp_path).get([cache._key(image) for image in IMAGES])
    assert set(kept) == {cache._key(image) for image in IMAGES[8:16]}


def test_a_file_that_is_in_use_does_not_make_room(lower, tmp_path):
    used, other = cache.Store(lower, tmp_path), split.divide(kc.build("resnet20", freeze="stage2", **SHAPE))[0]
    cache.features(lower, [IMAGES[:2]], used)
    idle = cache.Store(other, tmp_path)
    cache.features(other, [IMAGES], idle)
    for seconds, store in enumerate((used, idle), 1):  # set, since both may fall into one tick of the clock
        os.utime(store.path, (seconds, seconds))
    cache.features(lower, [IMAGES[:2]], used)  # all of them are read
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    third = split.divide(kc.build("resnet20", freeze="stage1", **SHAPE))[0]
    cache.features(third, [IMAGES[:2]], cache.Store(third, tmp_path, limit=size))
    assert used.path.exists() and not idle.path.exists()


@pytest.mark.parametrize("fault", ["limit", "read-only", "full"])
def test_without_room_or_rights_features_are_computed_and_it_is_told_once(lower, tmp_path, fault, monkeypatch):
    limit = 1000 if fault == "limit" else cache.LIMIT
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if fault == "read-only":
            (tmp_path / "taken").write_text("a file where the folder should be: root may write anywhere else")
            store = cache.Store(lower, tmp_path / "taken", limit)
        else:
            store = cache.Store(lower, tmp_path, limit)
        if fault == "full":  # SQLite's own limit gives the error of a full disk
            connect = sqlite3.connect

            def small(*args, **kwargs):
                rows = connect(*args, **kwargs)
                rows.execute("PRAGMA max_page_count = 2")
                return rows

            monkeypatch.setattr(sqlite3, "connect", small)
        found = [cache.features(lower, [IMAGES], store) for _ in range(2)]
    ours = [warning for warning in told if warning.category is CacheWarning]
    assert len(ours) == 1 and "KERAS_CNN_CACHE" in str(ours[0].message) and str(tmp_path) in str(ours[0].message)
    assert ("full" in str(ours[0].message)) == (fault == "full")
    np.testing.assert_array_equal(*found)


def test_a_full_disk_is_told(lower, small_disk):
    store = cache.Store(lower, small_disk)
    images = RNG.integers(0, 255, (400, 16, 16, 3), "uint8")
    with pytest.warns(CacheWarning, match="full"):
        found = cache.features(lower, Images(images), store)
    np.testing.assert_allclose(found, lower.predict(images, verbose=0), atol=1e-6)
    assert store.get([cache._key(images[0])]) == {}  # from now on without


def Images(images):
    return (inputs for (inputs,) in Batches(images))


WRITER = """
import sys, numpy as np
from keras_cnn.transfer import cache
class Network:
    output_shape = (None, 64)
    def predict_on_batch(self, images):
        return images.reshape(len(images), -1)[:, :64].astype("float32") + np.float32(0.5)
cache.digest = lambda network: "0" * 64
store = cache.Store(Network(), sys.argv[1])
images = np.random.default_rng(1).integers(0, 255, (4000, 8, 8, 1), "uint8")
batches = (images[i : i + 50] for i in range(0, 4000, 50))
found = cache.features(Network(), batches, store)
assert store.usable and (found == Network().predict_on_batch(images)).all()
print("done", flush=True)
"""


@pytest.mark.slow
def test_many_processes_share_a_file_and_one_that_is_killed_leaves_it_whole(tmp_path):
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-W", "error::UserWarning", "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
    )
    killed = start()
    database = tmp_path / ("0" * 32 + ".sqlite")
    while not database.exists() or database.stat().st_size < 200_000:
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    others = [start() for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    with sqlite3.connect(database) as rows:
        assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert rows.execute("SELECT count(*) FROM features").fetchone() == (4000,)


def test_the_folder_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("KERAS_CNN_CACHE", "/somewhere/else")
    assert files.cache_folder() == Path("/somewhere/else")
    monkeypatch.delenv("KERAS_CNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.cache_folder() == Path("/cache/keras_cnn/features")
