"""Whole splits decoded to arrays, on all cores."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from keras_cnn.data import crops
from keras_cnn.data.files import Source
from keras_cnn.data.images import decode, resize_and_crop
from keras_cnn.data.index import Split
from keras_cnn.errors import BadImage
from keras_cnn.models.config import Preprocess
from keras_cnn.terminal import progress

log = logging.getLogger("keras_cnn")
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Arrays:
    """images: uint8 (n, height, width, channels); labels: int32 (n,); skipped: names of images that were unreadable.

    photos: the same images whole, squashed to one size, and stretch: float32 (n,), see `crops.whole`; or None, both.
    """

    images: np.ndarray
    labels: np.ndarray
    skipped: tuple[str, ...] = ()
    photos: np.ndarray | None = None
    stretch: np.ndarray | None = None

    def some(self, kept: np.ndarray) -> Arrays:
        """Some of the images, by an index or a mask of NumPy."""
        photos, stretch = (None if part is None else part[kept] for part in (self.photos, self.stretch))
        return Arrays(self.images[kept], self.labels[kept], photos=photos, stretch=stretch)


def arrays(
    split: Split,
    preprocess: Preprocess,
    *,
    channels: int | None = None,
    skip_bad: bool = False,
    canvas: tuple[int, int] | None = None,
) -> Arrays:
    """Decode a whole split, on all cores, as `load_image` does; a progress bar shows on a terminal.

    canvas: (height, width) of whole photos that are wanted as well.
    Raises BadImage, naming the file, at the first unreadable image in order; with skip_bad, leaves such images out.
    """
    channels = channels or len(preprocess.mean)
    count = len(split.sources)
    images = np.empty((count, *preprocess.size, channels), np.uint8)
    photos = np.empty((count, *canvas, channels), np.uint8) if canvas else None
    stretch = np.ones(count, np.float32) if canvas else None
    readable = np.ones(count, bool)

    def see(image: np.ndarray, name: str) -> tuple[np.ndarray, Any]:
        return resize_and_crop(image, preprocess, name=name), canvas and crops.whole(image, canvas, preprocess)

    def fill(start: int) -> None:
        for i in range(start, min(start + 64, count)):
            seen = load(split.sources[i], preprocess, channels, skip_bad, see)
            readable[i] = seen is not None
            if seen is not None:
                images[i] = seen[0]
            if seen is not None and photos is not None and stretch is not None:
                photos[i], stretch[i] = seen[1]

    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes and resizes without holding the GIL
    try:
        starts = range(0, count, 64)
        for _ in progress(pool.map(fill, starts), f"decoding {count} images", len(starts)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    found = Arrays(images, split.labels, photos=photos, stretch=stretch)
    if readable.all():
        return found
    return replace(found.some(readable), skipped=tuple(split.sources[i].name for i in np.flatnonzero(~readable)))


def load(
    source: Source, preprocess: Preprocess, channels: int, skip_bad: bool, see: Callable[[np.ndarray, str], Seen]
) -> Seen | None:
    """What is made of an image, given its pixels and its name; None where it is unreadable and may be skipped."""
    try:
        return see(decode(source.read, channels, source.name, preprocess.window), source.name)
    except BadImage as error:
        if not skip_bad:
            raise
        log.warning("skipped: %s", error)
        return None
