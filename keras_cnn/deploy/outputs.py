"""Images in, the outputs of a network out, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_cnn.data.stream import in_batches
from keras_cnn.tasks.base import scores


def outputs_of(
    model: Any, images: Iterable[tuple[Any, Any]], batch_size: int
) -> Iterator[tuple[Any, Any, np.ndarray | None]]:
    """(name, image, output) of pairs (name, image); None for what is no array, such as a BadImage."""
    for batch in in_batches(images, batch_size):
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        of_one_size = (np.stack([*some]) for _, some in itertools.groupby(readable, np.shape))
        rows = iter([row for some in of_one_size for row in scores(model, some)])
        for name, image in batch:
            yield name, image, next(rows) if isinstance(image, np.ndarray) else None
