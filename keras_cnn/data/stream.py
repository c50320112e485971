"""Images decoded as they are needed, so that any number of them takes the memory of a few batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from keras_cnn.data.files import Source
from keras_cnn.data.images import decode, resize_and_crop
from keras_cnn.errors import BadImage
from keras_cnn.models.config import Preprocess

Item = TypeVar("Item")
Made = TypeVar("Made")


class Photo(NamedTuple):
    """An image of a file. pixels: uint8 (height, width, channels), as a network sees them; size: (height, width) of
    the file, upright."""

    pixels: np.ndarray
    size: tuple[int, int]


def decoded(
    sources: Iterable[Source],
    preprocess: Preprocess,
    *,
    whole: bool = False,
    cut: Callable[..., np.ndarray] = resize_and_crop,
    channels: int | None = None,
    ahead: int = 64,
    skip_bad: bool = False,
) -> Iterator[tuple[Source, Photo | BadImage]]:
    """Each source in order with its pixels, uint8 (*preprocess.size, channels), decoded as `load_image` does.

    whole: at the file's own size instead, neither resized nor cropped. cut: what else is made of them, such as
    `five_crops`. ahead: how many are decoded before they are asked for. skip_bad: an unreadable image comes with its
    BadImage instead of raising it.
    """
    channels = channels or len(preprocess.mean)

    def load(source: Source) -> Photo | BadImage:
        try:
            image = decode(source.read, channels, source.name, preprocess.window)
            pixels = image if whole else cut(image, preprocess, name=source.name)
            return Photo(pixels, (image.shape[0], image.shape[1]))
        except BadImage as error:
            if not skip_bad:
                raise
            return error

    return in_order(load, sources, ahead)


def in_order(make: Callable[[Item], Made], items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, Made]]:
    """Each item in order with what is made of it, on all cores. ahead: how many are made before they are asked for."""
    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes and resizes without holding the GIL
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > ahead:
                first, made = waiting.popleft()
                yield first, made.result()
        while waiting:
            first, made = waiting.popleft()
            yield first, made.result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
