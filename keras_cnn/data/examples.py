"""Arrays in batches: in order, or as training data whose order follows from a seed and the epoch alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


class Batches:
    """Arrays of one length in batches, the last one smaller, in order, as often as wanted."""

    def __init__(self, *arrays: np.ndarray, size: int = 32) -> None:
        self.arrays, self.size = arrays, size

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.arrays[0]), self.size):
            yield tuple(array[start : start + self.size] for array in self.arrays)


class Examples(keras.utils.PyDataset):
    """Batches (inputs, labels) of arrays, the last one smaller, on any backend.

    views: pairs (inputs, labels) of equal length; epoch e sees the pair e modulo their number.
    seed: shuffles each epoch in its own order; None keeps the order.
    start: the batch that each epoch begins with. full: leave out a last batch that is smaller.
    """

    def __init__(
        self, views: Sequence[Pair], batch_size: int, seed: int | None = None, *, start: int = 0, full: bool = False
    ) -> None:
        super().__init__()
        self.views, self.batch_size, self.seed, self.start, self.full = views, batch_size, seed, start, full
        self.seek(0)

    def seek(self, epoch: int) -> None:
        """Make the next pass that of `epoch`, counted from 0; Keras calls no hook at the same time on all backends."""
        count = len(self.views[0][0])
        self.epoch = epoch
        self.order = np.arange(count)
        if self.seed is not None:
            self.order = np.random.default_rng((self.seed, epoch)).permutation(count)

    def __len__(self) -> int:
        return (math.floor if self.full else math.ceil)(len(self.order) / self.batch_size) - self.start

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        inputs, labels = self.views[self.epoch % len(self.views)]
        index += self.start
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return inputs[chosen], labels[chosen]
