"""Decoded images in batches: numpy arrays, and tf.data with augmentation. Only `Data`'s data sets need TensorFlow."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_cnn.data import crops, pairs, survey
from keras_cnn.data.augment import AUGMENTS, augmenter, tensorflow
from keras_cnn.data.decoding import Arrays, arrays, load
from keras_cnn.data.images import MODES, resize_and_crop
from keras_cnn.data.index import Split, Splits, index
from keras_cnn.data.stream import decoded
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.config import Preprocess, check_window
from keras_cnn.models.fields import known_options, one_of

log = logging.getLogger("keras_cnn")


@dataclass(frozen=True, kw_only=True, repr=False)
class Data:
    """A data set ready to train on; made by `load_data`.

    train, val, test: tf.data.Dataset of (uint8 (batch, height, width, channels), int32 (batch,)), the last batch
    smaller; val and test (None where absent) in order, train in another order for each pass, given by the seed.
    Where augment="heavy" mixes images, the labels of train are float32 (batch, classes), each class' share.
    All are None where absent; there is a train unless `index` was told otherwise.
    canvas: (height, width) of the whole photos that train's images are random parts of (augment="crop"); None where
    they are cropped as for evaluation.
    look: what a sample of the files told, their sizes among it.
    plain: train in order, not augmented, its labels int32. arrays(name): a split as numpy, without TensorFlow.
    skipped: names of unreadable images left out so far.
    """

    splits: Splits
    preprocess: Preprocess
    channels: int
    batch_size: int
    augment: str | None
    seed: int
    skip_bad: bool
    held: dict[str, Arrays]
    skipped: list[str]
    look: survey.Look
    canvas: tuple[int, int] | None = None

    @cached_property
    def summary(self) -> str:
        """One line: images by split and class, their size in the files and as they are seen."""
        return survey.summary(self)

    def __repr__(self) -> str:
        return f"<Data: {self.summary}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits.class_names

    @property
    def task(self) -> str:
        return self.splits.task

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.splits.ignored

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {name: len(self._labels(name)) for name, _ in self.splits.items()}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class; before skipping, where a split is decoded anew for each pass."""
        return {name: _counts(self._labels(name), self.class_names) for name, _ in self.splits.items()}

    def arrays(self, name: str = "train") -> Arrays:
        """A whole split as numpy, not augmented; decoded now if it was too large to hold."""
        split = self._split(name)
        return self.held.get(name) or arrays(split, self.preprocess, channels=self.channels, skip_bad=self.skip_bad)

    def each(self, name: str) -> Iterator[tuple[str, np.ndarray | None, int]]:
        """(name, image, label) of a split in order, as at evaluation: in the memory of a few, and without TensorFlow.

        The image is None where it is unreadable and left out.
        """
        split, held = self._split(name), self.held.get(name)
        if held:
            rows, bad = iter(held.images), set(held.skipped)
            images = ((source.name, None if source.name in bad else next(rows)) for source in split.sources)
        else:
            images = self._decoded(split)
        return ((source, image, label) for (source, image), label in zip(images, split.labels.tolist(), strict=True))

    def _split(self, name: str) -> Split:
        split = dict(self.splits.items()).get(name)
        if split is None:
            raise BadData(f"the data has no split {name!r}; it has {', '.join(self.sizes)}.")
        return split

    def _decoded(self, split: Split) -> Iterator[tuple[str, np.ndarray | None]]:
        told: dict[str, Any] = {"channels": self.channels, "ahead": 2 * self.batch_size}
        for source, image in decoded(split.sources, self.preprocess, skip_bad=self.skip_bad, **told):
            if not isinstance(image, np.ndarray):
                log.warning("left out: %s", image)
            yield source.name, image if isinstance(image, np.ndarray) else None

    @cached_property
    def train(self) -> Any:
        return self._batches("train", self._pass) if self.splits.train else None

    @cached_property
    def plain(self) -> Any:
        return self._batches("train") if self.splits.train else None

    @cached_property
    def val(self) -> Any:
        return self._batches("val") if self.splits.val else None

    @cached_property
    def test(self) -> Any:
        return self._batches("test") if self.splits.test else None

    def seek(self, epoch: int) -> None:
        """Make the next pass over train that of `epoch`, counted from 0: order and augmentation resume exactly."""
        self._pass.assign(epoch)

    def subset(self, per_class: int, seed: int = 0) -> Data:
        """The same data with at most per_class training images of each class, in order; nothing is decoded again.

        The images are the first of a permutation given by seed: those of a smaller subset are in the larger.
        Raises BadSpec for fewer than one.
        """
        if per_class < 1:
            raise BadSpec(f"per_class={per_class!r}: give 1 or more.")
        images, split = self.held.get("train"), self.splits.train
        if split is None:
            raise BadData("there are no training images to take a subset of.")
        bad = set(images.skipped if images else ())
        sources, labels = [source for source in split.sources if source.name not in bad], self._labels("train")
        draws = np.random.default_rng(seed)
        classes = [draws.permutation(np.flatnonzero(labels == c)) for c in range(len(self.class_names))]
        kept = np.sort(np.concatenate([some[:per_class] for some in classes]))
        train = Split(tuple(sources[i] for i in kept), labels[kept])
        held = {**self.held, "train": images.some(kept)} if images else self.held
        return replace(self, splits=replace(self.splits, train=train), held=held, skipped=list(self.skipped))

    @cached_property
    def _pass(self) -> Any:
        tf = tensorflow()
        with tf.device("CPU:0"):
            return tf.Variable(0, trainable=False, dtype=tf.int64)

    def _labels(self, name: str) -> np.ndarray:
        return self.held[name].labels if name in self.held else getattr(self.splits, name).labels

    def _batches(self, name: str, counter: Any = None) -> Any:
        tf = tensorflow()
        count, split, held = len(self._labels(name)), getattr(self.splits, name), self.held.get(name)
        whole = self.canvas if counter is not None else None
        if whole and held and held.photos is None:  # too many whole photos to be held
            held = None
        labels = held.labels if held else split.labels
        parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}

        def order(epoch: Any) -> Any:
            # A permutation from (seed, epoch) alone: tf.data's own shuffle also hangs on the global seed.
            every = tf.range(len(labels), dtype=tf.int64)
            key = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            every = every if counter is None else tf.random.experimental.stateless_shuffle(every, key)
            return tf.data.Dataset.from_tensor_slices((tf.fill([len(labels)], epoch), every))

        with tf.device("CPU:0"):  # a data set of gigabytes does not belong on the accelerator
            epochs = tf.data.Dataset.range(1)
            if counter is not None:
                epochs = epochs.map(lambda _: counter.assign_add(1) - 1)
            picks, truth = epochs.flat_map(order), tf.constant(labels)
            if held:
                images = tf.constant(held.photos if whole else held.images)
                stretch = tf.constant(held.stretch if whole else np.ones(len(labels), np.float32))
                # A batch is gathered at once; as a captured tensor, images escape the 2 GB limit of graph constants.
                batches = picks.batch(self.batch_size).map(
                    lambda e, i: (e[0], *(tf.gather(every, i) for every in (images, stretch, truth))), **parallel
                )
            else:
                read = self._reader(split, whole)
                batches = picks.map(lambda e, i: (e, *read(i), tf.gather(truth, i)), **parallel)
                batches = batches.filter(lambda e, readable, *_: readable) if self.skip_bad else batches
                batches = batches.batch(self.batch_size).map(lambda e, _, x, stretch, y: (e[0], x, stretch, y))
            augment = augmenter(
                AUGMENTS[self.augment if counter is not None else None],
                channels=self.channels,
                classes=len(self.class_names),
                seed=self.seed,
                chiral=self.splits.chiral,
                crop=crops.cropper(self.preprocess) if whole else None,
            )
            batches = batches.enumerate().map(
                lambda step, batch: augment(batch[1], batch[3], batch[0], step, batch[2]), **parallel
            )
            if name in self.held or not self.skip_bad:
                batches = batches.apply(tf.data.experimental.assert_cardinality(math.ceil(count / self.batch_size)))
            return batches.prefetch(tf.data.AUTOTUNE)

    def _reader(self, split: Split, canvas: tuple[int, int] | None) -> Callable[[Any], tuple[Any, Any, Any]]:
        """Graph function from an index to (readable, image, stretch): a whole photo where there is a canvas."""
        tf = tensorflow()
        shape = (*(canvas or self.preprocess.size), self.channels)

        def see(image: np.ndarray, name: str) -> tuple[np.ndarray, float]:
            if canvas:
                return crops.whole(image, canvas, self.preprocess)
            return resize_and_crop(image, self.preprocess, name=name), 1.0

        def read(i: int) -> tuple[bool, np.ndarray, np.float32]:
            seen = load(split.sources[i], self.preprocess, self.channels, self.skip_bad, see)
            if seen is None and split.sources[i].name not in self.skipped:
                self.skipped.append(split.sources[i].name)
            image, stretch = (np.zeros(shape, np.uint8), 1.0) if seen is None else seen
            return seen is not None, image, np.float32(stretch)

        def op(i: Any) -> tuple[Any, Any, Any]:
            readable, image, stretch = tf.numpy_function(read, [i], [tf.bool, tf.uint8, tf.float32])
            return tf.ensure_shape(readable, ()), tf.ensure_shape(image, shape), tf.ensure_shape(stretch, ())

        return op


