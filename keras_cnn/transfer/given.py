"""The labelled images of a run, in whatever form they were given: `Data`, arrays, or a data set of batches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from operator import length_hint
from pathlib import Path
from typing import Any, cast

import numpy as np

from keras_cnn.checkpoints import arrays
from keras_cnn.data import Data, Split, seen
from keras_cnn.data.examples import Batches, Examples, Pair
from keras_cnn.deploy.fold import fold
from keras_cnn.errors import BadData, BadImage, NotFinite
from keras_cnn.terminal import progress
from keras_cnn.transfer.cache import Store, features

MEMORY = 2 << 30  # bytes of features that are held at once


def batches_of(data: Any) -> int:
    """The length of a data set of batches; BadData where it has none."""
    try:
        return len(data)
    except TypeError:
        raise BadData(
            "the training data has no length, which the learning rate needs: remove its unreadable images, or give the "
            "data set one with tf.data.experimental.assert_cardinality."
        ) from None


class Given:
    """train: `Data`, a pair of arrays, or a data set of batches; val: a pair, a data set, or None (that of `Data`).

    Only `Data` and arrays can be seen again just as they were: only with them are features computed once.
    """

    def __init__(self, train: Any, val: Any, batch_size: int, seed: int) -> None:
        self.train, self.seed = train, seed
        self.batch_size = train.batch_size if isinstance(train, Data) else batch_size
        self.val = train.val if isinstance(train, Data) and val is None else val
        self.again = isinstance(train, Data | tuple)
        self._featured: dict[Any, Any] = {}

    @property
    def augmented(self) -> bool:
        return isinstance(self.train, Data) and self.train.augment is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What the course of a run hangs on."""
        known = {"batch_size": self.batch_size, "steps": self.steps}
        if isinstance(self.train, Data):
            known |= {"classes": list(self.train.class_names), "augment": self.train.augment}
            known |= {"data's seed": self.train.seed, "canvas": self.train.canvas}
        return known

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """A hash of the training data, where it can be seen again: of arrays, or of the names of files and labels."""
        if isinstance(self.train, tuple):
            return {"data": arrays.digest(dict(zip(("images", "labels"), map(np.asarray, self.train), strict=True)))}
        if isinstance(self.train, Data):
            split = cast(Split, self.train.splits.train)
            names = json.dumps([source.name for source in split.sources]).encode()
            labels = np.asarray(split.labels, "int64").tobytes()
            return {"data": hashlib.sha256(names + labels + repr(self.train.preprocess.size).encode()).hexdigest()}
        return {}

    def seen(self) -> list[str]:
        """The hashes of the training images, as the network sees them; none of a data set of batches."""
        if not self.again:
            return []
        with BadImage.surfacing():
            batches = progress(self.plain(), "hashing images", self.steps)
            return [one for images, _ in batches for one in seen.of(images)]

    @property
    def count(self) -> int:
        """Training images; for a data set, batches."""
        if isinstance(self.train, tuple):
            return len(self.train[0])
        return self.train.sizes["train"] if isinstance(self.train, Data) else batches_of(self.train)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.count / self.batch_size) if self.again else self.count

    def labels(self) -> np.ndarray | None:
        """Integer labels of the training images, where they can be told."""
        if isinstance(self.train, Data):
            counts = list(self.train.counts["train"].values())
            return np.repeat(np.arange(len(counts)), counts)
        return np.asarray(self.train[1]) if self.again else None

    def images(self, outputs: int) -> Any:
        """What Keras' `fit` is given, for images."""
        if isinstance(self.train, tuple):
            return Examples([self.train], self.batch_size, self.seed, outputs)
        return self.train.train if isinstance(self.train, Data) else self.train

    def seek(self, data: Any, number: int) -> None:
        """Make the next pass over what `fit` is given that of this number, where the data knows passes."""
        if isinstance(data, Examples):
            data.seek(number)
        elif isinstance(self.train, Data):
            self.train.seek(number)

    def plain(self) -> Iterable[Pair]:
        """Training images in order, not augmented, in batches; of a data set of batches, as it gives them."""
        if isinstance(self.train, tuple):
            return Batches(*self.train)
        if isinstance(self.train, Data):
            held = self.train.held.get("train")
            return Batches(held.images, held.labels) if held else self.train.plain
        return self.train

    def held_out(self) -> Any:
        """Validation images in order, in batches; None where there are none."""
        return Batches(*self.val) if isinstance(self.val, tuple) else self.val

    def features(
        self, network: Any, place: bool | str | Path = False, views: int = 0
    ) -> tuple[list[Pair], Pair | None] | None:
        """([(features, labels) of each view], those of validation): what a frozen network says of all images.

        None where images cannot be seen again as they were, or where their features would fill the memory.
        """
        shape = network.output_shape[1:]
        if not self.again or None in shape or self.count * max(views, 1) * math.prod(shape) * 4 > MEMORY:
            return None
        if (network.output.name, views) not in self._featured:
            store = Store(network, None if place is True else place) if place else None
            passes = [self.plain()] if not views else map(self._view, range(views))
            train = [featurise(network, batches, store) for batches in passes]
            held_out = self.held_out()
            val = None if held_out is None else featurise(network, held_out, store)
            self._featured = {(network.output.name, views): (train, val)}  # the last, for the phase after the probe
        return self._featured[(network.output.name, views)]

    def _view(self, number: int) -> Iterable[Pair]:
        """The images of a pass, augmented where the data is."""
        if not isinstance(self.train, Data):
            return self.plain()
        self.train.seek(number)
        return self.train.train


class _Folded:
    """A network for prediction only, made when it is first needed: features on disk need none."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @cached_property
    def folded(self) -> Any:
        return fold(self.network)

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
