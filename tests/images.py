"""Tiny image files and folders for the tests, made on the spot."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(height: int = 12, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random uint8 (height, width, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(pixels: np.ndarray) -> Image.Image:
    """Pillow image of uint8 (H, W, C); one channel is gray."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    (picture(image) if isinstance(image, np.ndarray) else image).save(file, file_format, **options)
    return file.getvalue()


def folder(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (10, 12)) -> Path:
    """Write `counts[place]` PNG images of noise into root/place; sizes differ from image to image."""
    for p, (place, count) in enumerate(counts.items()):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = noise(size[0] + i % 3, size[1] + i % 2, seed=1000 * p + i)
            (root / place / f"{i:03}.png").write_bytes(encode(pixels))
    return root


def zipped(root: Path, path: Path, top: str = "") -> Path:
    """A zip of all files below root, below a folder `top` if given."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(top, file.relative_to(root)))
    return path
