"""What a data set is once it is found: images by split, and what their labels mean."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_cnn.data.files import Source
from keras_cnn.data.labels import Labels
from keras_cnn.data.masks import Legend
from keras_cnn.errors import BadData, BadSpec, DataWarning

SPLIT_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_OF |= dict.fromkeys(("validation", "valid", "val", "dev"), "val")
FOLDERS = "give a folder with one subfolder of images for each of two classes or more"
SHOWN = 10  # files that a message lists


@dataclass(frozen=True)
class Split:
    """Images in order, and their labels, the first axis of which is that of the images.

    labels: of classification, indices into the class names, int32 (n,); of any number of classes an image, 0 or 1 of
    each, uint8 (n, classes); of regression, float32 (n, targets); of segmentation, zeros, int32 (n,).
    masks: of segmentation, one for each image, whose values the legend explains; else None, both.
    """

    sources: tuple[Source, ...]
    labels: np.ndarray
    masks: tuple[Source, ...] | None = None
    legend: Legend | None = None

    def some(self, kept: Sequence[int] | np.ndarray) -> Split:
        """Some of the images, by their places."""
        sources, masks = (part and tuple(part[i] for i in kept) for part in (self.sources, self.masks))
        return replace(self, sources=sources, labels=self.labels[kept], masks=masks)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set by name. ignored: files that are no images, or in no class; chiral: images must not be mirrored.

    task: what the labels mean: "classification", "multilabel", "regression" or "segmentation"; see `Split`.
    class_names: of the classes, or of what regression predicts. notes: how it was understood, for people.
    content: a hash of the images, where they are arrays and have no names of their own.

    train is None only where `index` was not asked for a data set to train on.
    """

    train: Split | None
    val: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    task: str = "classification"
    ignored: tuple[str, ...] = ()
    chiral: bool = False
    content: str = ""
    notes: tuple[str, ...] = ()

    def items(self) -> list[tuple[str, Split]]:
        """(name, Split) of those that hold images, in the order train, val, test."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, split) for name, split in named if split is not None and split.sources]


Tree = dict[str, dict[str, list[Source]]]  # split -> class -> images


def check_share(val_split: float) -> None:
    """BadSpec where no images would be left to learn from."""
    if not 0 <= val_split < 1:
        raise BadSpec(f"val_split={val_split!r}: give the share of images kept for validation, from 0 up to 1.")


# --- one class an image ----------------------------------------------------------------------------------------------


def arranged(tree: Tree, where: str, names: tuple[str, ...], val_split: float, seed: int) -> Splits:
    """A data set of sources by split and class; where there is no val, a share of train becomes that."""
    if "val" not in tree and val_split:
        tree |= _divide(tree["train"], val_split, seed)
        if not any(tree["val"].values()):
            raise BadData(f"{where}: no class has two images, so that none is left to validate on; add images.")
    splits = {split: _flatten(classes, names) for split, classes in tree.items()}
    return Splits(train=splits.get("train"), val=splits.get("val"), test=splits.get("test"), class_names=names)


def check_classes(tree: Tree, where: str, training: bool, mend: str = FOLDERS) -> None:
    """BadData where classes are missing, empty, or too few to tell apart."""
    names = tree.get("train", {}).keys()
    for split, classes in tree.items():
        if training and (unknown := sorted(classes.keys() - names)):
            raise BadData(
                f"{where}: {split} has the class {unknown[0]!r}, which train lacks; add it there or remove it."
            )
        if empty := [name for name, sources in classes.items() if not sources]:
            raise BadData(f"{where}: the class {empty[0]!r} of {split} holds no images; add some or remove it.")
    if training and len(names) < 2:
        found = f"only one class ({next(iter(names))!r})" if names else "no class folders"
        raise BadData(f"{where}: {found} found; {mend}.")


def _flatten(classes: dict[str, list[Source]], names: tuple[str, ...]) -> Split:
    sources = [sorted(classes.get(name, []), key=lambda source: source.key) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(some) for some in sources])
    return Split(tuple(source for some in sources for source in some), labels)


def _divide(classes: dict[str, list[Source]], val_split: float, seed: int) -> Tree:
    parts: Tree = {"train": {}, "val": {}}
    for name, sources in classes.items():
        ranked = sorted(sources, key=lambda source: draw(seed, source.key))
        count = _share(len(ranked), val_split)
        parts["val"][name], parts["train"][name] = ranked[:count], ranked[count:]
    return parts


def _share(count: int, val_split: float) -> int:
    """How many of so many images become val: at least one, and not all."""
    return min(max(round(count * val_split), 1), count - 1)


def draw(seed: int, key: str) -> bytes:
    """A hash of a key, whatever bytes it holds."""
    return hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogatepass")).digest()


# --- labels of any kind ----------------------------------------------------------------------------------------------


def labelled(
    sources: Sequence[Source],
    labels: Labels,
    words: Sequence[str] | None,
    where: str,
    *,
    val_split: float = 0.0,
    seed: int = 0,
    training: bool = True,
    masks: Sequence[Source] | None = None,
    legend: Legend | None = None,
) -> Splits:
    """A data set of rows: an image each, its label, and its split ("train", "val" or "test"; None: all are train's).

    Where there is no val, a share of train becomes that, as `index` says. masks, legend: of segmentation.
    Raises BadData for what cannot be trained on.
    """
    words = words or ["train"] * len(sources)
    if training and "train" not in words:
        raise BadData(f"{where}: has {' and '.join(sorted(set(words)))} but no train; add images to train on.")
    if labels.task == "classification":
        tree: Tree = {split: {} for split in dict.fromkeys(words)}
        if labels.complete and training:
            tree["train"] = {name: [] for name in labels.names}
        for source, label, word in zip(sources, labels.rows.tolist(), words, strict=True):
            tree[word].setdefault(labels.names[label], []).append(source)
        check_classes(tree, where, training, "there is nothing to tell apart; add images of others")
        found = arranged(tree, where, labels.names, val_split if training else 0.0, seed)
        return replace(found, notes=labels.notes)
    order = sorted(range(len(sources)), key=lambda i: sources[i].key)
    places = {split: [i for i in order if words[i] == split] for split in dict.fromkeys(words)}
    if training and val_split and "val" not in places:
        places |= _hold_out(places["train"], sources, labels, val_split, seed)
        if not places["val"]:
            raise BadData(f"{where}: there is one image, so that none is left to validate on; add images.")
    whole = Split(tuple(sources), labels.rows, None if masks is None else tuple(masks), legend)
    splits = {split: whole.some(some) for split, some in places.items()}
    if training:
        _check_rows({split: part.labels for split, part in splits.items()}, labels, where)
    return Splits(
        train=splits.get("train"),
        val=splits.get("val"),
        test=splits.get("test"),
        class_names=labels.names,
        task=labels.task,
        notes=labels.notes,
    )


def _hold_out(
    places: list[int], sources: Sequence[Source], labels: Labels, val_split: float, seed: int
) -> dict[str, list[int]]:
    """Rows divided into train and val by a hash; of several classes an image, so that both show each class.

    For that, the rarest class first, val gets an image of each, and none is taken that is the last of its class (after
    Sechidis et al. 2011, "On the stratification of multi-label data", section 3.1).
    """
    ranked = sorted(places, key=lambda i: draw(seed, sources[i].key))
    count = _share(len(ranked), val_split)
    chosen = dict.fromkeys([] if labels.task == "multilabel" else ranked[:count])
    left = labels.rows[ranked].sum(0, dtype=np.int64)  # images of each class that train still has

    def take(label: int | None = None) -> None:
        """Move the next image to val, one that shows the label, where that leaves train one of each of its classes."""
        for i in ranked:
            if i not in chosen and (label is None or labels.rows[i, label]) and (left[labels.rows[i] > 0] > 1).all():
                chosen[i] = None
                left[:] -= labels.rows[i]
                if label is not None or len(chosen) == count:
                    return

    if labels.task == "multilabel":
        for label in np.argsort(left, kind="stable").tolist():
            if len(chosen) < count and not labels.rows[list(chosen), label].any():
                take(label)
        if len(chosen) < count:
            take()
    return {"train": [i for i in places if i not in chosen], "val": [i for i in places if i in chosen]}


def _check_rows(rows: dict[str, np.ndarray], labels: Labels, where: str) -> None:
    """BadData for a target or class that cannot be learnt; a DataWarning for classes that val cannot score."""
    train, val = rows["train"], rows.get("val")
    if labels.task == "regression" and (same := np.flatnonzero(np.ptp(train, 0) == 0)).size:
        name, value = labels.names[same[0]], train[0, same[0]]
        raise BadData(f"{where}: {name!r} is {value:g} for every training image: there is nothing to learn.")
    if labels.task == "multilabel":
        if (none := np.flatnonzero(~train.any(0))).size:
            raise BadData(f"{where}: no training image shows {labels.names[none[0]]!r}; add some or leave it out.")
        if (every := np.flatnonzero(train.all(0))).size:
            raise BadData(f"{where}: every training image shows {labels.names[every[0]]!r}; leave it out.")
        if val is not None and (none := np.flatnonzero(~val.any(0))).size:
            names = ", ".join(repr(labels.names[i]) for i in none[:SHOWN])
            text = f"{where}: no validation image shows {names}: what is measured there leaves them out"
            warnings.warn(f"{text}; move images of them to val.", DataWarning, stacklevel=4)


def agreed(words: Sequence[str | None], names: Sequence[str], where: str) -> list[str] | None:
    """The split of each image or file, or None where they have none; BadData where only some of them have one."""
    lone = [name for name, word in zip(names, words, strict=True) if word is None]
    if lone and len(lone) < len(words):
        raise BadData(f"{where}: {len(lone)} are in no split, others are: {in_list(lone)}; move them into one.")
    return None if lone else [word for word in words if word]


def in_list(names: Sequence[str]) -> str:
    """Up to ten names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
