"""Images of more than 8 bits, and other kinds that decoders read in their own way."""

import dataclasses
import json
import struct
import warnings
import zlib

import numpy as np
import pytest
from images import encode, folder, noise
from PIL import Image

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.errors import BadImage, BadSpec, DataWarning
from keras_cnn.models import registry
from keras_cnn.models.config import Preprocess

GRAY = Preprocess(size=(8, 8), crop=1.0).for_channels(1)


def deep(values, file_format="PNG"):
    return encode(Image.fromarray(np.asarray(values, np.uint16)), file_format)


def scans(root, tops, count=6):
    """A folder of 16-bit images of one class each, of values up to its top."""
    for n, (name, top) in enumerate(tops.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            values = np.random.default_rng(10 * n + i).integers(top // 2, top + 1, (9, 9))
            values[0, 0] = top
            (root / name / f"{i}.png").write_bytes(deep(values))
    return root


# --- one image -------------------------------------------------------------------------------------------------------


@pytest.mark.no_keras
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("top", "bits"), [(200, 8), (256, 10), (1023, 10), (4000, 12), (5000, 14), (16383, 14)])
def test_one_image_shows_the_bits_in_use_and_says_so(file_format, top, bits):
    values = np.linspace(0, top, 12).astype(np.uint16).reshape(3, 4)
    with pytest.warns(DataWarning, match=rf"so 0\.\.{2**bits - 1} become 0\.\.255"):
        seen = data.read_image(deep(values, file_format), channels=1)
    np.testing.assert_array_equal(seen[..., 0], np.rint(values / (2**bits - 1) * 255))
    assert seen.max() > 50


@pytest.mark.no_keras
def test_the_whole_range_is_understood_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.read_image(deep([[0, 257, 40_000]]), channels=1)[0, :, 0].tolist() == [0, 1, 156]


@pytest.mark.no_keras
def test_a_window_decides():
    blob = deep([[0, 100, 300, 500, 9000]])
    assert data.read_image(blob, channels=1, window=(100, 500))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    sees = dataclasses.replace(GRAY, size=(1, 5), mode="squash", window=(100, 500))
    assert data.load_image(blob, sees)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert data.load_image(blob, sees, window=(0, 9000))[0, -1, 0] == 255
    np.testing.assert_array_equal(data.read_image(encode(noise()), window=(100, 500)), noise())  # 8 bits as they are
    hounsfield = encode(Image.fromarray(np.array([[-2000, -160, 40, 240]], np.int32)), "TIFF")
    assert data.read_image(hounsfield, channels=1, window=(-160, 240))[0, :, 0].tolist() == [0, 0, 128, 255]
    floats = encode(Image.fromarray(np.array([[-1, 0, 0.5, 1, np.inf]], np.float32)), "TIFF")
    assert data.read_image(floats, channels=1, window=(0, 1))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.no_keras
@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.array([[-5, 9]], np.int32), {}, "beyond 16 bits have no agreed range; give window"),
        (np.array([[0, 1 << 17]], np.int32), {}, "beyond 16 bits have no agreed range; give window"),
        (np.array([[0.5]], np.float32), {}, "floating-point pixels have no agreed range; give window"),
        (np.array([[0, np.nan]], np.float32), {"window": (0, 1)}, "not numbers"),
    ],
)
def test_values_without_a_range_are_refused(values, options, message):
    with pytest.raises(BadImage, match=message):
        data.read_image(encode(Image.fromarray(values), "TIFF"), **options)


@pytest.mark.no_keras
@pytest.mark.parametrize(
    "window", [(1, 1), (5, 2), 7, (1,), (0, "x"), (0, float("nan")), (0, float("inf")), (0, 1e300)]
)
def test_no_window(window):
    for use in (
        lambda: Preprocess(window=window),
        lambda: data.read_image(b"", window=window),
        lambda: data.load_data("digits", GRAY, window=window),
    ):
        with pytest.raises(BadSpec, match="window="):
            use()


# --- a data set, and the weights that learn it -----------------------------------------------------------------------


@pytest.mark.no_keras
def test_a_data_set_has_one_window(tmp_path):
    root = scans(tmp_path, {"dark": 900, "light": 4000})
    with pytest.warns(DataWarning, match=r"use 12, so 0\.\.4095 become 0\.\.255"):
        loaded = data.load_data(root, GRAY)
    assert loaded.preprocess.window == (0, 4095) and "gray values 0..4095 become 0..255" in loaded.summary
    seen = loaded.arrays()
    dark, light = (seen.images[seen.labels == label].max() for label in (0, 1))
    assert 40 < dark < 60 and light > 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load_data(root, GRAY, window=(0, 1000)).preprocess.window == (0, 1000)


