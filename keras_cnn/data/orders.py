"""The order of a pass over training images: a function of seed and epoch alone, so that no buffer has to be kept."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from keras_cnn.data.augment import tensorflow
from keras_cnn.data.shards import Record
from keras_cnn.data.splits import Split

LARGE = 32 << 30  # bytes of shards that the memory of few machines keeps: from here on, they are read by blocks
BLOCK = 64  # images that lie beside each other: some megabytes, which a disk reads as fast as one image
WINDOW = 64  # blocks that are mixed at a time


def blocks_of(split: Split) -> int | None:
    """How many images of a split are read as a block; None where they are as well read one by one.

    It depends on nothing but the data: what the machine has would make another order on another machine.
    """
    lying = [source.size for source in split.sources if isinstance(source, Record)]
    return BLOCK if len(lying) == len(split.sources) and sum(lying) > LARGE else None


def shuffled(count: int, key: Any, block: int | None = None) -> Any:
    """Graph function: a permutation of 0 ... count - 1, int64, for a key, int64 (2,).

    block: where images lie in shards that are larger than memory, blocks of so many come in a random order, and images
    are mixed within windows of WINDOW blocks. A shuffle buffer of the same number of images does that to a stream, too,
    but what is in it is a state that would have to be kept to go on after a stop. Here the order is known beforehand,
    any image is read at its place, and the place in the data is an epoch and a step.
    """
    tf = tensorflow()
    every = tf.range(count, dtype=tf.int64)
    if block is None:
        return tf.random.experimental.stateless_shuffle(every, key)
    blocks = -(-count // block)
    place = tf.random.experimental.stateless_shuffle(tf.range(blocks, dtype=tf.int64), key)
    window = tf.gather(place, every // block) // WINDOW
    second = tf.random.experimental.stateless_fold_in(key, 1)
    chance = tf.random.stateless_uniform([count], second, dtype=tf.float64)
    return tf.argsort(tf.cast(window, tf.float64) + chance, stable=True)


class ReadAhead:
    """Has the system read a block from end to end as soon as one of its images is asked for.

    So a disk that seeks slowly reads some megabytes at a time, though the images of a window come mixed. split: with
    blocks, see `blocks_of`. Nothing happens where the system has no such advice, or there are no blocks.
    """

    def __init__(self, split: Split) -> None:
        self.sources, self.block = split.sources, blocks_of(split) if hasattr(os, "posix_fadvise") else None
        self.advised: OrderedDict[int, None] = OrderedDict()

    def __call__(self, indices: Iterable[int]) -> None:
        size = self.block
        for block in {i // size for i in indices} - self.advised.keys() if size else ():
            self.advised[block] = None
            if len(self.advised) > 4 * WINDOW:
                self.advised.popitem(last=False)
            self._advise(self.sources[block * BLOCK : (block + 1) * BLOCK])

    @staticmethod
    def _advise(records: Any) -> None:
        for path in {record.path for record in records}:
            some = [record for record in records if record.path == path]
            try:
                with open(path, "rb") as file:
                    size = some[-1].start + some[-1].size - some[0].start
                    os.posix_fadvise(file.fileno(), some[0].start, size, os.POSIX_FADV_WILLNEED)
            except OSError:  # who reads the image tells what is wrong
                return
