"""Whole splits decoded to arrays, on all cores."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from keras_cnn.data import crops, masks, survey
from keras_cnn.data.images import decode, resize_and_crop
from keras_cnn.data.splits import Split, Splits
from keras_cnn.errors import BadData, BadImage
from keras_cnn.models.config import Preprocess
from keras_cnn.terminal import progress

log = logging.getLogger("keras_cnn")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Arrays:
    """images: uint8 (n, height, width, channels); labels; skipped: names of images that were unreadable.

    labels: int32 (n,), or uint8 (n, classes), or float32 (n, targets), as those of `Split`; of segmentation the masks,
    uint8 (n, height, width), in which 255 is a pixel that does not count.
    photos: the same images whole, squashed to one size; stretch: float32 (n,), see `crops.whole`; or None, both.
    photo_masks: of segmentation, their masks.
    """

    images: np.ndarray
    labels: np.ndarray
    skipped: tuple[str, ...] = ()
    photos: np.ndarray | None = None
    stretch: np.ndarray | None = None
    photo_masks: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Bytes of memory."""
        parts = (self.images, self.labels, self.photos, self.photo_masks)
        return sum(part.nbytes for part in parts if part is not None)

    def some(self, kept: np.ndarray) -> Arrays:
        """Some of the images, by an index or a mask of NumPy."""
        parts = (self.photos, self.stretch, self.photo_masks)
        photos, stretch, photo_masks = (None if part is None else part[kept] for part in parts)
        return Arrays(self.images[kept], self.labels[kept], (), photos, stretch, photo_masks)


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
    BadData, for a mask of another size than its image, or with a value that has no class.
    """
    channels = channels or len(preprocess.mean)
    count, masked = len(split.sources), split.masks is not None
    images = np.empty((count, *preprocess.size, channels), np.uint8)
    labels = np.empty((count, *preprocess.size), np.uint8) if masked else split.labels
    photos = np.empty((count, *canvas, channels), np.uint8) if canvas else None
    photo_masks = np.empty((count, *canvas), np.uint8) if canvas and masked else None
    stretch = np.ones(count, np.float32) if canvas else None
    readable = np.ones(count, bool)

    def see(image: np.ndarray, mask: np.ndarray | None, name: str) -> tuple[Any, Any]:
        return as_seen(image, mask, name, preprocess), canvas and as_photo(image, mask, canvas, preprocess)

    def fill(start: int) -> None:
        for i in range(start, min(start + 64, count)):
            made = load(split, i, preprocess, channels, skip_bad, see)
            readable[i] = made is not None
            if made is not None:
                images[i], mask = made[0]
                if masked:
                    labels[i] = mask
            if made is not None and photos is not None and stretch is not None:
                photos[i], mask, stretch[i] = made[1]
                if photo_masks is not None:
                    photo_masks[i] = mask

    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes and resizes without holding the GIL
    try:
        starts = range(0, count, 64)
        for _ in progress(pool.map(fill, starts), f"decoding {count} images", len(starts)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    found = Arrays(images, labels, (), photos, stretch, photo_masks)
    if readable.all():
        return found
    return replace(found.some(readable), skipped=tuple(split.sources[i].name for i in np.flatnonzero(~readable)))


def held(
    splits: Splits,
    wanted: Collection[str],
    preprocess: Preprocess,
    canvas: tuple[int, int] | None,
    room: int,
    *,
    channels: int,
    skip_bad: bool,
) -> dict[str, Arrays]:
    """The splits that fit into so many bytes, decoded; the smallest first, whole photos last."""
    found: dict[str, Arrays] = {}
    for name, split in sorted(splits.items(), key=lambda item: len(item[1].sources)):
        deep = channels + (split.masks is not None)
        size, whole = (len(split.sources) * deep * math.prod(sides or (0,)) for sides in (preprocess.size, canvas))
        if name in wanted and size <= room:
            photos = canvas if name == "train" and size + whole <= room else None
            room -= size + (whole if photos else 0)
            found[name] = arrays(split, preprocess, channels=channels, skip_bad=skip_bad, canvas=photos)
            if name == "train" and splits.task in ("classification", "multilabel"):
                for label, count in survey.counts(found[name].labels, splits.class_names).items():
                    if not count:
                        bad = found[name].skipped[0]
                        raise BadData(f"every image of the class {label!r} is unreadable, such as {bad}.")
    return found


def load(
    split: Split,
    i: int,
    preprocess: Preprocess,
    channels: int,
    skip_bad: bool,
    see: Callable[[np.ndarray, np.ndarray | None, str], Made],
) -> Made | None:
    """What is made of image i, given its pixels, its mask and its name; None where it is unreadable and may be skipped.

    The mask is that of classes, uint8, as large as the image; None where images have none.
    """
    source = split.sources[i]
    try:
        image = decode(source.read, channels, source.name, preprocess.window)
        mask = split.legend.read(split.masks[i], image.shape[:2]) if split.masks and split.legend else None
        return see(image, mask, source.name)
    except BadImage as error:
        if not skip_bad:
            raise
        log.warning("skipped: %s", error)
        return None


def as_seen(
    image: np.ndarray, mask: np.ndarray | None, name: str, preprocess: Preprocess
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its mask as at evaluation, both of preprocess.size, cut by the same geometry."""
    seen = resize_and_crop(image, preprocess, name=name)
    return seen, None if mask is None else masks.at_size(mask, preprocess, name)


def as_photo(
    image: np.ndarray, mask: np.ndarray | None, canvas: tuple[int, int], preprocess: Preprocess
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """A whole photo and its mask on a canvas, and its stretch; see `crops.whole`."""
    photo, stretch = crops.whole(image, canvas, preprocess)
    return photo, None if mask is None else crops.whole_mask(mask, canvas, preprocess), stretch
