"""What a run learns from, in whatever form it was given: `Data`, arrays, or a data set of batches, as one object."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from keras_cnn.data import Data, Split, seen
from keras_cnn.data.augment import tensorflow
from keras_cnn.data.examples import Batches, Examples, Pair
from keras_cnn.data.growth import growing
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.models.config import Preprocess
from keras_cnn.terminal import progress


def training_set(
    train: Any,
    val: Any = None,
    batch_size: int = 32,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    replicas: int = 1,
) -> TrainingSet:
    """The training set of a call, once `labelled.accepted` has seen that it is good.

    train: `Data`, which brings its own validation images and batch size; a pair of arrays; or a data set of batches
    (images, labels) with a length. val: a pair, a data set, or None. seed: of the order of arrays.
    share: (worker, workers), where several processes train together. replicas: devices that share each batch: with more
    than one, training batches that are not full are left out, and those of validation give each at least one image.
    Raises BadSpec for data that cannot be shared out.
    """
    kind: Any = OfData if isinstance(train, Data) else OfArrays if isinstance(train, tuple) else TrainingSet
    given = kind(train, val, batch_size, seed)
    if replicas > 1:
        given.share_out(share, replicas)
    return given


class TrainingSet:
    """A data set of batches, of which nothing is known beforehand; others know more. Made by `training_set`.

    batch_size: images a step. val: validation images, in a form that Keras' `fit` takes; None where there are none.
    full: whether a last training batch that is smaller is left out; even: images a batch of validation, where it is.
    again: whether all images can be seen again just as they were: only then are features computed once, and does a
    run that goes on repeat what it would have seen. augmented: whether images differ from pass to pass.
    """

    again = augmented = False

    def __init__(self, train: Any, val: Any, batch_size: int, seed: int) -> None:
        self.train, self.val, self.batch_size, self.seed = train, val, batch_size, seed
        self.full, self.even = False, 32

    def share_out(self, share: tuple[int, int], replicas: int) -> None:
        """Let replicas share each batch; see `training_set`."""
        raise BadSpec("several devices share out `Data` and arrays; give one of these, not a data set of batches.")

    def grow(self, initial_scale: float, epochs: int) -> None:
        """Let training images begin smaller and grow to the size of validation; see `growth.growing`."""
        raise BadSpec("initial_scale is for images that `load_data` read: give its `Data`, or leave it at 1.")

    def _check_shares(self, replicas: int, held_out: int | None) -> None:
        """Find a batch size for validation, of so many images, that never leaves a replica without an image."""
        if self.batch_size % replicas or self.count < self.batch_size:
            raise BadSpec(
                f"batch_size={self.batch_size}, of {self.count} images, cannot be shared out among {replicas} devices: "
                f"give a multiple of {replicas}, at most the number of images."
            )
        self.full = True
        if held_out is None:
            return
        # TensorFlow gives each replica the same number, rounded up, as long as there are images.
        gives_all = lambda count: not count or (replicas - 1) * math.ceil(count / replicas) < count  # noqa: E731
        sizes = sorted(range(1, 8 * self.batch_size), key=lambda size: abs(size - self.batch_size))
        even = next((size for size in sizes if gives_all(size) and gives_all(held_out % size)), None)
        if even is None:
            raise BadSpec(
                f"{held_out} validation images cannot be shared out among {replicas} devices: give some more, or fewer."
            )
        self.even = even

    @property
    def count(self) -> int:
        """Training images; of a data set of batches, these."""
        try:
            return len(self.train)
        except TypeError:
            raise BadData(
                "the training data has no length, which the learning rate needs: remove its unreadable images, or give "
                "the data set one with tf.data.experimental.assert_cardinality."
            ) from None

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        if not self.again:
            return self.count
        return (math.floor if self.full else math.ceil)(self.count / self.batch_size)

    @property
    def facts(self) -> dict[str, Any]:
        """What the course of a run depends on."""
        return {"batch_size": self.batch_size, "steps": self.steps}

    @property
    def fingerprint(self) -> dict[str, str]:
        """A hash of the training data, where it can be seen again."""
        return {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the training images, where they can be told."""
        return tuple(getattr(self.train, "class_names", ()))

    def labels(self) -> np.ndarray | None:
        """Labels of the training images, where they can be told."""
        return None

    def images(self, start: int = 0) -> Any:
        """Training images and labels, in the form in which `loop.fit` takes them. start: batch that a pass begins with.

        Arrays are given to all workers alike, which Keras shares out; of `Data` each gets its own share.
        """
        return self.train

    def val_by(self, size: int) -> Any:
        """Validation images, about so many at once where their number is known and nobody has cut them otherwise."""
        return self.val

    def seek(self, data: Any, number: int) -> None:
        """Make the next pass over what `images` gave that of this number, where passes are known."""

    def plain(self) -> Iterable[Pair]:
        """Training images in order, not augmented, in batches; of a data set of batches, as it gives them."""
        return self.train

    def view(self, number: int) -> Iterable[Pair]:
        """The images of a pass, augmented where they are."""
        return self.plain()

    def held_out(self) -> Any:
        """Validation images in order, in batches; None where there are none."""
        return Batches(*self.val) if isinstance(self.val, tuple) else self.val

    def seen(self, model: Any) -> seen.Known:
        """The training images, as the network sees them; none of a data set of batches."""
        if not self.again:
            return seen.Known(frozenset())
        with BadImage.surfacing():
            batches = progress(self.plain(), "hashing images", self.steps)
            hashes = frozenset(one for images, _ in batches for one in seen.of(images))
        return seen.Known(hashes, self.look(model))

    def look(self, model: Any) -> Preprocess:
        """How the training images are seen."""
        return Preprocess.of(model)


