"""One image, from a file to the pixels that the weights expect.

Training, evaluation and prediction share `read_image` and `resize_and_crop`: Pillow decodes and resizes, so that
scores are comparable with those published for the weights.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_cnn.errors import BadImage, BadSpec, DataWarning, KerasCnnError
from keras_cnn.models.config import Preprocess, check_window
from keras_cnn.models.fields import known_options

# Only these decoders are tried: Pillow knows others that start foreign programs (EPS) or read exotic containers.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# For resizing, four channels are four equals: as "RGBA", Pillow would weight the first three by the last.
PLAIN_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
# Bounds on memory. An image may have PIL.Image.MAX_IMAGE_PIXELS (89 million): where Pillow only warns, its header is
# not believed any further. A file may have as many bytes as the pixels of such an image in RGB.
MOST_BYTES = 256 << 20
MOST_PIXELS = 100_000_000  # of a resized image, before the crop
LARGER = (
    0.875  # of five crops, where the weights' own crop is the whole image: what is usual for networks of 224 pixels
)
BAND = 1 << 22  # pixels of a large image that are converted at a time
DEPTHS = (8, 10, 12, 14, 16)  # bits of a camera's or scanner's gray, in files of 16
WHOLE = (0, 65535)
Seen = TypeVar("Seen")


def read_image(
    source: str | os.PathLike[str] | bytes | IO[bytes],
    *,
    channels: int = 3,
    name: str | None = None,
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Decode an image file: uint8 (height, width, channels), 0..255, upright as its EXIF orientation says.

    source: path, the file's bytes, or an open binary file. channels: 1 (gray), 3 (RGB) or 4 (RGBA).
    name: what messages call it; by default the path. Of an animation or a file of several pages the first is taken,
    and transparency is laid on white unless channels=4. ICC profiles are not applied.
    window: the values of gray pixels of more than 8 bits that become 0 and 255; others are clipped. Without one, gray
    of 16 bits is taken for 8, 10, 12, 14 or 16 bits, the fewest that hold it, with a DataWarning unless these are 16: a
    single image does not tell what others need. Floating-point pixels need a window. Colour of 16 bits keeps its high
    byte.
    Raises BadImage for what cannot be read or is too large (`PIL.Image.MAX_IMAGE_PIXELS`, 256 MiB), BadSpec for
    another number of channels or no window.
    """
    if channels not in MODES:
        raise BadSpec(f"channels={channels!r}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels.")
    check_window(window)
    if isinstance(source, bytes):
        return decode(lambda: source, channels, name or "image", window)
    if isinstance(source, str | os.PathLike):
        path, title = Path(source), name or printable(source)
        return decode(lambda: _read_path(path, title), channels, title, window)
    title = name or str(getattr(source, "name", "image"))
    return decode(lambda: read_bounded(source, title), channels, title, window)


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and written anywhere: bytes that are no UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resize_and_crop(image: np.ndarray, preprocess: Preprocess, *, name: str = "image") -> np.ndarray:
    """Resize and centre-crop as timm evaluates: uint8 (H, W, C) to uint8 (*preprocess.size, C), C one of 1, 3, 4.

    Source: timm `data/transforms_factory.py`, `transforms_imagenet_eval`, and torchvision's Resize and CenterCrop,
    on Pillow's antialiased filters. Raises BadSpec for another kind of array, BadImage for an extreme aspect ratio.
    """
    return _resized_parts(image, preprocess, _centre, name)[0]


def five_crops(image: np.ndarray, preprocess: Preprocess, *, name: str = "image") -> np.ndarray:
    """The corners of a resized image, and it as it is seen else: uint8 (H, W, C) to uint8 (5, *preprocess.size, C).

    They are top left, top right, bottom left, bottom right and centre, as torchvision's FiveCrop cuts them from what
    its Resize leaves. Where the weights see the whole image (crop=1), nothing lies around the centre: the corners are
    then those of the image at size / 0.875, and the fifth is the whole image. Raises as `resize_and_crop`.
    """
    if preprocess.crop < 1:
        return np.stack(_resized_parts(image, preprocess, lambda *room: [*_corners(*room), *_centre(*room)], name))
    larger = dataclasses.replace(preprocess, crop=LARGER)
    return np.stack([*_resized_parts(image, larger, _corners, name), resize_and_crop(image, preprocess, name=name)])


def _centre(high: int, wide: int) -> list[tuple[int, int]]:
    return [(round(high / 2), round(wide / 2))]  # half to even, like torchvision


def _corners(high: int, wide: int) -> list[tuple[int, int]]:
    return [(0, 0), (0, wide), (high, 0), (high, wide)]


