"""Arrays of images and labels as a data set: each image is a source like any file, and is held as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from keras_cnn.data.decoding import Arrays
from keras_cnn.data.files import Source
from keras_cnn.data.images import MODES, as_png
from keras_cnn.data.index import Splits, arranged
from keras_cnn.errors import BadData
from keras_cnn.models.config import check_class_names


def read(
    pair: tuple[Any, ...], size: tuple[int, int], class_names: Sequence[str] | None, val_split: float, seed: int
) -> tuple[Splits, dict[str, Arrays]]:
    """(what `index` would find, were each image a file in a folder of its class; the images of each split).

    pair: images, uint8 or whole numbers of 0..255, of a size; labels, whole numbers from 0. class_names: by number; by
    default the numbers themselves. Raises BadData for what cannot be trained on.
    """
    if len(pair) != 2:
        raise BadData(f"the data has {len(pair)} parts: give a pair (images, labels).")
    images, labels = pixels(pair[0], size), np.asarray(pair[1])
    if len(images) != len(labels) or not len(images):
        raise BadData(f"there are {len(images)} images and {len(labels)} labels: give one label for each image.")
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    if labels.ndim != 1 or labels.dtype.kind not in "biu" or labels.min() < 0:
        raise BadData("the labels are not whole numbers from 0: give one for each image, as labels.astype('int32').")
    names = tuple(map(str, range(int(labels.max()) + 1)) if class_names is None else class_names)
    check_class_names(names)
    if labels.max() >= len(names):
        raise BadData(f"a label is {labels.max()}, and class_names has {len(names)} names: give each class its own.")
    if len(names) < 2:
        raise BadData("all images are of one class: there is nothing to tell apart; add others.")
    classes: dict[str, list[Source]] = {name: [] for name in names}
    for i, label in enumerate(labels.tolist()):
        classes[names[label]].append(Source(f"{i:012}", f"images[{i}]", partial(as_png, images[i])))
    if empty := [name for name, sources in classes.items() if not sources]:
        raise BadData(f"the class {empty[0]!r} has no images: add some, or number the classes without it.")
    splits = arranged({"train": classes}, "the arrays", names, val_split, seed)
    rows = {name: [int(source.key) for source in split.sources] for name, split in splits.items()}
    held = {name: Arrays(images[rows[name]], split.labels) for name, split in splits.items()}
    return replace(splits, content=hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()), held


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
