"""Decoded images in batches: numpy arrays, and tf.data with augmentation. Only `Data`'s data sets need TensorFlow."""

from __future__ import annotations

import functools
import logging
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_cnn.data import crops, pairs, survey
from keras_cnn.data.augment import AUGMENTS, augmenter, key_of, key_of_parts, tensorflow
from keras_cnn.data.decoding import Arrays, arrays, as_seen, load
from keras_cnn.data.decoding import held as in_memory
from keras_cnn.data.growth import resizer
from keras_cnn.data.images import MODES
from keras_cnn.data.index import index
from keras_cnn.data.labels import TASKS, Wish, sides
from keras_cnn.data.orders import blocks_of, shuffled
from keras_cnn.data.parts import Parts
from keras_cnn.data.reader import reader
from keras_cnn.data.splits import Split, Splits
from keras_cnn.data.stream import in_order
from keras_cnn.data.tables import Table
from keras_cnn.errors import BadData, BadImage, BadSpec, DataWarning
from keras_cnn.models.config import Preprocess, check_window, record_of
from keras_cnn.models.fields import known_options, one_of, several

log = logging.getLogger("keras_cnn")


@dataclass(frozen=True, kw_only=True, repr=False)
class Data:
    """A data set ready to train on; made by `load_data`.

    train, val, test: tf.data.Dataset of (uint8 (batch, height, width, channels), labels), the last batch smaller; val
    and test (None where absent) in order, train in another order for each pass, given by the seed.
    Labels are by task: "classification", int32 (batch,); "multilabel", 0 or 1 of each class, uint8 (batch, classes);
    "regression", float32 (batch, targets); "segmentation", masks, uint8 (batch, height, width), where 255 is a pixel
    that does not count. Where "mix" or "heavy" mixes images of the first two, the labels of train are float32
    (batch, classes), each class' share.
    All are None where absent; there is a train unless `index` was told otherwise.
    canvas: (height, width) of the whole photos that train's images are random parts of ("crop" and up); None where
    they are cropped as for evaluation.
    look: what a sample of the files told, their sizes among it.
    share: (worker, workers): of each batch of train, this worker's part. full: leave out a last batch of train that is
    smaller. growth: (height, width) of train's images by pass, where they grow to the network's; see `growth.growing`.
    plain: train in order, not augmented. arrays(name): a split as numpy, without TensorFlow.
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
    share: tuple[int, int] = (0, 1)
    full: bool = False
    growth: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def summary(self) -> str:
        """One line: images by split, what their labels mean, their size in the files and as they are seen."""
        return survey.summary(self)

    def __repr__(self) -> str:
        return f"<Data: {self.summary}>"

    @property
    def task(self) -> str:
        """What the labels mean: "classification", "multilabel", "regression" or "segmentation"."""
        return self.splits.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; of regression, of what is predicted."""
        return self.splits.class_names

    @property
    def streams(self) -> bool:
        """Whether training images are read anew for each pass: they, or the whole photos of them, are not held."""
        held = self.held.get("train")
        return held is None or (self.canvas is not None and held.photos is None)

    @property
    def ignored(self) -> tuple[str, ...]:
        return self.splits.ignored

    @property
    def sizes(self) -> dict[str, int]:
        """Images by split."""
        return {name: len(self._labels(name)) for name, _ in self.splits.items()}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class; before skipping, where a split is decoded anew for each pass.

        Of several classes an image, those that show the class; of masks too, for splits that are held decoded. None of
        regression.
        """
        known = [name for name, _ in self.splits.items() if self.task != "segmentation" or name in self.held]
        if self.task == "regression":
            return {}
        return {name: survey.counts(self._labels(name), self.class_names) for name in known}

    def arrays(self, name: str = "train") -> Arrays:
        """A whole split as numpy, not augmented; decoded now if it was too large to hold."""
        split = self._split(name)
        return self.held.get(name) or arrays(split, self.preprocess, channels=self.channels, skip_bad=self.skip_bad)

    def each(self, name: str, see: Any = None) -> Iterator[tuple[str, np.ndarray | None, Any]]:
        """(name, image, label) of a split in order, as at evaluation: in the memory of a few, and without TensorFlow.

        The label is a class by number, a row of classes or numbers, or a mask. The image is None where it is unreadable
        and left out; then so is its mask. see: what else is made of images, read anew: see `decoding.as_seen`.
        """
        split, held = self._split(name), None if see else self.held.get(name)
        if held:
            bad, rows = set(held.skipped), iter(zip(held.images, held.labels, strict=True))
            seen = (None if source.name in bad else next(rows) for source in split.sources)
        else:
            see = see or functools.partial(as_seen, preprocess=self.preprocess)
            make = lambda i: load(split, i, self.preprocess, self.channels, self.skip_bad, see)  # noqa: E731
            seen = (made for _, made in in_order(make, range(len(split.sources)), 2 * self.batch_size))
        labels = split.labels.tolist() if split.labels.ndim == 1 else split.labels
        parts = (made or (None, None) for made in seen)
        every = zip(split.sources, parts, labels, strict=True)
        return ((source.name, image, label if split.masks is None else mask) for source, (image, mask), label in every)

    def _split(self, name: str) -> Split:
        split = dict(self.splits.items()).get(name)
        if split is None:
            raise BadData(f"the data has no split {name!r}; it has {', '.join(self.sizes)}.")
        return split

    def _readable(self, name: str) -> Split:
        """A split without the images that are known to be unreadable."""
        split, bad = self._split(name), set(self.held[name].skipped) if name in self.held else ()
        return split.some([i for i, source in enumerate(split.sources) if source.name not in bad]) if bad else split

    @cached_property
    def train(self) -> Any:
        return self._batches("train", self._pass) if self.splits.train else None

    def rest(self, step: int) -> Any:
        """A pass over train from its batch `step` on, as the whole pass has it; `seek` says which."""
        return self._batches("train", self._pass, step)

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

        Where images have no single class, with as many as that makes for all classes: per_class * len(class_names) of
        multilabel and segmentation, per_class of regression.
        The images are the first of a permutation given by seed: those of a smaller subset are in the larger.
        Raises BadSpec for fewer than one.
        """
        if per_class < 1:
            raise BadSpec(f"per_class={per_class!r}: give 1 or more.")
        images = self.held.get("train")
        if self.splits.train is None:
            raise BadData("there are no training images to take a subset of.")
        split = self._readable("train")
        groups, most = [np.arange(len(split.sources))], per_class
        if self.task == "classification":
            groups = [np.flatnonzero(split.labels == c) for c in range(len(self.class_names))]
        elif self.task != "regression":
            most = per_class * len(self.class_names)
        draws = np.random.default_rng(seed)
        kept = np.sort(np.concatenate([draws.permutation(some)[:most] for some in groups]))
        held = {**self.held, "train": images.some(kept)} if images else self.held
        return replace(self, splits=replace(self.splits, train=split.some(kept)), held=held, skipped=list(self.skipped))

    @cached_property
    def _pass(self) -> Any:
        tf = tensorflow()
        with tf.device("CPU:0"):
            return tf.Variable(0, trainable=False, dtype=tf.int64)

    def _labels(self, name: str) -> np.ndarray:
        return self.held[name].labels if name in self.held else getattr(self.splits, name).labels

    def _batches(self, name: str, counter: Any = None, step: int = 0) -> Any:
        """Batches of a split. counter: the pass, where it is trained on; step: the batch that the pass begins with."""
        tf = tensorflow()
        split, held = self._readable(name), self.held.get(name)
        (worker, workers), full = (self.share, self.full) if counter is not None else ((0, 1), False)
        count, size = len(self._labels(name)), self.batch_size // workers
        steps = (math.floor if full else math.ceil)(count / self.batch_size)
        known = name in self.held or not self.skip_bad  # which images there will be
        seed = self.seed + (worker << 32)  # else all workers would draw alike
        whole = self.canvas if counter is not None else None
        if whole and self.streams:
            held = None
        labels = held.labels if held else split.labels
        parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}

        def order(epoch: Any) -> Any:
            # A permutation from (seed, epoch) alone: tf.data's own shuffle also hangs on the global seed.
            every = tf.range(len(labels), dtype=tf.int64)
            key = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            every = every if counter is None else shuffled(len(labels), key, blocks_of(split))
            if full:
                parts = tf.reshape(every[: steps * self.batch_size], (steps, workers, size))
                every = tf.reshape(parts[:, worker], [-1])
            every = every[step * size :] if known or whole else every
            return tf.data.Dataset.from_tensor_slices((tf.fill(tf.shape(every), epoch), every))

        with tf.device("CPU:0"):  # a data set of gigabytes does not belong on the accelerator
            epochs = tf.data.Dataset.range(1)
            if counter is not None:
                epochs = epochs.map(lambda _: counter.assign_add(1) - 1)
            picks, truth = epochs.flat_map(order), tf.constant(labels)
            if held:
                images = tf.constant(held.photos if whole else held.images)
                if whole and held.photo_masks is not None:
                    truth = tf.constant(held.photo_masks)
                stretch = tf.constant(held.stretch if whole else np.ones(len(labels), np.float32))
                # A batch is gathered at once; as a captured tensor, images escape the 2 GB limit of graph constants.
                batches = picks.batch(size).map(
                    lambda e, i: (e[0], *(tf.gather(every, i) for every in (images, stretch, truth))), **parallel
                )
            elif whole:  # parts of the photos themselves
                read = Parts(split, self.preprocess, self.channels, self._left_out).batch
                batches = picks.batch(size).enumerate(step)
                key = lambda step, e: key_of_parts(key_of(seed, e[0], step))  # noqa: E731
                batches = batches.map(
                    lambda step, pick: (pick[0][0], *read(pick[1], key(step, pick[0]), truth)),
                    num_parallel_calls=2,
                    deterministic=True,
                )
                batches = batches.map(lambda e, x, y: (e, x, tf.ones_like(x[:, 0, 0, 0], tf.float32), y))
            else:
                read = reader(split, self.preprocess, self.channels, self.skip_bad, self._left_out)
                batches = picks.map(lambda e, i: (e, *read(i, truth)), **parallel)
                batches = batches.filter(lambda e, readable, *_: readable) if self.skip_bad else batches
                batches = batches.batch(size)
                batches = batches.map(lambda e, _, x, y: (e[0], x, tf.ones_like(e, tf.float32), y))
                batches = batches if known else batches.skip(step)
            level = AUGMENTS[self.augment if counter is not None else None]
            augment = augmenter(
                replace(level, shift=False) if whole else level,
                channels=self.channels,
                classes=len(self.class_names),
                seed=seed,
                chiral=self.splits.chiral,
                task=self.task,
                crop=crops.cropper(self.preprocess) if whole and held else None,
                resize=resizer(self.growth) if self.growth and counter is not None else None,
            )
            batches = batches.enumerate(step).map(
                lambda step, batch: augment(batch[1], batch[3], batch[0], step, batch[2]), **parallel
            )
            if whole and not known:  # of some batches, every photo may be unreadable
                batches = batches.filter(lambda x, y: tf.shape(x)[0] > 0)
            if known:
                batches = batches.apply(tf.data.experimental.assert_cardinality(steps - step))
            return batches.prefetch(tf.data.AUTOTUNE)

    def _left_out(self, name: str, error: BadImage | None = None) -> bool:
        """Whether training goes on without an unreadable image, which is noted then."""
        if self.skip_bad and name not in self.skipped:
            self.skipped.append(name)
            if error:
                log.warning("skipped: %s", error)
        return self.skip_bad


