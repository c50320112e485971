"""Folders and zips as strangers leave them: links, pipes, odd names, unknown splits, files that claim too much."""

import io
import logging
import os
import random
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from images import encode, folder, noise, zipped
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from keras_cnn import data
from keras_cnn.data import images as image_files
from keras_cnn.errors import BadData, BadImage, KerasCnnError
from keras_cnn.models.config import Preprocess

sys.path.insert(0, str(Path(__file__).parent / "attacks"))
import damage_images

pytestmark = pytest.mark.no_keras
SMALL = Preprocess(size=(8, 8), crop=1.0)
posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of bytes are those of POSIX")


def keys(splits):
    return sorted(source.key for _, split in splits.items() for source in split.sources)


# --- links, pipes, devices, names ------------------------------------------------------------------------------------


@posix
def test_links_back_to_a_folder_above_are_passed_over(tmp_path):
    root = folder(tmp_path / "set", {"a": 3, "b": 3})
    before = keys(data.index(root))
    (root / "a" / "up").symlink_to("..")
    (root / "b" / "up").symlink_to("../..")  # and above the root
    (root / "b" / "here").symlink_to(".")
    splits = data.index(root)
    assert keys(splits) == before
    assert [note.split(" (")[0] for note in splits.ignored] == [str(root / x) for x in ("a/up", "b/here", "b/up")]
    assert all("link back" in note for note in splits.ignored)


@posix
@pytest.mark.parametrize(("link", "to"), [("c", "a"), ("val", "train"), ("a/more", "../b")])
def test_two_ways_to_one_folder_are_refused(tmp_path, link, to):
    root = folder(tmp_path, {"train/a": 2, "train/b": 2} if to == "train" else {"a": 2, "b": 2})
    (root / link).symlink_to(to)
    with pytest.raises(BadData, match="are the same folder, by a link"):
        data.index(root)


@posix
def test_links_elsewhere_and_to_files_are_followed(tmp_path):
    elsewhere = folder(tmp_path / "elsewhere", {"x": 3})
    root = folder(tmp_path / "set", {"a": 3})
    (root / "b").symlink_to(elsewhere / "x")
    (root / "a" / "linked.png").symlink_to(elsewhere / "x" / "000.png")
    assert data.load_data(root, SMALL).sizes == {"train": 5, "val": 2}


@posix
def test_pipes_and_devices_are_not_read(tmp_path):
    root = folder(tmp_path / "set", {"a": 3, "b": 3})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "b" / "zero.png").symlink_to("/dev/zero")
    loaded = data.load_data(root, SMALL)
    assert sum(loaded.sizes.values()) == 6 and len(loaded.ignored) == 2
    assert all(note.endswith("(not a regular file)") for note in loaded.ignored)
    for place in (root / "a" / "pipe.png", "/dev/zero"):
        with pytest.raises(BadImage, match="not a regular file"):
            data.read_image(place)
        with pytest.raises(BadData, match="neither a folder nor a zip"):
            data.index(place)


@posix
def test_a_link_to_nothing_is_an_unreadable_image(tmp_path):
    root = folder(tmp_path, {"a": 3, "b": 3})
    (root / "a" / "gone.png").symlink_to("nowhere")
    (root / "a" / "self.png").symlink_to("self.png")
    with pytest.raises(BadImage, match=r"gone\.png: .*No such file|self\.png"):
        data.load_data(root, SMALL, val_split=0)
    assert len(data.load_data(root, SMALL, skip_bad=True).skipped) == 2


@posix
def test_names_that_are_not_utf8(tmp_path):
    root = folder(tmp_path, {"a": 6, "b": 6})
    odd = Path(os.fsdecode(os.fsencode(root) + b"/a/caf\xe9.png"))
    odd.write_bytes(encode(noise()))
    Path(os.fsdecode(os.fsencode(root) + b"/a/bad\xff.png")).write_bytes(b"x")
    loaded = data.load_data(root, SMALL, skip_bad=True)
    names = [source.name for _, split in loaded.splits.items() for source in split.sources]
    assert rf"{root}/a/caf\xe9.png" in names and loaded.skipped == [rf"{root}/a/bad\xff.png"]
    assert all(name.isprintable() and name.encode() for name in names)
    assert keys(data.index(root)) == keys(data.index(root)) and sum(loaded.sizes.values()) == 13
    np.testing.assert_array_equal(data.read_image(odd), noise())
    streamed = data.load_data(root, SMALL, cache_bytes=0)
    with pytest.raises(Exception, match=r"bad\\xff\.png"):
        list(streamed.train), list(streamed.val)
    os.rename(root / "b", Path(os.fsdecode(os.fsencode(root) + b"/b\xe9")))
    with pytest.raises(BadData, match=r"class folder b\\xe9 has a name that is not UTF-8; rename it") as caught:
        data.index(root)
    assert str(caught.value).isprintable()


