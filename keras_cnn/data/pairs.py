"""Arrays of images and labels as a data set: each image is a source like any file, and is held as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from keras_cnn.data.decoding import Arrays
from keras_cnn.data.files import Source
from keras_cnn.data.images import MODES, as_png
from keras_cnn.data.labels import Labels, Wish, of_numbers
from keras_cnn.data.masks import IGNORED, Legend, legend, numbered
from keras_cnn.data.splits import SPLIT_OF, Split, Splits, check_share, labelled
from keras_cnn.errors import BadData

WHERE = "the arrays"
LABELS = ("label", "labels", "mask", "masks", "target", "targets")  # of a dictionary of arrays
Pair = tuple[Any, Any]


def read(
    data: Any, size: tuple[int, int], class_names: Sequence[str] | None, val_split: float, seed: int, wish: Wish
) -> tuple[Splits, dict[str, Arrays]]:
    """(what `index` would find, were each image a file with its label; the images of each split).

    data: a pair, images, uint8 or whole numbers of 0..255, of a size, and their labels: whole numbers from 0, columns
    of 0 and 1, numbers to predict, or masks (n, height, width) of class numbers, 255 ignored; or such pairs, or
    {"image": images, "label": labels}, by split. class_names: of the classes by number, or of the columns; by
    default numbers.
    Raises BadData for what cannot be trained on.
    """
    check_share(val_split)
    pairs = _by_split(data)
    given = [(pixels(images, size), np.asarray(labels)) for images, labels in pairs.values()]
    for images, labels in given:
        count = len(labels) if labels.ndim else 1
        if len(images) != count or not count:
            raise BadData(f"there are {len(images)} images and {count} labels: give one label for each image.")
    words = [split for split, (images, _) in zip(pairs, given, strict=True) for _ in images]
    images, labels = (parts[0] if len(parts) == 1 else _joined(parts) for parts in zip(*given, strict=True))
    at = "labels[{}]".format
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    masks = of_masks = None
    if labels.ndim > 2:
        wish.choose(WHERE, ["segmentation"], f"its labels have the shape {labels.shape}, as masks")
        masks, of_masks = _masks(labels, size, class_names)
        understood = Labels("segmentation", of_masks.names, np.zeros(len(images), np.int32))
    elif labels.dtype.kind not in "biuf":
        raise BadData("the labels are not whole numbers from 0: give one for each image, as labels.astype('int32').")
    else:
        understood = of_numbers(labels, class_names, wish, WHERE, at)
    if understood.task == "classification":
        _check_classes(understood)
    splits = labelled(
        [Source(f"{i:012}", f"images[{i}]", partial(as_png, image)) for i, image in enumerate(images)],
        understood,
        words,
        WHERE,
        val_split=val_split,
        seed=seed,
        masks=None if masks is None else [Source("", f"masks[{i}]", partial(as_png, m)) for i, m in enumerate(masks)],
        legend=of_masks and Legend(of_masks.names, {i: i for i in (*range(len(of_masks.names)), IGNORED)}),
    )
    rows = {name: [int(source.key) for source in split.sources] for name, split in splits.items()}
    held = {
        name: Arrays(images[rows[name]], split.labels if masks is None else masks[rows[name]])
        for name, split in splits.items()
    }
    content = hashlib.sha256(np.ascontiguousarray(images).data)
    if masks is not None:
        content.update(np.ascontiguousarray(masks).data)
    return replace(splits, content=content.hexdigest()), held


def is_of_arrays(split: Split) -> bool:
    """Whether the images of a split came as arrays."""
    return any(isinstance(source.open, partial) and source.open.func is as_png for source in split.sources[:1])


def _by_split(data: Any) -> dict[str, Pair]:
    """The pair of each split; one pair alone is train's."""
    if not isinstance(data, Mapping):
        return {"train": _pair(data, "the data")}
    if "image" in data or "images" in data:
        return {"train": _pair(data, "the data")}
    if strange := [name for name in data if str(name).lower() not in SPLIT_OF]:
        raise BadData(
            f"the data has the key {strange[0]!r}: give {{'image': images, 'label': labels}}, or pairs (images, "
            "labels) by split, as {'train': (x, y), 'val': (x, y)}."
        )
    found = {SPLIT_OF[name.lower()]: _pair(part, f"data[{name!r}]") for name, part in data.items()}
    if len(found) < len(data):
        raise BadData(f"the data has {' and '.join(map(repr, data))}, of which two mean the same split; keep one.")
    return found


def _pair(data: Any, what: str) -> Pair:
    if isinstance(data, Mapping):
        labels = [name for name in LABELS if name in data]
        images = [name for name in ("image", "images") if name in data]
        if len(images) != 1 or len(labels) != 1:
            raise BadData(
                f"{what} has {', '.join(map(repr, data))}: give 'image', and one of 'label', 'mask' and 'target'."
            )
        return data[images[0]], data[labels[0]]
    if not isinstance(data, tuple | list) or len(data) != 2:
        found = f"has {len(data)} parts" if isinstance(data, tuple | list) else f"is a {type(data).__name__}"
        raise BadData(f"{what} {found}: give a pair (images, labels).")
    return data[0], data[1]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len({part.shape[1:] for part in parts}) > 1:
        raise BadData(
            f"the splits have arrays of the shapes {', '.join(str(p.shape) for p in parts)}: give them alike."
        )
    return np.concatenate(parts)


def _masks(labels: np.ndarray, size: tuple[int, int], names: Sequence[str] | None) -> tuple[np.ndarray, Legend]:
    """(Masks as uint8 (n, height, width) of classes, 255 ignored; what their values mean.)"""
    masks = labels[..., 0] if labels.ndim == 4 and labels.shape[-1] == 1 else labels
    if masks.ndim != 3 or masks.shape[1:] != size:
        wanted = "x".join(map(str, size))
        raise BadData(f"the masks have the shape {labels.shape}, the images are {wanted}: give (n, height, width).")
    if masks.dtype.kind not in "biu" or masks.min() < 0 or masks.max() > IGNORED:
        raise BadData(
            f"the masks are not whole numbers from 0 to {IGNORED}: give the number of a class for each pixel."
        )
    of = numbered(np.unique(masks).tolist(), WHERE) if names is None else legend(names)
    found = np.empty(masks.shape, np.uint8)
    for i, mask in enumerate(masks):
        found[i] = of.classes(mask.astype(np.int64), f"masks[{i}]")
    return found, of


def _check_classes(labels: Labels) -> None:
    """BadData where there is only one class, or one without images."""
    counts = np.bincount(labels.rows, minlength=len(labels.names))
    if len(counts) < 2:
        raise BadData("all images are of one class: there is nothing to tell apart; add others.")
    if not counts.all():
        raise BadData(
            f"the class {labels.names[counts.argmin()]!r} has no images: add some, or number the classes without it."
        )


def pixels(images: Any, size: tuple[int, int]) -> np.ndarray:
    """The images as uint8; BadData where that would change them, or where they are of another size."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in MODES:
        raise BadData(f"the images have the shape {images.shape}: give (images, height, width, channels of 1, 3 or 4).")
    if images.shape[1:3] != size:
        found, wanted = ("x".join(map(str, sides)) for sides in (images.shape[1:3], size))
        raise BadData(
            f"the images are {found}, the network sees {wanted}: build it with input_shape={images.shape[1:]}, or "
            "resize the images."
        )
    with np.errstate(invalid="ignore"):
        whole = images.astype("uint8", copy=False)
    if not np.array_equal(whole, images):
        raise BadData(
            "the images are not whole numbers of 0..255: round them, or give the arrays themselves to fine_tune."
        )
    return whole