def _resized_parts(
    image: np.ndarray, preprocess: Preprocess, places: Callable[[int, int], list[tuple[int, int]]], name: str
) -> list[np.ndarray]:
    """Parts of a resized image, each of preprocess.size.

    places: their tops and lefts, of the pixels that the resized image is higher and wider than a part.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in PLAIN_MODES:
        raise BadSpec(f"{name}: give uint8 (height, width, 1, 3 or 4), not {image.dtype} {image.shape}.")
    height, width, channels = image.shape
    tall, wide = _resized(height, width, preprocess)
    if tall * wide > MOST_PIXELS:
        raise BadImage(f"{name}: {width}x{height} pixels are too elongated to be resized; crop the image first.")
    high, broad = preprocess.size
    with _room.for_pixels(height * width + tall * wide):
        mode, pixels = PLAIN_MODES[channels], np.ascontiguousarray(image)
        picture = Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
        if (tall, wide) != (height, width):
            picture = picture.resize((wide, tall), FILTERS[preprocess.interpolation])
        boxes = [(left, top, left + broad, top + high) for top, left in places(tall - high, wide - broad)]
        return [np.array(picture.crop(box)).reshape(high, broad, channels) for box in boxes]


@known_options
def load_image(
    source: str | os.PathLike[str] | bytes | IO[bytes],
    preprocess: Any,
    channels: int | None = None,
    *,
    name: str | None = None,
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """`read_image`, then `resize_and_crop`: uint8 (*preprocess.size, channels).

    source: a path, bytes or an open file. preprocess: a `Preprocess`, or the network to feed. channels, window: by
    default those of preprocess.mean and preprocess.window. name: what messages call it; by default the path.
    """
    preprocess = Preprocess.of(preprocess)
    channels, window = channels or len(preprocess.mean), window or preprocess.window
    image = read_image(source, channels=channels, name=name, window=window)
    return resize_and_crop(
        image, preprocess, name=name or (printable(source) if isinstance(source, str | Path) else "image")
    )


def decode(
    read: Callable[[], bytes], channels: int, name: str, window: tuple[float, float] | None = None
) -> np.ndarray:
    """What `read_image` gives, of the bytes that `read` gives."""

    def see(image: Image.Image) -> np.ndarray:
        return pixels_of(image, MODES[channels], window)

    return decoded_by(see, read, name)


def decoded_by(
    see: Callable[[Image.Image], Seen],
    read: Callable[[], bytes],
    name: str,
    opened: Callable[[Image.Image], Any] | None = None,
) -> Seen:
    """What `see` makes of Pillow's image, decoded and upright, of the bytes that `read` gives; bounded as all are.

    opened: is shown the image before its pixels are decoded.
    """
    try:
        blob = read()
    except (KerasCnnError, MemoryError):
        raise
    except Exception as error:  # a missing file, or a zip member whose checksum fails
        raise BadImage(f"{name}: the file cannot be read ({error}); check that it exists and is whole.") from error
    if not blob:
        raise BadImage(f"{name}: the file is empty (0 bytes); replace or remove it.")
    try:
        with open_image(io.BytesIO(blob), name) as image, _room.for_pixels(image.width * image.height):
            if opened:
                opened(image)
            halved = not is_deep(image) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
            image.load()
            if halved:
                _tell_of_high_bytes(image)
            ImageOps.exif_transpose(image, in_place=True)
            return see(image)
    except (KerasCnnError, MemoryError):
        raise
    except Exception as error:  # from damaged files, decoders raise anything
        raise BadImage(f"{name}: the image is damaged or unsupported ({error}); replace or remove it.") from error


def open_image(file: IO[bytes], name: str) -> Image.Image:
    """Pillow's image, its header read but not its pixels; BadImage where there are too many of them."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: this is not an image in a known format ({', '.join(FORMATS)}).") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"{name}: the image has too many pixels to be decoded safely; shrink it first.") from error
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise BadImage(
            f"{name}: {image.width}x{image.height} are too many pixels to be decoded safely; shrink it first, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS (now {most:,})."
        )
    return image


def read_bounded(
    file: IO[bytes], name: str, most: int = 0, what: str = "an image", error: type[KerasCnnError] = BadImage
) -> bytes:
    """All bytes of a file, whatever size it claims; an error beyond what an image, or whatever it is, may have."""
    most = most or MOST_BYTES
    chunks, size = [], 0
    while chunk := file.read(1 << 20):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise error(f"{name}: the file has more than {most >> 20} MiB, too many for {what}; shrink it.")
    return b"".join(chunks)