def test_odd_names_leave_the_split_of_others_as_it_was():
    """The split of a data set is part of what a run can repeat."""
    drawn = data.index("digits", seed=3).val.sources
    assert len(drawn) == 359 and [source.key for source in drawn[:3]] == ["0030", "0055", "0130"]


@posix
@pytest.mark.skipif(os.geteuid() == 0 if os.name == "posix" else True, reason="root reads every folder")
def test_a_folder_without_rights_is_told(tmp_path):
    root = folder(tmp_path, {"a": 3, "b": 3})
    (root / "a").chmod(0)
    with pytest.raises(BadData, match="cannot be read"):
        data.index(root)


# --- names of splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("training", "validation", "testing"), ("Train", "DEV", "Test"), ("TRAIN", "VAL", "TEST")]
)
def test_splits_by_other_names(tmp_path, names):
    root = folder(tmp_path, {f"{name}/{c}": 2 for name in names for c in "ab"})
    assert {name: len(split.sources) for name, split in data.index(root).items()} == {"train": 4, "val": 4, "test": 4}


@pytest.mark.parametrize(
    "counts",
    [
        {"train2017": 3, "val2017": 3},
        {"train2017/a": 3, "train2017/b": 3, "val2017/a": 3, "val2017/b": 3},
        {"my_train/a": 2, "my_val/a": 2},
        {"train": 3, "test": 3},
        {"train2017": 3, "val2017": 3, "unlabeled2017": 3},
        {"train/a": 2, "train/b": 2, "my_val/a": 1, "my_val/b": 1},
        {"train/a": 2, "train/b": 2, "test": 5},
        {"trainset": 2, "TestSet": 2},
    ],
    ids=lambda counts: "+".join(counts),
)
def test_splits_are_not_taken_for_classes_or_left_out(tmp_path, counts):
    with pytest.raises(BadData, match=r"looks? like (a split|splits), not like"):
        data.index(folder(tmp_path, counts))


@pytest.mark.parametrize(
    "names",
    [("train", "car"), ("steam_train", "bullet_train"), ("crash test", "train station", "bus", "tram", "cab")],
)
def test_classes_may_sound_like_splits(tmp_path, names):
    assert set(data.index(folder(tmp_path, dict.fromkeys(names, 2))).class_names) == set(names)


@pytest.mark.parametrize(
    ("counts", "splits", "names"),
    [
        ({"val/b": 2, "val/a": 1}, {"val": 3}, ("a", "b")),
        ({"test/b": 2}, {"test": 2}, ("b",)),
        ({"cat": 3}, {"train": 3}, ("cat",)),
        ({"train/a": 2, "val/c": 1}, {"train": 2, "val": 1}, ("a", "c")),
    ],
)
def test_what_is_only_evaluated_needs_no_train_and_no_second_class(tmp_path, counts, splits, names):
    root = folder(tmp_path, counts)
    with pytest.raises(BadData):
        data.index(root)
    found = data.index(root, training=False)
    assert {name: len(split.sources) for name, split in found.items()} == splits and found.class_names == names
    last = found.items()[-1][0]
    loaded = data.load_data(found, SMALL, decode=(last,))
    assert len(loaded.arrays(last).images) == splits[last] and loaded.sizes == splits
    if "train" not in splits:
        assert loaded.train is None and loaded.plain is None
        with pytest.raises(BadData, match="no training images"):
            loaded.subset(1)
    with pytest.raises(BadData, match="no images found"):
        data.index(folder(tmp_path / "none", {"a": 0}), training=False)


# --- what was understood ---------------------------------------------------------------------------------------------


def test_summary_says_what_was_found(tmp_path):
    root = folder(tmp_path, {f"train/{name}": 3 for name in "abcdefg"} | {"val/a": 2}, size=(30, 40))
    (root / "train/a/bad.png").write_bytes(b"x")
    loaded = data.load_data(root, Preprocess(size=(8, 16), crop=1.0), skip_bad=True)
    assert loaded.summary == (
        "21 training and 2 validation images of 7 classes (a 3, b 3, c 3, d 3, e 3, ...); "
        "images of about 40x31 pixels are seen at 16x8; 1 unreadable ones left out; held decoded, 0.0 MiB"
    )
    assert repr(loaded) == f"<Data: {loaded.summary}>"


