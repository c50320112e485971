"""One image, from a file to the pixels that the weights expect.

Training, evaluation and prediction share `read_image` and `resize_and_crop`: Pillow decodes and resizes, so that
scores are comparable with those published for the weights.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_cnn.checks import known_options
from keras_cnn.errors import BadImage, BadSpec
from keras_cnn.spec import Preprocess

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
MOST_PIXELS = 200_000_000  # of a resized image, before the crop


def read_image(
    source: str | os.PathLike[str] | bytes | IO[bytes], *, channels: int = 3, name: str | None = None
) -> np.ndarray:
    """Decode an image file: uint8 (height, width, channels), 0..255, upright as its EXIF orientation says.

    source: path, the file's bytes, or an open binary file. channels: 1 (gray), 3 (RGB) or 4 (RGBA).
    name: what messages call it; by default the path. Of an animation the first frame is taken, transparency is laid
    on white unless channels=4, and 16-bit gray is scaled (not clipped) to 8 bits. ICC profiles are not applied.
    Raises BadImage for what cannot be read, BadSpec for another number of channels.
    """
    if channels not in MODES:
        raise BadSpec(f"channels={channels!r}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels.")
    if isinstance(source, bytes):
        return decode(lambda: source, channels, name or "image")
    if isinstance(source, str | os.PathLike):
        return decode(Path(source).read_bytes, channels, name or os.fspath(source))
    return decode(source.read, channels, name or str(getattr(source, "name", "image")))


def resize_and_crop(image: np.ndarray, preprocess: Preprocess, *, name: str = "image") -> np.ndarray:
    """Resize and centre-crop as timm evaluates: uint8 (H, W, C) to uint8 (*preprocess.size, C), C one of 1, 3, 4.

    Source: timm `data/transforms_factory.py`, `transforms_imagenet_eval`, and torchvision's Resize and CenterCrop,
    on Pillow's antialiased filters. Raises BadSpec for another kind of array, BadImage for an extreme aspect ratio.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in PLAIN_MODES:
        raise BadSpec(f"{name}: give uint8 (height, width, 1, 3 or 4), not {image.dtype} {image.shape}.")
    height, width, channels = image.shape
    tall, wide = _resized(height, width, preprocess)
    if tall * wide > MOST_PIXELS:
        raise BadImage(f"{name}: {width}x{height} pixels are too elongated to be resized; crop the image first.")
    picture = Image.frombytes(PLAIN_MODES[channels], (width, height), np.ascontiguousarray(image).tobytes())
    if (tall, wide) != (height, width):
        picture = picture.resize((wide, tall), FILTERS[preprocess.interpolation])
    crop_height, crop_width = preprocess.size
    top, left = round((tall - crop_height) / 2), round((wide - crop_width) / 2)  # half to even, like torchvision
    picture = picture.crop((left, top, left + crop_width, top + crop_height))
    return np.array(picture).reshape(crop_height, crop_width, channels)


@known_options
def load_image(
    source: str | os.PathLike[str] | bytes | IO[bytes],
    preprocess: Any,
    channels: int | None = None,
    *,
    name: str | None = None,
) -> np.ndarray:
    """`read_image`, then `resize_and_crop`: uint8 (*preprocess.size, channels), by default those of preprocess.mean.

    source: a path, bytes or an open file. preprocess: a `Preprocess`, or the network to feed.
    """
    preprocess = Preprocess.of(preprocess)
    image = read_image(source, channels=channels or len(preprocess.mean), name=name)
    return resize_and_crop(image, preprocess, name=name or (str(source) if isinstance(source, str | Path) else "image"))


def decode(read: Callable[[], bytes], channels: int, name: str) -> np.ndarray:
    try:
        blob = read()
    except Exception as error:  # a missing file, or a zip member whose checksum fails
        raise BadImage(f"{name}: the file cannot be read ({error}); check that it exists and is whole.") from error
    if not blob:
        raise BadImage(f"{name}: the file is empty (0 bytes); replace or remove it.")
    try:
        with Image.open(io.BytesIO(blob), formats=FORMATS) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image, MODES[channels])
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: this is not an image in a known format ({', '.join(FORMATS)}).") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"{name}: the image has too many pixels to be decoded safely; shrink it first.") from error
    except MemoryError:
        raise
    except Exception as error:  # from damaged files, decoders raise anything
        raise BadImage(f"{name}: the image is damaged or unsupported ({error}); replace or remove it.") from error


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    elif image.has_transparency_data and mode != "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert(mode)).reshape(image.height, image.width, -1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits to 8: 65535 = 255 * 257. Pillow itself would clip."""
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError("gray values beyond 16 bits have no agreed range")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) of the whole image after the resize."""
    tall, wide = (math.floor(side / preprocess.crop) for side in preprocess.size)
    if preprocess.mode == "squash":
        return tall, wide
    if tall == wide:  # torchvision's Resize(int) truncates the long side
        return (tall, int(tall * width / height)) if height <= width else (int(tall * height / width), tall)
    ratio = min(height / tall, width / wide)  # timm's ResizeKeepRatio rounds; here it keeps the weights' interpolation
    return round(height / ratio), round(width / ratio)