@known_options
def load_data(
    data: str | os.PathLike[str] | Table | Splits | tuple[Any, Any] | Mapping[str, Any],
    preprocess: Any,
    *,
    task: str | None = None,
    batch_size: int = 32,
    augment: str | None = None,
    mirror: bool | None = None,
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

    data: a folder, zip, table, shards, TFDS or data set of the Hub, see `index`; a `Table`, where columns must be
        named; or what `index` found.
        Or arrays: a pair (images, labels) or {"image": images, "label": labels}, or such pairs by split, as {"train":
        (x, y), "val": (x, y)}. Images (n, height, width, channels) of preprocess.size, uint8 or whole numbers of
        0..255, are taken as they are. Labels are whole numbers from 0 (n,); 0 or 1 of each class (n, classes); floats
        to predict (n,) or (n, targets); or masks of class numbers (n, height, width), 255 where none counts.
    preprocess: a `Preprocess`, or the network to feed, whose head says what is meant where the data leaves it open.
    task: "classification", "multilabel", "regression" or "segmentation", where labels could be meant otherwise than
        they are understood, which `Data.summary` says; BadData where they cannot be that.
    val_split, seed: see `index`.
    class_names: of arrays: of classes by number, by default "0", "1" and so on, or of columns. Files bring their own.
    channels: 1, 3 or 4, by default those of preprocess.mean. batch_size: images a step; the last batch is smaller.
    window: the values of gray images of more than 8 bits that become 0 and 255, such as (0, 4095) or (-160, 240); by
        default that of the weights, else of the fewest bits (8, 10, 12, 14 or 16) that all training images need, with a
        DataWarning that says so. It is in `Data.preprocess`; `fine_tune` keeps it with the weights, so that prediction
        sees images alike (for `train`: `build(..., preprocess=data.preprocess)`).
    augment: only train is augmented, and all randomness follows from (seed, pass, step). Each level but "mix" adds to
    the last:
        None;
        "shift": by up to a tenth of the size, the border reflected;
        "light": half of the images mirrored (see mirror);
        "mix": as "light", and MixUp (1710.09412) or CutMix (1905.04899) in each batch, so that labels become shares of
        classes; masks and numbers to predict are not mixed;
        "crop": as "light", but where photos are larger than preprocess.size by a tenth at least (and no glyphs), not
        shifted: a random part of each, of 35 % of its area or more (1409.4842, section 6). Whole photos are held for
        it at twice that size, or at their own if smaller; where there is no room, the same parts are read from the
        files, of JPEGs no more than the part, at a half, a quarter or an eighth where that is enough;
        "medium": two operations of RandAugment (1909.13719) on each image, a gray rectangle over a quarter of them
        (Random Erasing, 1708.04896);
        "heavy": RandAugment twice as strong, and images mixed as by "mix".
        Alpha, a fourth channel, keeps its values; it is only moved and mixed.
        Masks move with their images, to the nearest pixel; what RandAugment brings in from outside is 255 there.
        Numbers stay as they are: where they are places or angles, only None keeps them true.
    mirror: whether augmentation may mirror images. By default unless they are glyphs, such as digits, or names of
        classes or targets speak of sides (left, angle, x, ...).
    skip_bad: leave unreadable images out, log them and list them in `Data.skipped`, instead of raising BadImage.
    decode: the splits to decode now, in memory of at most cache_bytes, the smallest first, whole photos after what is
    seen at evaluation; others are decoded anew for each pass (there, BadImage surfaces as the
    tf.errors.InvalidArgumentError that quotes it), and `Data.summary` says which. Evaluation sees the same pixels
    either way; the order of a pass follows from (seed, pass), see `orders.shuffled`.
    """
    if task is not None:
        one_of("task", task, TASKS)
    wish = Wish(task, None if isinstance(preprocess, Preprocess) else record_of(preprocess)["head"]["task"])
    preprocess = Preprocess.of(preprocess)
    one_of("augment", augment, tuple(AUGMENTS))
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    given_arrays = isinstance(data, tuple | Mapping)
    if class_names is not None and not given_arrays:
        raise BadSpec("class_names is for arrays: folders bring the names of their classes; leave it out.")
    class_names = None if class_names is None else several("class_names", class_names)
    check_window(window)
    canvas = None
    if given_arrays:
        splits, held = pairs.read(data, preprocess.size, class_names, val_split, seed, wish)
        depth, look = next(iter(held.values())).images.shape[-1], survey.Look((preprocess.size[::-1],))
    else:
        depth = channels or len(preprocess.mean)
        if depth not in MODES:
            raise BadSpec(f"channels={depth!r}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels.")
        given_splits = isinstance(data, Splits)
        splits = data if given_splits else index(data, val_split=val_split, seed=seed, wish=wish, skip_bad=skip_bad)
        sources = next((split for name, split in splits.items() if name in decode), splits.items()[0][1]).sources
        look = survey.look(sources)
        preprocess = replace(preprocess, window=window or survey.window(look, sources, preprocess.window))
        if AUGMENTS[augment].crop and splits.train and not splits.chiral:  # a part of a glyph may be another one
            canvas = crops.canvas(look.sizes, preprocess)
        held = in_memory(splits, decode, preprocess, canvas, cache_bytes, channels=depth, skip_bad=skip_bad)
    splits = _turned(splits, mirror, augment)
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


def _turned(splits: Splits, mirror: bool | None, augment: str | None) -> Splits:
    """The same, which may be mirrored or not: as somebody said, or as the names of classes and targets are."""
    side = sides(splits.class_names)
    if side and augment and splits.task == "regression":
        text = f"{side!r} may be a place or an angle, and augment={augment!r} moves images, but not the numbers"
        warnings.warn(f"{text}; augment=None leaves both as they are.", DataWarning, stacklevel=4)
    if mirror is not None:
        return replace(splits, chiral=not mirror)
    note = (f"never mirrored, since {side!r} speaks of sides",) if side else ()
    return replace(splits, chiral=splits.chiral or side is not None, notes=(*splits.notes, *note))
