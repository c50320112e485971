"""Arrays as training data: batches whose order follows from a seed and the epoch alone, so that a run can go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


class Examples(keras.utils.PyDataset):
    """Batches (inputs, labels) of arrays, the last one smaller, on any backend.

    views: pairs (inputs, labels) of equal length; epoch e sees the pair e modulo their number.
    seed: shuffles each epoch in its own order; None keeps the order.
    outputs: how many outputs of the network learn the same labels (an auxiliary classifier makes two).
    """

    def __init__(self, views: Sequence[Pair], batch_size: int, seed: int | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.views, self.batch_size, self.seed, self.outputs = views, batch_size, seed, outputs
        self.seek(0)

    def seek(self, epoch: int) -> None:
        """Make the next pass that of `epoch`, counted from 0; Keras calls no hook at the same time on all backends."""
        count = len(self.views[0][0])
        self.epoch = epoch
        self.order = np.arange(count)
        if self.seed is not None:
            self.order = np.random.default_rng((self.seed, epoch)).permutation(count)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        inputs, labels = self.views[self.epoch % len(self.views)]
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return inputs[chosen], labels[chosen] if self.outputs == 1 else (labels[chosen],) * self.outputs