@known_options
def load_data(
    data: str | os.PathLike[str] | Splits | tuple[Any, Any],
    preprocess: Any,
    *,
    batch_size: int = 32,
    augment: str | None = None,
    seed: int = 0,
    val_split: float = 0.2,
    skip_bad: bool = False,
    channels: int | None = None,
    window: tuple[float, float] | None = None,
    cache_bytes: int = 4 << 30,
    decode: Collection[str] = ("train", "val", "test"),
    class_names: Sequence[str] | None = None,
) -> Data:
    """Index a data set and decode it, each image once, to uint8 of preprocess.size.

    data, val_split, seed: see `index`; data may be what it found. preprocess: a `Preprocess`, or the network to feed.
        data may also be a pair of arrays (images, labels): images (n, height, width, channels) of preprocess.size,
        uint8 or whole numbers of 0..255, which are taken as they are; labels (n,), whole numbers from 0.
    class_names: of arrays, by number; by default "0", "1" and so on. Folders bring their own.
    channels: 1, 3 or 4, by default those of preprocess.mean. batch_size: images a step; the last batch is smaller.
    window: the values of gray images of more than 8 bits that become 0 and 255, such as (0, 4095) or (-160, 240); by
        default that of the weights, else of the fewest bits (8, 10, 12, 14 or 16) that all training images need, with a
        DataWarning that says so. It is in `Data.preprocess`; `fine_tune` keeps it with the weights, so that prediction
        sees images alike (for `train`: `build(..., preprocess=data.preprocess)`).
    augment: only train is augmented, and all randomness follows from (seed, pass, step). Each level but "crop" adds
    to the last:
        None;
        "shift": by up to a tenth of the size, the border reflected;
        "light": half of the images mirrored (not of glyphs such as digits);
        "crop": as "light", but where photos are larger than preprocess.size by a quarter at least (and no glyphs), not
        shifted: a random part of each, of 35 % of its area or more (1409.4842, section 6). Whole photos are held for
        it at twice that size, or at their own if smaller;
        "medium": two operations of RandAugment (1909.13719) on each image, a gray rectangle over a quarter of them
        (Random Erasing, 1708.04896);
        "heavy": RandAugment twice as strong, MixUp (1710.09412) or CutMix (1905.04899) in each batch, so that labels
        become shares of classes. Alpha, a fourth channel, keeps its values; it is only moved and mixed.
    skip_bad: leave unreadable images out, log them and list them in `Data.skipped`, instead of raising BadImage.
    decode: the splits to decode now, in memory of at most cache_bytes, the smallest first, whole photos after what is
    seen at evaluation; others are decoded anew for each pass (there, BadImage surfaces as the
    tf.errors.InvalidArgumentError that quotes it).
    """
    preprocess = Preprocess.of(preprocess)
    one_of("augment", augment, tuple(AUGMENTS))
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    if class_names is not None and not isinstance(data, tuple):
        raise BadSpec("class_names is for arrays: folders bring the names of their classes; leave it out.")
    check_window(window)
    canvas = None
    if isinstance(data, tuple):
        splits, held = pairs.read(data, preprocess.size, class_names, val_split, seed)
        depth, look = held["train"].images.shape[-1], survey.Look((preprocess.size[::-1],))
    else:
        depth = channels or len(preprocess.mean)
        if depth not in MODES:
            raise BadSpec(f"channels={depth!r}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels.")
        splits = data if isinstance(data, Splits) else index(data, val_split=val_split, seed=seed)
        sources = next((split for name, split in splits.items() if name in decode), splits.items()[0][1]).sources
        look = survey.look(sources)
        preprocess = replace(preprocess, window=window or survey.window(look, sources, preprocess.window))
        if AUGMENTS[augment].crop and splits.train and not splits.chiral:  # a part of a glyph may be another one
            canvas = crops.canvas(look.sizes, preprocess)
        held = _held(splits, decode, preprocess, canvas, cache_bytes, channels=depth, skip_bad=skip_bad)
    return Data(
        splits=splits,
        preprocess=preprocess,
        channels=depth,
        batch_size=batch_size,
        augment=augment,
        seed=seed,
        skip_bad=skip_bad,
        look=look,
        canvas=canvas,
        held=held,
        skipped=[name for part in held.values() for name in part.skipped],
    )


def _held(
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
    held: dict[str, Arrays] = {}
    for name, split in sorted(splits.items(), key=lambda item: len(item[1].sources)):
        size, whole = (len(split.sources) * channels * math.prod(sides or (0,)) for sides in (preprocess.size, canvas))
        if name in wanted and size <= room:
            photos = canvas if name == "train" and size + whole <= room else None
            room -= size + (whole if photos else 0)
            held[name] = arrays(split, preprocess, channels=channels, skip_bad=skip_bad, canvas=photos)
            for label, count in _counts(held[name].labels, splits.class_names).items():
                if not count and name == "train":
                    raise BadData(f"every image of the class {label!r} is unreadable, such as {held[name].skipped[0]}.")
    return held


def _counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
