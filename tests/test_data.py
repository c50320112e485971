import io
import math
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode, folder, noise, picture, zipped
from PIL import Image

from keras_cnn import data
from keras_cnn.data import images as image_files
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.models.config import Preprocess

SMALL = Preprocess(size=(8, 8), crop=1.0)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_same_pixels(file_format):
    np.testing.assert_array_equal(data.read_image(encode(noise(), file_format)), noise())


def test_sources_of_every_kind(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise()))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(data.read_image(source), noise())


def test_webp_and_jpeg():
    np.testing.assert_array_equal(data.read_image(encode(noise(), "WEBP", lossless=True)), noise())
    flat = np.full((16, 16, 3), 90, np.uint8)
    assert np.abs(data.read_image(encode(flat, "JPEG", quality=95)).astype(int) - 90).max() <= 1


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(file_format):
    frames = [Image.new("RGB", (6, 4), color) for color in ("#ff0000", "#00ff00")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    blob = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(data.read_image(blob), np.full((4, 6, 3), (255, 0, 0), np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = noise(4, 6)
    # What the camera stored, for each value of the tag (Exif 2.3, 4.6.4), such that viewing it gives `upright`.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    blob = encode(np.ascontiguousarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(data.read_image(blob), upright)


def test_gray_palette_and_bilevel():
    gray = noise(channels=1)
    np.testing.assert_array_equal(data.read_image(encode(gray)), np.repeat(gray, 3, -1))
    np.testing.assert_array_equal(data.read_image(encode(gray), channels=1), gray)
    palette = picture(noise()).quantize(16)
    np.testing.assert_array_equal(data.read_image(encode(palette)), np.asarray(palette.convert("RGB")))
    assert set(np.unique(data.read_image(encode(picture(gray).convert("1"))))) == {0, 255}


def test_alpha_is_laid_on_white_or_kept():
    pixels = noise(channels=4)
    pixels[0], pixels[1] = (10, 20, 30, 0), (10, 20, 30, 255)
    seen = data.read_image(encode(pixels))
    assert (seen[0] == 255).all() and (seen[1] == (10, 20, 30)).all()
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(seen, pixels[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    np.testing.assert_array_equal(data.read_image(encode(pixels), channels=4), pixels)
    assert (data.read_image(encode(noise()), channels=4)[..., 3] == 255).all()


def test_cmyk():
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    np.testing.assert_array_equal(data.read_image(encode(cmyk, "TIFF")), np.full((4, 4, 3), (255, 0, 0), np.uint8))
    assert data.read_image(encode(cmyk, "JPEG")).shape == (4, 4, 3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_not_clipped(file_format):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    blob = encode(Image.fromarray(values), file_format)
    np.testing.assert_array_equal(data.read_image(blob, channels=1)[..., 0], [[0, 1, 128, 255]])
    np.testing.assert_array_equal(data.read_image(blob)[..., 2], [[0, 1, 128, 255]])


def bomb():
    """A PNG header that claims 60000 x 60000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum + b"\0\0\0\1IDAT\0"


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "empty"),
        (b"this is a letter", "not an image"),
        (encode(noise(64, 64), "JPEG")[:-400], "damaged"),
        (encode(noise(64, 64), "PNG")[:-4000], "damaged"),
        (encode(noise(), "PNG")[:10], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
        (bomb(), "too many pixels"),
    ],
    ids=["zero-byte", "text", "truncated-jpeg", "truncated-png", "cut-header", "eps", "float", "bomb"],
)
def test_bad_files_are_named(tmp_path, blob, message):
    path = tmp_path / "bad.jpg"
    path.write_bytes(blob)
    with pytest.raises(BadImage, match=message) as caught:
        data.read_image(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_missing_file_and_bad_channels(tmp_path):
    with pytest.raises(BadImage, match=r"gone\.png: .*No such file"):
        data.read_image(tmp_path / "gone.png")
    with pytest.raises(BadSpec, match="channels=2"):
        data.read_image(encode(noise()), channels=2)


# --- resizing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter_name", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize(("height", "width"), [(50, 75), (75, 50), (33, 33), (9, 200)])
def test_square_center_is_torchvision_on_pillow(filter_name, height, width):
    image = noise(height, width)
    short = math.floor(24 / 0.875)
    long = int(short * max(height, width) / min(height, width))
    tall, wide = (short, long) if height <= width else (long, short)
    resized = picture(image).resize((wide, tall), getattr(Image.Resampling, filter_name.upper()))
    top, left = round((tall - 24) / 2.0), round((wide - 24) / 2.0)
    expected = np.asarray(resized)[top : top + 24, left : left + 24]
    preprocess = Preprocess(size=(24, 24), crop=0.875, interpolation=filter_name)
    np.testing.assert_array_equal(data.resize_and_crop(image, preprocess), expected)


def test_oblong_center_and_squash():
    image = noise(40, 40)
    # ResizeKeepRatio to cover (20, 30): both sides become 30, of which rows 5..25 remain.
    expected = np.asarray(picture(image).resize((30, 30), Image.Resampling.BICUBIC))[5:25]
    np.testing.assert_array_equal(data.resize_and_crop(image, Preprocess(size=(20, 30), crop=1.0)), expected)
    expected = np.asarray(picture(image).resize((30, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(
        data.resize_and_crop(image, Preprocess(size=(20, 30), crop=1.0, mode="squash")), expected
    )


sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(sides, sides),
    size=st.tuples(sides, sides),
    crop=st.floats(0.3, 1.0),
    mode=st.sampled_from(["center", "squash"]),
    filter_name=st.sampled_from(sorted(image_files.FILTERS)),
    color=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    channels=st.sampled_from([1, 3, 4]),
)
def test_shape_holds_and_constants_stay(source, size, crop, mode, filter_name, color, channels):
    image = np.full((*source, channels), color[:channels], np.uint8)
    preprocess = Preprocess(size=size, crop=crop, mode=mode, interpolation=filter_name)
    seen = data.resize_and_crop(image, preprocess)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, np.full((*size, channels), color[:channels], np.uint8))


def test_resize_refuses_other_arrays_and_slivers():
    with pytest.raises(BadSpec, match="float32"):
        data.resize_and_crop(np.zeros((4, 4, 3), np.float32), SMALL)
    with pytest.raises(BadImage, match=r"strip.*elongated"):
        data.resize_and_crop(np.zeros((1, 100_000, 1), np.uint8), Preprocess(), name="strip")


def test_load_image_takes_channels_from_preprocess():
    assert data.load_image(encode(noise()), SMALL).shape == (8, 8, 3)
    assert data.load_image(encode(noise()), SMALL.for_channels(1)).shape == (8, 8, 1)
    assert data.load_image(encode(noise()), SMALL, 4).shape == (8, 8, 4)


# --- indexing -------------------------------------------------------------------------------------------------------


def test_split_is_stratified_disjoint_and_deterministic(tmp_path):
    root = folder(tmp_path, {"cat": 20, "dog": 10, "elk": 2, "fox": 1})
    splits = data.index(root, val_split=0.2)
    assert splits.class_names == ("cat", "dog", "elk", "fox")
    assert np.bincount(splits.train.labels).tolist() == [16, 8, 1, 1]
    assert np.bincount(splits.val.labels).tolist() == [4, 2, 1]
    keys = [{source.key for source in split.sources} for _, split in splits.items()]
    assert len(keys) == 2 and not keys[0] & keys[1] and len(keys[0] | keys[1]) == 33

    def chosen(**options):
        return [source.key for source in data.index(root, **options).val.sources]

    assert chosen() == chosen() and chosen() != chosen(seed=1)
    assert data.index(root, val_split=0).val is None


def test_split_folders_nesting_and_strays(tmp_path):
    counts = {"train/a": 2, "train/b/deep": 2, "validation/a": 1, "test/b": 3}
    root = folder(tmp_path / "set", counts)
    for stray in ("readme.txt", "train/a/notes.csv", ".DS_Store", "train/a/Thumbs.db", "train/b/._x.png"):
        (root / stray).write_text("x")
    for place in (root, folder(tmp_path, {})):  # the second: one folder around everything
        splits = data.index(place)
        assert splits.class_names == ("a", "b")
        assert {name: split.labels.tolist() for name, split in splits.items()} == {
            "train": [0, 0, 1, 1],
            "val": [0],
            "test": [1, 1, 1],
        }
        assert [name.rsplit("/")[-1] for name in splits.ignored] == ["readme.txt", "notes.csv"]


def test_a_class_may_be_called_train(tmp_path):
    assert data.index(folder(tmp_path, {"train": 3, "car": 3})).class_names == ("car", "train")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images found"),
        ({".": 3}, "no class folders"),
        ({"a": 2, "b": 0}, "class 'b' of train holds no images"),
        ({"a": 2}, r"only one class \('a'\)"),
        ({"train/a": 2, "train/b": 2, "val/c": 1}, "val has the class 'c', which train lacks"),
        ({"train/a": 2, "train/b": 2, "val/a": 0}, "class 'a' of val holds no images"),
        ({"val/a": 2, "val/b": 2}, "has val but no train folder"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, "val and valid mean the same"),
        ({"a": 1, "b": 1}, "no class has two images"),
    ],
)
def test_bad_folders(tmp_path, counts, message):
    root = tmp_path / "set"
    root.mkdir()
    with pytest.raises(BadData, match=message) as caught:
        data.index(folder(root, counts))
    assert str(caught.value).startswith(str(root))


def test_missing_path_and_bad_split(tmp_path):
    with pytest.raises(BadData, match=r"gone: no such file or folder"):
        data.index(tmp_path / "gone")
    with pytest.raises(BadSpec, match=r"val_split=1.5"):
        data.index("digits", val_split=1.5)
    for share in (1.0, -0.1):
        with pytest.raises(BadSpec, match=f"val_split={share}"):
            data.load_data((np.zeros((4, 8, 8, 3), "uint8"), np.arange(4) % 2), SMALL, val_split=share)


def test_zip_is_read_in_place_and_equals_its_folder(tmp_path):
    root = folder(tmp_path / "set", {"a": 5, "b": 5})
    path = zipped(root, tmp_path / "set.zip", top="set")
    before = sorted(tmp_path.rglob("*"))
    for name in ("train", "val"):
        one, other, again = (data.load_data(place, SMALL).arrays(name) for place in (root, path, path))
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.images, again.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("member", ["../evil/a.png", "/etc/a.png", "a/../../b.png"])
def test_zip_with_escaping_names_is_refused(tmp_path, member):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, encode(noise()))
    with pytest.raises(BadData, match="points outside"):
        data.index(path)


def test_broken_zips(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"no zip at all")
    with pytest.raises(BadData, match=r"set\.zip: neither a folder nor a readable zip"):
        data.index(path)
    zipped(folder(tmp_path / "set", {"a": 2, "b": 2}), path)
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"IDAT") + 20] ^= 255  # the first member's checksum no longer holds
    path.write_bytes(blob)
    with pytest.raises(BadImage, match=r"set\.zip/a/000\.png: .*CRC"):
        data.load_data(path, SMALL)


def test_tfds_absent_is_one_sentence():
    with pytest.raises(BadData, match=r"tfds:no_such_set: not found .*tfds\.builder\('no_such_set'\)"):
        data.index("tfds:no_such_set")


@pytest.fixture
def tfds_home(tmp_path, monkeypatch):
    """Where TFDS looks for what is prepared."""
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tensorflow_datasets.core.utils.file_utils.constants.DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_advice_prepares_a_tfds(tfds_home):
    import tensorflow_datasets as tfds

    class Signs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tfds_home  # of its card, which it does not have

        def _info(self):
            label = tfds.features.ClassLabel(names=["stop", "go"])
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(9, 9, 3)), "label": label})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "dev": self._generate_examples(2)}

        def _generate_examples(self, count):
            yield from ((i, {"image": noise(9, 9, seed=i), "label": i % 2}) for i in range(count))

    with pytest.raises(BadData) as caught:
        data.index("tfds:signs")
    exec(re.search(r'`python -c "(.*)"`', str(caught.value))[1])
    splits = data.index("tfds:signs")
    assert splits.class_names == ("stop", "go")
    assert {name: len(split.sources) for name, split in splits.items()} == {"train": 6, "val": 2}


def test_tfds_prepared(tfds_home):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(9, 9, 3)), "label": tfds.features.ClassLabel(names=["z", "a"])}
    )
    rows = {"train": [(i, i % 2) for i in range(4)], "test": [(9, 1)]}
    home = tfds_home / "tiny" / "1.0.0"
    home.mkdir(parents=True)
    for split, some in rows.items():
        with tf.io.TFRecordWriter(str(home / f"tiny-{split}.tfrecord-00000-of-00001")) as writer:
            for seed, label in some:
                row = features.encode_example({"image": noise(9, 9, seed=seed), "label": label})
                writer.write(features.serialize_example(row))
    tfds.folder_dataset.write_metadata(
        data_dir=home,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(name=split, shard_lengths=[len(some)], num_bytes=0) for split, some in rows.items()
        ],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    splits = data.index("tfds:tiny", val_split=0)
    assert splits.class_names == ("z", "a")  # the data set's own order
    assert splits.train.labels.tolist() == [0, 0, 1, 1] and splits.test.labels.tolist() == [1]
    seen = data.arrays(splits.test, Preprocess(size=(9, 9), crop=1.0)).images[0]
    np.testing.assert_array_equal(seen, noise(9, 9, seed=9))


def test_array_records_are_read_at_their_places(tfds_home):
    import tensorflow_datasets as tfds

    pytest.importorskip("array_record")

    class Places(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tfds_home

        def _info(self):
            label = tfds.features.ClassLabel(names=["z", "a"])
            image = tfds.features.Image(shape=(9, 9, 3))
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"image": np.full((9, 9, 3), i, np.uint8), "label": i % 2}) for i in range(6))

    Places(data_dir=tfds_home, file_format="array_record").download_and_prepare()
    train = data.index("tfds:places", val_split=0).train
    for source, label in zip(train.sources, train.labels, strict=True):
        pixels = data.read_image(source.read())
        assert (pixels == pixels[0, 0, 0]).all() and pixels[0, 0, 0] % 2 == label
    assert {data.read_image(source.read())[0, 0, 0] for source in reversed(train.sources)} == set(range(6))


# --- loading --------------------------------------------------------------------------------------------------------


def test_skip_bad_counts_and_default_names_the_file(tmp_path):
    root = folder(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1})
    bad = root / "train/a/000.png"
    bad.write_bytes(b"")
    with pytest.raises(BadImage, match=str(bad)):
        data.load_data(root, SMALL)
    loaded = data.load_data(root, SMALL, skip_bad=True)
    assert loaded.skipped == [str(bad)] and loaded.sizes == {"train": 7, "val": 1}
    assert loaded.counts == {"train": {"a": 3, "b": 4}, "val": {"a": 1, "b": 0}}
    streamed = data.load_data(root, SMALL, skip_bad=True, cache_bytes=0)
    for _ in range(2):
        assert sum(len(labels) for _, labels in streamed.train) == 7
    assert streamed.skipped == [str(bad)]


def test_skipping_a_whole_class_is_an_error(tmp_path):
    root = folder(tmp_path, {"train/a": 1, "train/b": 2, "val/b": 1})
    (root / "train/a/000.png").write_bytes(b"x")
    with pytest.raises(BadData, match="every image of the class 'a'"):
        data.load_data(root, SMALL, skip_bad=True)


def test_streaming_error_names_the_file(tmp_path):
    tf = pytest.importorskip("tensorflow")
    root = folder(tmp_path, {"train/a": 2, "train/b": 2})
    (root / "train/a/001.png").write_bytes(b"x")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"001\.png"):
        for _ in data.load_data(root, SMALL, val_split=0, cache_bytes=0).train:
            pass


def passes(loaded, count=2):
    return [[(x.numpy(), y.numpy()) for x, y in loaded.train] for _ in range(count)]


def flat(one_pass):
    return [np.concatenate(part) for part in zip(*one_pass, strict=True)]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["held", "streamed"])
def test_batches_are_deterministic_complete_and_reshuffled(tmp_path, cache_bytes):
    tf = pytest.importorskip("tensorflow")
    root = folder(tmp_path, {"a": 9, "b": 9})
    options = {"batch_size": 4, "augment": "light", "cache_bytes": cache_bytes}
    tf.random.set_seed(1)
    loaded = data.load_data(root, SMALL, **options)
    first, second = passes(loaded)
    tf.random.set_seed(2)  # which must not matter
    for one, other in zip((first, second), passes(data.load_data(root, SMALL, **options)), strict=True):
        for left, right in zip(flat(one), flat(other), strict=True):
            np.testing.assert_array_equal(left, right)
    assert not np.array_equal(flat(first)[0], flat(second)[0])
    assert not np.array_equal(flat(first)[0], flat(passes(data.load_data(root, SMALL, seed=1, **options), 1)[0])[0])
    assert len(loaded.train) == len(first) == 4
    assert sorted(flat(first)[1]) == [0] * 7 + [1] * 7
    loaded.seek(1)
    np.testing.assert_array_equal(flat(passes(loaded, 1)[0])[0], flat(second)[0])


def test_held_and_streamed_agree_and_val_is_in_order(tmp_path):
    pytest.importorskip("tensorflow")
    root = folder(tmp_path, {"train/a": 5, "train/b": 5, "val/a": 3, "val/b": 2})
    held, streamed = (data.load_data(root, SMALL, batch_size=4, cache_bytes=room) for room in (1 << 30, 0))
    for left, right in zip(flat(passes(held, 1)[0]), flat(passes(streamed, 1)[0]), strict=True):
        np.testing.assert_array_equal(left, right)
    for loaded in (held, streamed):
        images = np.concatenate([x.numpy() for x, _ in loaded.val])
        expected = [data.load_image(source.read(), SMALL) for source in loaded.splits.val.sources]
        np.testing.assert_array_equal(images, np.stack(expected))
        assert np.concatenate([y.numpy() for _, y in loaded.val]).tolist() == [0, 0, 0, 1, 1]
        assert loaded.train.element_spec[0].shape.as_list() == [None, 8, 8, 3]
        assert loaded.test is None
        with pytest.raises(BadData, match="no split 'test'"):
            loaded.arrays("test")


def test_augmentation_keeps_labels_and_leaves_val_alone(tmp_path):
    pytest.importorskip("tensorflow")
    for name, level in (("dark", 10), ("light", 240)):
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.png").write_bytes(encode(np.full((9, 9, 3), level + i, np.uint8)))
    loaded = data.load_data(tmp_path, SMALL, augment="light")
    images, labels = flat(passes(loaded, 1)[0])
    np.testing.assert_array_equal(images.mean((1, 2, 3)) > 128, labels == 1)
    np.testing.assert_array_equal(next(iter(loaded.val))[0].numpy(), loaded.arrays("val").images)


def test_digits_are_never_mirrored():
    pytest.importorskip("tensorflow")
    loaded = data.load_data(
        "digits", Preprocess(size=(8, 8), crop=1.0).for_channels(1), augment="light", batch_size=256
    )
    assert loaded.splits.chiral and loaded.class_names == tuple("0123456789")
    assert sum(loaded.sizes.values()) == 1797 and 350 <= loaded.sizes["val"] <= 370
    images, labels = next(iter(loaded.train))
    # 8 // 10 is no shift at all, so that only a mirror could have changed anything.
    everything = {image.tobytes() for image in loaded.arrays().images}
    assert all(image.tobytes() in everything for image in images.numpy()) and labels.dtype == "int32"
    assert loaded.arrays().images.max() == 255


def test_bad_options(tmp_path):
    for options, message in [({"augment": "odd"}, "'light'"), ({"batch_size": 0}, "batch_size=0")]:
        with pytest.raises(BadSpec, match=message):
            data.load_data("digits", SMALL, **options)
    with pytest.raises(BadSpec, match="channels=2"):
        data.load_data("digits", SMALL, channels=2)


def test_arrays_need_no_tensorflow(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from keras_cnn import data; from keras_cnn.models.config import Preprocess\n"
        "from keras_cnn.errors import MissingPackage\n"
        f"loaded = data.load_data({str(tmp_path)!r}, Preprocess(size=(8, 8)))\n"
        "assert loaded.arrays('train').images.shape == (4, 8, 8, 3)\n"
        "try: loaded.train\n"
        "except MissingPackage as error: assert 'Data.arrays()' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_images_that_are_laid_down_are_read_in_any_order_by_many_threads():
    from keras_cnn.data.files import Spool

    spool = Spool()
    contents = [bytes([i]) * (1000 + i) for i in range(200)]
    opened = [spool.add(content) for content in contents[:100]]
    assert opened[3]().read() == contents[3]
    opened += [spool.add(content) for content in contents[100:]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: opened[i]().read(), reversed(range(200))))
    assert found[::-1] == contents