class OfArrays(TrainingSet):
    """A pair (images, labels), cut into batches in an order that follows from the seed and the epoch."""

    again = True
    train: Pair

    def share_out(self, share: tuple[int, int], replicas: int) -> None:
        if self.val is not None and not isinstance(self.val, tuple):
            raise BadSpec("several devices share out validation images that are arrays, where those of training are.")
        self._check_shares(replicas, None if self.val is None else len(self.val[0]))
        self.val = self.val and Examples([self.val], self.even)

    @property
    def count(self) -> int:
        return len(self.train[0])

    @property
    def fingerprint(self) -> dict[str, str]:
        whole = hashlib.sha256()
        for name, array in zip(("images", "labels"), map(np.ascontiguousarray, self.train), strict=True):
            whole.update(f"{name} {array.dtype} {array.shape}".encode())
            whole.update(array.data)
        return {"data": whole.hexdigest()}

    def look(self, model: Any) -> Preprocess:
        return Preprocess.of(model).at_size(self.train[0].shape[1:-1])

    def labels(self) -> np.ndarray:
        return np.asarray(self.train[1])

    def images(self, start: int = 0) -> Examples:
        return Examples([self.train], self.batch_size, self.seed, start=start, full=self.full)

    def seek(self, data: Examples, number: int) -> None:
        data.seek(number)

    def plain(self) -> Batches:
        return Batches(*self.train)


class OfData(TrainingSet):
    """`Data`, which knows its images, passes and augmentation."""

    again = True
    train: Data

    def __init__(self, train: Data, val: Any, batch_size: int, seed: int) -> None:
        super().__init__(train, train.val if val is None else val, train.batch_size, seed)
        self.augmented = train.augment is not None

    def share_out(self, share: tuple[int, int], replicas: int) -> None:
        if self.train.skip_bad and "train" not in self.train.held:
            raise BadSpec(
                "skip_bad leaves out images as they are read, and devices would no longer have as many: remove the "
                "unreadable images, or decode them beforehand (cache_bytes)."
            )
        if self.val is not self.train.val:
            raise BadSpec("several devices share out the validation images of `Data`, and no others: leave out val.")
        self._check_shares(replicas, self.train.sizes.get("val"))
        self.train = replace(self.train, share=share, full=True)
        if self.val is not None:
            steps = math.ceil(self.train.sizes["val"] / self.even)
            known = tensorflow().data.experimental.assert_cardinality(steps)
            self.val = self.val.unbatch().batch(self.even).apply(known)

    def val_by(self, size: int) -> Any:
        val, times = self.val, size // self.batch_size
        if val is None or val is not self.train.val or times < 2:
            return val
        steps = int(val.cardinality())
        if steps < 0:  # unreadable images are left out
            return val
        known = tensorflow().data.experimental.assert_cardinality(math.ceil(steps / times))
        return val.rebatch(times * self.batch_size).apply(known)

    def grow(self, initial_scale: float, epochs: int) -> None:
        if self.train.task == "segmentation":
            raise BadSpec("initial_scale makes images smaller, but not their masks: leave it at 1.")
        self.train = replace(self.train, growth=growing(self.train.preprocess.size, initial_scale, epochs))

    @property
    def count(self) -> int:
        return self.train.sizes["train"]

    @property
    def facts(self) -> dict[str, Any]:
        known: dict[str, Any] = {"classes": list(self.train.class_names), "augment": self.train.augment}
        if self.train.canvas and self.train.streams:  # parts of the files are not to the last bit those of held photos
            known |= {"photos": "read anew"}
        return {**super().facts, **known, "data's seed": self.train.seed, "canvas": self.train.canvas}

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the names of files, or of arrays; and of labels."""
        split = cast(Split, self.train.splits.train)
        sources = (*split.sources, *(split.masks or ()))
        names = json.dumps([source.name for source in sources]).encode()
        labels = split.labels.astype("int64" if split.labels.dtype.kind in "iu" else "float64").tobytes()
        seen_as = f"{self.train.preprocess.size}{self.train.splits.content}".encode()
        return {"data": hashlib.sha256(names + labels + seen_as).hexdigest()}

    def look(self, model: Any) -> Preprocess:
        return self.train.preprocess

    def labels(self) -> np.ndarray:
        held = self.train.held.get("train")
        return held.labels if held else cast(Split, self.train.splits.train).labels

    def images(self, start: int = 0) -> Any:
        return self.train.rest(start) if start else self.train.train

    def seek(self, data: Any, number: int) -> None:
        self.train.seek(number)

    def plain(self) -> Iterable[Pair]:
        held = self.train.held.get("train")
        return Batches(held.images, held.labels) if held else self.train.plain

    def view(self, number: int) -> Iterable[Pair]:
        self.train.seek(number)
        return self.train.train
