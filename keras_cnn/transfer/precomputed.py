"""What a frozen network says of all images, computed once and learnt on instead of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.data.examples import Pair
from keras_cnn.data.training_set import TrainingSet
from keras_cnn.deploy.engines import running
from keras_cnn.errors import BadImage, NotFinite
from keras_cnn.terminal import progress
from keras_cnn.transfer.cache import Store, features

MEMORY = 2 << 30  # bytes of features that are held at once


class Features:
    """The features of a training set: of one network at a time, since the head's phase follows the probe."""

    def __init__(self, data: TrainingSet) -> None:
        self.data = data
        self._last: dict[Any, Any] = {}

    def of(
        self, network: Any, place: bool | str | Path = False, views: int = 0
    ) -> tuple[list[Pair], Pair | None] | None:
        """([(features, labels) of each view], those of validation): what a frozen network says of all images.

        place: where they are kept on disk; True for the usual folder. views: how many augmented passes; 0 for the
        images themselves.
        None where images cannot be seen again as they were, or where their features would fill the memory.
        """
        data, shape = self.data, network.output_shape[1:]
        if not data.again or None in shape or data.count * max(views, 1) * math.prod(shape) * 4 > MEMORY:
            return None
        if (network.output.name, views) not in self._last:
            store = Store(network, None if place is True else place) if place else None
            passes = [data.plain()] if not views else map(data.view, range(views))
            train = [featurise(network, batches, store) for batches in passes]
            held_out = data.held_out()
            val = None if held_out is None else featurise(network, held_out, store)
            self._last = {(network.output.name, views): (train, val)}
        return self._last[(network.output.name, views)]


class _Folded:
    """A network for prediction only, made when it is first needed: features on disk need none."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @cached_property
    def folded(self) -> Any:
        return running(self.network)

    def predict_on_batch(self, images: Any) -> Any:
        return self.folded.predict_on_batch(images)


def featurise(network: Any, batches: Any, store: Store | None) -> Pair:
    """Features and labels of batches of labelled images."""
    labels = []

    def images() -> Iterator[Any]:
        for inputs, truth in batches:
            labels.append(np.asarray(truth))
            yield inputs

    with BadImage.surfacing():
        found = features(_Folded(network), progress(images(), "computing features", length_hint(batches)), store)
    if not np.isfinite(found).all():
        raise NotFinite(f"{network.name}: features of some images are not numbers: do not use these weights.")
    return found, np.concatenate(labels)