@pytest.mark.no_keras
def test_every_training_image_counts_and_images_of_8_bits_do_not(tmp_path):
    root = scans(tmp_path, {"train/a": 300, "train/b": 300, "val/a": 60_000}, count=5)
    (root / "train/a/9.png").write_bytes(deep(np.full((9, 9), 3000)))
    folder(root, {"train/b/plain": 250})
    with pytest.warns(DataWarning, match="use 12"):
        loaded = data.load_data(root, GRAY)
    seen = loaded.arrays().images
    expected = data.load_image((root / "train/b/plain/000.png").read_bytes(), GRAY)
    assert any(np.array_equal(image, expected) for image in seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load_data(folder(tmp_path / "plain", {"a": 2, "b": 2}), GRAY).preprocess.window is None


@pytest.mark.no_keras
def test_the_window_of_the_weights_is_kept_and_brighter_images_are_told(tmp_path):
    sees = dataclasses.replace(GRAY, window=(0, 1023))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load_data(scans(tmp_path / "ten", {"a": 900, "b": 300}), sees).preprocess == sees
    with pytest.warns(DataWarning, match=r"gray values of 4000, above the window of the weights.*0\.\.1023"):
        assert data.load_data(scans(tmp_path / "twelve", {"a": 900, "b": 4000}), sees).preprocess == sees


@pytest.mark.filterwarnings("ignore::keras_cnn.errors.DataWarning")
@pytest.mark.parametrize(
    ("learn", "told"),
    [(kc.fine_tune, {"head_epochs": 1, "epochs": 0, "probe": False, "cache": False}), (kc.train, {"epochs": 1})],
    ids=["fine_tune", "train"],
)
def test_weights_remember_the_window_that_they_learnt_in(tmp_path, learn, told):
    root = scans(tmp_path / "scans", {"a": 900, "b": 4000})
    net = kc.build("resnet20", classes=["a", "b"], input_shape=(16, 16, 1))
    learn(net, kc.load_data(root, net, batch_size=4), out=tmp_path / "run", verbose=0, **told)
    again = kc.build(tmp_path / "run")
    assert kc.Preprocess.of(again).window == kc.config_of(again).preprocess.window == (0, 4095)
    image = kc.load_image(root / "a" / "0.png", kc.Preprocess.of(again))
    assert image.max() <= 60  # dark, as it is beside the others


@pytest.mark.no_keras
def test_configurations_without_a_window_are_read():
    values = json.loads(json.dumps(registry.get("resnet20").to_dict()))
    assert values["preprocess"].pop("window") is None
    assert registry.config_from_dict(values).preprocess.window is None
    values["preprocess"]["window"] = [0, 4095]
    assert registry.config_from_dict(values).preprocess.window == (0, 4095)


# --- other kinds -----------------------------------------------------------------------------------------------------


def png(pixels, color_type):
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.no_keras
def test_colour_of_16_bits_keeps_its_high_byte_and_tells_where_little_is_left():
    values = np.array([[[0, 256, 65535], [4095, 2048, 128]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(data.read_image(png(values, 2)), values >> 8)
    with pytest.warns(DataWarning, match="high byte"):
        data.read_image(png(np.minimum(values, 4095), 2))
    with pytest.warns(DataWarning, match="high byte"):  # gray and alpha: alpha does not count
        data.read_image(png(np.array([[[4095, 65535], [4095, 65535]]]), 4))


@pytest.mark.no_keras
def test_transparency_of_gray_and_palettes_is_laid_on_white():
    gray = Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8))
    assert gray.mode == "LA" and data.read_image(encode(gray), channels=1)[0, :, 0].tolist() == [100, 255]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert data.read_image(encode(palette, transparency=1))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert data.read_image(encode(palette, "GIF", transparency=1))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.no_keras
def test_of_several_pages_the_first_is_taken():
    pages = [Image.new("RGB", (3, 2), "red"), Image.new("RGB", (9, 9), "blue")]
    seen = data.read_image(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    np.testing.assert_array_equal(seen, np.full((2, 3, 3), (255, 0, 0), np.uint8))


@pytest.mark.no_keras
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_turns_nothing_and_costs_no_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = encode(Image.new("RGB", (20, 10), "red"), "JPEG", exif=exif)
    assert data.read_image(upright).shape == (20, 10, 3)
    for damaged in (b"Exif\0\0II*\0\xff\xff\xff\xff rubbish", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"):
        blob = encode(Image.new("RGB", (20, 10), "red"), "JPEG", exif=damaged)
        assert data.read_image(blob).shape == (10, 20, 3)
    exif[0x0112] = 99
    assert data.read_image(encode(Image.new("RGB", (20, 10)), exif=exif)).shape == (10, 20, 3)
