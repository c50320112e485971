"""Images read anew for each pass: the same evaluation images, the same parts, faults told, an order without a state."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from images import encode, noise
from PIL import Image
from test_masks import agree, classes
from test_masks import write as write_masks

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.data import orders, shards
from keras_cnn.errors import BadImage, BadSpec
from keras_cnn.models.config import Preprocess

tf = pytest.importorskip("tensorflow")

SMALL = Preprocess(size=(16, 20), crop=1.0)
COUNT = 14


def smooth(seed: int, height: int = 200, width: int = 250) -> Image.Image:
    """A photo without detail, so that it looks alike however it is made smaller."""
    return Image.fromarray(noise(3, 3, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)


def jpegs(root, size=(200, 250), **options):
    for i in range(COUNT):
        place = root / "train" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02}.jpg").write_bytes(encode(smooth(i, *size), "JPEG", **{"quality": 95, **options}))
    return root


@pytest.fixture
def photos(tmp_path):
    return jpegs(tmp_path / "photos")


def load(root, **options):
    return data.load_data(root, SMALL, **{"augment": "crop", "batch_size": 4, "cache_bytes": 0, **options})


def one_pass(batches):
    return [(x.numpy(), y.numpy()) for x, y in batches]


def joined(batches):
    return (np.concatenate(parts) for parts in zip(*one_pass(batches), strict=True))


# --- which images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_evaluation_images_are_those_of_load_image_bit_for_bit(photos, tmp_path, packed):
    place = kc.pack(photos, tmp_path / "packed").path if packed else photos
    for cache_bytes in (0, 4 << 30):
        loaded = load(place, cache_bytes=cache_bytes)
        assert loaded.streams is (cache_bytes == 0)
        images, labels = joined(loaded.val)
        split = loaded.splits.val
        for source, image, label, given in zip(split.sources, images, labels, split.labels, strict=True):
            np.testing.assert_array_equal(image, kc.load_image(source.read(), SMALL))
            assert label == given


def test_held_and_streamed_see_the_same_parts_in_the_same_order(photos):
    for (x, y), (z, w) in zip(
        one_pass(load(photos).train), one_pass(load(photos, cache_bytes=4 << 30).train), strict=True
    ):
        np.testing.assert_array_equal(y, w)
        assert np.abs(x.astype(int) - z).mean() < 4  # of 255; of another part, over 30
        assert np.abs(x.astype(int) - z[::-1]).mean() > 20


def test_packed_data_trains_as_its_folder_does_part_by_part(photos, tmp_path):
    """Shards lie in another order; each image is in its class, whole and at its place."""
    packed = load(kc.pack(photos, tmp_path / "packed").path, val_split=0)
    x, y = joined(packed.train)
    split = packed.splits.train
    order = orders.shuffled(COUNT, tf.constant([0, 0], tf.int64)).numpy()
    assert y.tolist() == split.labels[order].tolist()
    for image, i in zip(x, order, strict=True):
        whole = np.asarray(Image.open(io.BytesIO(split.sources[i].read())), int)
        assert np.abs(image.mean((0, 1)) - whole.mean((0, 1))).max() < 60


def test_a_pass_repeats_and_another_differs(photos):
    loaded = load(photos)
    first, second = one_pass(loaded.train), one_pass(loaded.train)
    loaded.seek(0)
    again = one_pass(loaded.train)
    for (x, y), (z, w) in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, z)
        np.testing.assert_array_equal(y, w)
    assert any(not np.array_equal(x, z) for (x, _), (z, _) in zip(first, second, strict=True))


def test_parts_are_alike_at_every_scale_of_decoding(tmp_path):
    """A photo of 16 times the size is decoded at an eighth, and shows the same part."""
    small, large = (jpegs(tmp_path / name, size) for name, size in (("1", (50, 63)), ("16", (800, 1008))))
    for (x, y), (z, w) in zip(one_pass(load(small).train), one_pass(load(large).train), strict=True):
        np.testing.assert_array_equal(y, w)
        assert np.abs(x.astype(int) - z).mean() < 4


def turned(i):
    image = smooth(i)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise
    return encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


KINDS = {
    "upright by EXIF": turned,
    "CMYK": lambda i: encode(smooth(i).convert("CMYK"), "JPEG", quality=95),
    "progressive": lambda i: encode(smooth(i), "JPEG", quality=95, progressive=True),
    "not subsampled": lambda i: encode(smooth(i), "JPEG", quality=95, subsampling=0),
    "PNG": lambda i: encode(smooth(i)),
    "palette": lambda i: encode(smooth(i).quantize(256)),
    "clear": lambda i: encode(smooth(i).convert("RGBA")),
    "WebP": lambda i: encode(smooth(i), "WEBP", quality=95),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_shows_the_same_part(tmp_path, photos, kind):
    for i, path in enumerate(sorted(photos.rglob("*.jpg"), key=lambda path: path.name)):
        place = tmp_path / "other" / path.relative_to(photos)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(KINDS[kind](i))
    for (x, y), (z, w) in zip(one_pass(load(photos).train), one_pass(load(tmp_path / "other").train), strict=True):
        np.testing.assert_array_equal(y, w)
        assert np.abs(x.astype(int) - z).mean() < 4


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_alpha(tmp_path, photos, channels):
    gray = jpegs(tmp_path / "gray")
    for path in gray.rglob("*.jpg"):
        path.write_bytes(encode(Image.open(path).convert("L"), "JPEG", quality=95))
    for place in (photos, gray):  # colour is turned into gray as Pillow does
        for (x, _), (z, _) in zip(
            one_pass(load(place, channels=channels).train),
            one_pass(load(place, channels=channels, cache_bytes=4 << 30).train),
            strict=True,
        ):
            assert x.shape[-1] == channels and np.abs(x.astype(int) - z).mean() < 4
    x, _ = joined(load(gray).train)
    np.testing.assert_array_equal(x[..., 0], x[..., 2])


def test_masks_move_with_their_images(tmp_path):
    root = write_masks(tmp_path)
    nearest = dataclasses.replace(SMALL, size=(12, 15), interpolation="bilinear")
    loaded = data.load_data(root, nearest, augment="crop", batch_size=4, cache_bytes=0)
    if loaded.canvas is None:
        pytest.fail("the photos are too small for this test")
    images, masks = joined(loaded.train)
    assert images.shape[:3] == masks.shape
    red = images[..., 0].astype(int)
    inner = np.abs(red - 60 * np.rint(red / 60)) < 4  # pixels that no edge has blurred
    assert inner.mean() > 0.3
    shown = classes(np.where(inner, red, 0))
    assert (shown == masks)[inner].mean() > 0.97
    agree(*joined(data.load_data(root, dataclasses.replace(nearest, interpolation="nearest"), cache_bytes=0).val))


def test_light_changes_come_on_top_of_parts_but_no_shift(photos):
    """Of a photo of one colour, no reflected border, and nothing else, can show; mirrored or not, it is the same."""
    for path in photos.rglob("*.jpg"):
        path.write_bytes(encode(Image.new("RGB", (100, 80), (90, 120, 30)), "JPEG", quality=95))
    x, _ = joined(load(photos).train)
    assert np.ptp(x.reshape(-1, 3), 0).max() <= 2


# --- faults ----------------------------------------------------------------------------------------------------------

FAULTS = {
    "cut off": lambda blob: blob[: len(blob) // 2],
    "its scan is gone, its end is there": lambda blob: blob[:200] + b"\xff\xd9",
    "a marker that no decoder knows": lambda blob: blob[: len(blob) // 2] + b"\xff\xc0\x00\x02" * 9 + b"\xff\xd9",
    "no image": lambda blob: b"nothing of the kind",
    "empty": lambda blob: b"",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unreadable_photo_is_named_or_left_out_and_counted(photos, fault, caplog):
    loaded = load(photos, val_split=0)
    bad = Path(loaded.splits.train.sources[3].name)
    bad.write_bytes(FAULTS[fault](bad.read_bytes()))
    try:
        kc.load_image(bad, SMALL)
    except BadImage:
        pass
    else:  # Pillow reads it, so that evaluation does: training may not fail
        assert len(next(joined(loaded.train))) == COUNT
        return
    with pytest.raises(BadImage, match=bad.name), BadImage.surfacing():
        one_pass(loaded.train)
    careful = load(photos, val_split=0, skip_bad=True)
    with caplog.at_level(logging.WARNING):
        assert sum(len(y) for _, y in careful.train) == COUNT - 1
    assert [name.rpartition("/")[2] for name in careful.skipped] == [bad.name]
    # In another pass, the part may end above the fault; it is counted once.
    assert sum(len(y) for _, y in careful.train) in (COUNT - 1, COUNT) and len(careful.skipped) == 1


def test_a_batch_of_unreadable_photos_is_passed_over(photos):
    loaded = load(photos, val_split=0, skip_bad=True, batch_size=1)
    for source in loaded.splits.train.sources[:3]:
        Path(source.name).write_bytes(b"x")
    assert [len(y) for _, y in loaded.train] == [1] * (COUNT - 3)


def test_unreadable_photos_that_are_known_are_not_picked_again(photos):
    """Images are held, whole photos are not: both leave the same ones out."""
    next(photos.rglob("03.jpg")).write_bytes(b"x")
    room = COUNT * 16 * 20 * 3
    loaded = load(photos, val_split=0, skip_bad=True, cache_bytes=room, batch_size=COUNT - 1)
    assert "train" in loaded.held and loaded.streams
    assert [len(y) for _, y in loaded.train] == [COUNT - 1]


def test_the_summary_says_which_images_are_read_anew(photos):
    assert load(photos).summary.endswith("train and val decoded anew for each pass")
    room = (COUNT + 4) * 16 * 20 * 3
    assert load(photos, cache_bytes=room).summary.endswith("MiB, train decoded anew for each pass")
    assert load(photos, cache_bytes=4 << 30).summary.endswith("held decoded, 0.1 MiB")


def test_a_run_does_not_go_on_with_photos_that_are_held_instead(photos):
    """Either way shows the same parts, but not to the last bit."""
    from keras_cnn.data.training_set import training_set

    anew, held = (training_set(load(photos, cache_bytes=room)).facts for room in (0, 4 << 30))
    assert anew != held and {**anew, "photos": None} == {**held, "photos": None}


def test_a_pass_begins_at_any_batch(photos):
    loaded = load(photos, val_split=0)
    whole = one_pass(loaded.train)
    loaded.seek(0)
    for (x, y), (z, w) in zip(whole[2:], one_pass(loaded.rest(2)), strict=True):
        np.testing.assert_array_equal(x, z)
        np.testing.assert_array_equal(y, w)


def test_a_network_learns_from_it(photos):
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 20, 3))
    history = kc.train(model, load(photos), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# --- how fast ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bottleneck_of_training_is_told(photos, run):
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 20, 3))
    weights = [w.copy() for w in model.get_weights()]
    loaded, unmeasured = load(photos), load(photos)
    found = kc.throughput(model, loaded, seconds=0.2)
    assert min(found.pipeline, found.step, found.both) > 0 and found.batch_size == 4
    assert found.bottleneck == ("pipeline" if found.pipeline < found.step else "step")
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    for _ in range(2):  # passes go on as if nothing had been measured
        np.testing.assert_array_equal(one_pass(loaded.train)[0][0], one_pass(unmeasured.train)[0][0])
    with pytest.raises(BadSpec, match="seconds"):
        kc.throughput(model, loaded, seconds=0)
    code, out, err = run("benchmark", "--data", photos, "-m", "resnet20", "--size", 16, "--seconds", 0.1, "--json")
    assert code == 0 and json.loads(out)["bottleneck"] in ("pipeline", "step"), err
    for wrong in ((), ("resnet20", "--data", photos), ("--data", photos, "--engine", "onnx")):
        code, _, err = run("benchmark", *wrong)
        assert code == 2 and "--data" in err


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["held", "streamed"])
def test_workers_share_out_each_batch(photos, cache_bytes):
    """Photos that are read anew for each pass, as those that are held: no image twice, none missing, in one order."""
    whole, *parts = (
        dataclasses.replace(load(photos, cache_bytes=cache_bytes), share=share, full=True)
        for share in ((0, 1), (0, 2), (1, 2))
    )
    batches = [[y for _, y in one_pass(some.train)] for some in (whole, *parts)]
    assert [len(y) for y in batches[0]] == [4] * (COUNT // 4)
    for all_of_it, *shares in zip(*batches, strict=True):
        np.testing.assert_array_equal(np.concatenate(shares), all_of_it)


# --- order -----------------------------------------------------------------------------------------------------------


def order(count, epoch=0, block=None, seed=0):
    return orders.shuffled(count, tf.constant([seed, epoch], tf.int64), block).numpy()


@pytest.mark.parametrize("block", [None, 1, 7, 64])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 5000])
def test_every_image_comes_once_and_the_order_follows_from_seed_and_epoch(count, block):
    first = order(count, block=block)
    np.testing.assert_array_equal(np.sort(first), np.arange(count))
    np.testing.assert_array_equal(first, order(count, block=block))
    if count > 60:
        assert (first != order(count, 1, block)).any() and (first != order(count, 0, block, 1)).any()


def test_blocks_are_read_whole_and_mixed_within_a_window():
    found = order(64 * 300, block=64) // 64
    window = found[: 64 * 64]
    assert sorted(np.unique(window, return_counts=True)[1]) == [64] * 64  # whole blocks
    assert np.ptp(np.unique(window)) > 200  # from everywhere
    assert len(np.unique(window[:64])) > 30  # a batch has few images of each


def test_only_shards_that_no_memory_holds_are_read_by_blocks(photos, tmp_path, monkeypatch):
    packed = load(kc.pack(photos, tmp_path / "packed").path, val_split=0)
    assert orders.blocks_of(packed.splits.train) is None
    before = one_pass(packed.train)
    monkeypatch.setattr(orders, "LARGE", 1)
    monkeypatch.setattr(orders, "BLOCK", 2)
    monkeypatch.setattr(orders, "WINDOW", 2)
    assert orders.blocks_of(packed.splits.train) == 2
    assert orders.blocks_of(load(photos).splits.train) is None  # files of their own
    by_blocks = load(tmp_path / "packed", val_split=0)
    after = one_pass(by_blocks.train)
    assert np.concatenate([y for _, y in after]).sum() == np.concatenate([y for _, y in before]).sum()
    places = [by_blocks.splits.train.sources[i].place // 2 for i in order(COUNT, block=2)]
    assert len(set(places[:4])) == 2  # two blocks, whole
    assert isinstance(by_blocks.splits.train.sources[0], shards.Record)