def test_summary_counts_every_split_and_knows_upright_sizes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for place in ("train/a", "train/b", "val/a", "test/a"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.jpg").write_bytes(encode(noise(20, 30), "JPEG", exif=exif))
    assert data.load_data(tmp_path, SMALL).summary == (
        "2 training, 1 validation and 1 test images of 2 classes (a 1, b 1); images of 20x30 pixels are seen at 8x8; "
        "held decoded, 0.0 MiB"
    )
    streamed = data.load_data(tmp_path, SMALL, cache_bytes=200)  # one image
    assert streamed.summary.endswith("held decoded, 0.0 MiB, train and test decoded anew for each pass")


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    blob = encode(Image.new("1", (13_000, 13_000)), "PNG")
    assert len(blob) < 30_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImage, match="13000x13000 are too many pixels"):
        data.read_image(blob)


def test_the_bound_on_pixels_is_pillows_own(monkeypatch):
    blob = encode(noise(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadImage, match=r"MAX_IMAGE_PIXELS \(now 899\)"):
        data.read_image(blob)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(data.read_image(blob), noise(30, 30))


def test_files_and_members_are_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_BYTES", 3 << 20)
    root = folder(tmp_path / "set", {"a": 2, "b": 2})
    (root / "a" / "zeros.png").write_bytes(bytes(8 << 20))
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    assert (tmp_path / "set.zip").stat().st_size < 20_000
    for place in (root, tmp_path / "set.zip"):
        with pytest.raises(BadImage, match=r"zeros\.png: the file has more than 3 MiB"):
            data.load_data(place, SMALL, val_split=0)
        assert len(data.load_data(place, SMALL, skip_bad=True).skipped) == 1
    read = 0

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            nonlocal read
            read += size
            return bytes(size)

    with pytest.raises(BadImage, match="more than 3 MiB"):
        data.read_image(Endless())
    assert read <= 5 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_that_cannot_be_unpacked_within_bounds_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", method) as archive:
        archive.writestr("a/1.png", encode(noise()))
    with pytest.raises(BadData, match="is not packed by deflate"):
        data.index(tmp_path / "set.zip")


def test_a_member_below_thousands_of_folders_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/" * 20_000 + "1.png", encode(noise()))
    with pytest.raises(BadData, match="20001 folders deep"):
        data.index(tmp_path / "set.zip")


def test_large_images_are_decoded_in_turn(monkeypatch):
    """Not more pixels at a time, over all threads, than there is room for."""
    together, most = 0, 0
    lock, decode = threading.Lock(), PngImageFile.load

    def load(image):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        decoded = decode(image)
        threading.Event().wait(0.02)
        with lock:
            together -= 1
        return decoded

    monkeypatch.setattr(image_files, "_room", image_files._Room(2000))
    monkeypatch.setattr(PngImageFile, "load", load)
    blob = encode(noise(30, 40))  # 1200 pixels
    threads = [threading.Thread(target=data.read_image, args=(blob,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_large_images_give_the_same_pixels_as_small_ones(monkeypatch):
    blobs = [encode(noise(50, 40, channels=c, seed=c)) for c in (1, 3, 4)]
    blobs += [encode(Image.fromarray(noise(50, 40)).quantize(9), transparency=2)]
    blobs += [encode(Image.fromarray(noise(50, 40)).convert("CMYK"), "TIFF")]
    whole = [data.read_image(blob, channels=c) for blob in blobs for c in (1, 3, 4)]
    monkeypatch.setattr(image_files, "BAND", 130)  # pixels: three rows
    for one, other in zip(whole, (data.read_image(blob, channels=c) for blob in blobs for c in (1, 3, 4)), strict=True):
        np.testing.assert_array_equal(one, other)


# --- random damage ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_and_zips_end_in_one_sentence(tmp_path, caplog):
    """A small share of `python tests/attacks/damage_images.py`."""
    caplog.set_level(logging.CRITICAL)
    outcomes = [damage_images.read_image(blob) for _, blob in damage_images.images(400, seed=7)]
    outcomes += [damage_images.read_zip(blob, tmp_path / "x.zip") for _, blob in damage_images.zips(30, seed=7)]
    assert set(outcomes) == damage_images.PROMISED


def test_undamaged_images_of_every_kind_are_decoded():
    assert {damage_images.read_image(blob) for blob in damage_images.originals().values()} == {"decoded"}


def test_damages_change_the_bytes():
    blob, draws = bytes(range(256)) * 20, random.Random(0)
    for damage in damage_images.DAMAGES:
        assert any(damage(blob, draws) != blob for _ in range(5))


def test_a_zip_cut_anywhere_is_refused_in_one_sentence(tmp_path):
    blob = zipped(folder(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "set.zip").read_bytes()
    for end in range(0, len(blob), 97):
        (tmp_path / "cut.zip").write_bytes(blob[:end])
        with pytest.raises(KerasCnnError) as caught:
            data.load_data(tmp_path / "cut.zip", SMALL)
        assert "\n" not in str(caught.value)