def _read_path(path: Path, name: str) -> bytes:
    if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
        raise BadImage(f"{name}: this is not a regular file; to read from a pipe or device, pass it opened.")
    with path.open("rb") as file:
        return read_bounded(file, name)


class _Room:
    """Pixels that may be in the works at one time, over all threads: the rest wait."""

    def __init__(self, most: int) -> None:
        self.most, self.taken, self.changed = most, 0, threading.Condition()

    @contextmanager
    def for_pixels(self, count: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + count <= self.most)
            self.taken += count
        try:
            yield
        finally:
            with self.changed:
                self.taken -= count
                self.changed.notify_all()


# One large image at a time on a small machine; photos of 16 million pixels on every core of a large one.
_room = _Room(max(Image.MAX_IMAGE_PIXELS or 0, (os.cpu_count() or 1) << 24))


def pixels_of(image: Image.Image, mode: str, window: tuple[float, float] | None) -> np.ndarray:
    """uint8 (height, width, channels) of a decoded image, band by band, so that a large one is held twice at most."""
    height, width = image.height, image.width
    rows = max(1, BAND // max(width, 1))
    bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]

    def band(top: int, bottom: int) -> Image.Image:
        return image if (top, bottom) == (0, height) else image.crop((0, top, width, bottom))

    if is_deep(image) and window is None:
        window = bit_window(max(brightest(band(*rows)) for rows in bands))
        if window != WHOLE:
            text = f"gray of 16 bits is read by the bits in use of one image alone, so {in_words(window)}"
            warnings.warn(f"{text}; window=(low, high) says what all images need.", DataWarning, stacklevel=2)
    pixels = np.empty((height, width, Image.getmodebands(mode)), np.uint8)
    for top, bottom in bands:
        seen = _in_mode(band(top, bottom), mode, window)
        pixels[top:bottom] = np.asarray(seen).reshape(bottom - top, width, -1)
    return pixels


def _tell_of_high_bytes(image: Image.Image) -> None:
    """Warn of colour of 10, 12 or 14 bits in a file of 16, of which Pillow's high byte leaves next to nothing."""
    top = int(np.max([image.getchannel(band).getextrema() for band in image.getbands() if band != "A"]))
    if top < 64:
        text = (
            "colour images of 16 bits are read by their high byte, and some use little of it: convert them to 8 bits."
        )
        warnings.warn(text, DataWarning, stacklevel=2)


def _in_mode(image: Image.Image, mode: str, window: tuple[float, float] | None) -> Image.Image:
    if is_deep(image):
        image = _eight_bits(image, window)
    elif image.has_transparency_data and mode != "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def is_deep(image: Image.Image) -> bool:
    """Whether an image is gray of more than 8 bits: integers ("I", "I;16") or floating-point numbers ("F")."""
    return image.mode[0] in "IF"


def brightest(image: Image.Image) -> int:
    """The largest value of integers of 16 bits; ValueError for others, whose range is not known."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        raise ValueError("floating-point pixels have no agreed range; give window=(low, high)")
    if not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError("gray values beyond 16 bits have no agreed range; give window=(low, high)")
    return int(values.max())


def bit_window(top: float) -> tuple[float, float]:
    """The window of the fewest bits, of those that are usual, that hold a value."""
    return 0, next(2**bits - 1 for bits in DEPTHS if top < 2**bits)


def in_words(window: tuple[float, float]) -> str:
    low, high = window
    return f"{low:g}..{high:g} become 0..255"


def _eight_bits(image: Image.Image, window: tuple[float, float] | None) -> Image.Image:
    """Deep gray to 8 bits, rounded; Pillow itself would clip."""
    low, high = window or (0, 255)
    values = np.asarray(image).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("some pixels are not numbers (NaN)")
    return Image.fromarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) of the whole image after the resize."""
    tall, wide = (math.floor(side / preprocess.crop) for side in preprocess.size)
    if preprocess.mode == "squash":
        return tall, wide
    if tall == wide:  # torchvision's Resize(int) truncates the long side
        return (tall, int(tall * width / height)) if height <= width else (int(tall * height / width), tall)
    ratio = min(height / tall, width / wide)  # timm's ResizeKeepRatio rounds; here it keeps the weights' interpolation
    return round(height / ratio), round(width / ratio)


def as_png(image: np.ndarray) -> io.BytesIO:
    """An array, uint8 (height, width) or (height, width, channels), as a stream of PNG bytes, like any other file."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image).save(file, "PNG")
    file.seek(0)
    return file
