"""Columns and rows, wherever they come from: which have the images and the labels, and the data set of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from keras_cnn.data.files import SUFFIXES, Source
from keras_cnn.data.labels import At, Labels, Wish, as_number, held_to_numbers, of_cells, of_numbers
from keras_cnn.data.masks import legend, legend_of_values
from keras_cnn.data.splits import SPLIT_OF, Splits, in_list, labelled
from keras_cnn.errors import BadData, BadSpec

# Usual names of columns, in small letters, the likeliest first.
IMAGES = ("file_name", "filename", "file", "image", "img", "path", "image_path", "filepath", "photo")
LABELS = ("label", "labels", "class", "category", "target", "targets", "tags", "mask", "segmentation_mask")
SPLITS = ("split", "set", "subset", "partition")
ROWS = ("", "id", "index", "unnamed: 0")  # of numbers of rows, which nobody predicts


class Columns(NamedTuple):
    """Names of columns by what they are for. split: None where there is none."""

    image: str
    labels: tuple[str, ...]
    split: str | None = None


@dataclass(frozen=True)
class Frame:
    """Rows by column. cells: texts, numbers, lists, or `Source`s where images are in the table itself.

    at: where a row is, in words. classes: names of the classes of columns that number them.
    """

    where: str
    cells: Mapping[str, Sequence[Any]]
    at: At
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    @property
    def kinds(self) -> dict[str, str]:
        """What each column holds: "image", "path", "class", "number" or "text"."""
        kinds = {name: _kind(cells) for name, cells in self.cells.items()}
        return kinds | {name: "class" for name in self.classes if kinds.get(name) != "image"}


def _kind(cells: Sequence[Any]) -> str:
    some = [cell for cell in cells[:1000] if cell is not None and cell != ""]
    if some and isinstance(some[0], Source):
        return "image"
    texts = [str(cell) for cell in some]
    if 2 * sum(PurePosixPath(text).suffix.lower() in SUFFIXES for text in texts) > len(texts):
        return "path"
    return "number" if texts and all(as_number(text) is not None for text in texts) else "text"


def pick(kinds: Mapping[str, str], where: str, wish: Wish, given: Mapping[str, Any] | None = None) -> Columns:
    """Which column has the images, which the labels, which the split, by names and kinds, where nobody said so.

    given: what somebody said: image, labels, split. Raises BadSpec, with the columns, where it is not clear.
    """
    given = {name: value for name, value in (given or {}).items() if value}
    labels = given.get("labels", ())
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    for name in (given.get("image"), *labels, given.get("split")):
        if name is not None and name not in kinds:
            raise BadSpec(f"{where}: there is no column {name!r}; it has {', '.join(map(repr, kinds))}.")

    def find(names: Sequence[str], among: Sequence[str]) -> str | None:
        return next((column for name in names for column in among if column.lower() == name), None)

    pictures = [name for name, kind in kinds.items() if kind in ("image", "path") and name not in labels]
    image = given.get("image") or find(IMAGES, pictures) or next(iter(pictures), None)
    image = image or find(IMAGES, [name for name in kinds if name not in labels])
    if image is None:
        columns = ", ".join(map(repr, kinds))
        raise BadSpec(
            f"{where}: no column has paths of images ({columns}); name it: kc.Table(..., image='COLUMN') "
            "(--image-column COLUMN)."
        )
    split = given.get("split") or find(SPLITS, [name for name in kinds if name not in (image, *labels)])
    if labels:
        return Columns(image, labels, split)
    rest = [name for name in kinds if name not in (image, split) and name.lower() not in ROWS]
    masks = [name for name in rest if name in pictures]
    if wish.asked == "segmentation" and masks:
        rest = masks[:1]
    elif wish.asked == "regression" and (numbers := [name for name in rest if kinds[name] == "number"]):
        rest = numbers
    elif named := find(LABELS, rest):
        rest = [named]
    elif len(classes := [name for name in rest if kinds[name] == "class"]) == 1:
        rest = classes
    else:
        rest = [name for name in rest if name not in masks] or masks[:1]
    if not rest or (len(rest) > 1 and any(kinds[name] != "number" for name in rest)):
        raise BadSpec(
            f"{where}: which column has the labels is not clear ({', '.join(map(repr, kinds))}); name it, as in "
            "kc.Table(..., labels='COLUMN'), or labels=['a', 'b'] for several (--labels COLUMN, once for each)."
        )
    return Columns(image, tuple(rest), split)


def data_set(
    frame: Frame,
    columns: Columns,
    wish: Wish,
    *,
    sources: Sequence[Source],
    masks: Sequence[Source] | None = None,
    words: Sequence[str] | None = None,
    separator: str | None = None,
    **options: Any,
) -> Splits:
    """The data set of a frame, whose images have been found. words: of splits, where no column has them.

    masks: those of the column of labels, where it has any. options: see `labelled`.
    """
    where, names = frame.where, list(columns.labels)
    read = f"images by {columns.image!r}, labels by {in_list([repr(name) for name in names])}"
    if not sources:
        raise BadData(f"{where}: there are no rows; give one for each image.")
    legend_of = None
    if masks is not None:
        wish.choose(where, ["segmentation"], f"{names[0]!r} holds masks")
        known = frame.classes.get(names[0])
        legend_of = legend(known) if known else legend_of_values(masks, where)
        labels = Labels("segmentation", legend_of.names, np.zeros(len(sources), np.int32))
    elif len(names) > 1:
        values = []
        for name in names:
            texts = ["" if cell is None else str(cell).strip() for cell in frame.cells[name]]
            values.append(held_to_numbers(name, texts, [as_number(text) for text in texts], frame.at))
        labels = of_numbers(np.array(values).T, names, wish, where, frame.at)
    elif names[0] in frame.classes:
        labels = _of_classes(frame, names[0], wish)
    else:
        labels = of_cells(names[0], frame.cells[names[0]], wish, separator, where, frame.at)
    if columns.split:
        words = _words(frame, columns.split)
    labels = labels._replace(notes=(read, *labels.notes))
    return labelled(sources, labels, words, where, masks=masks, legend=legend_of, **options)


def _of_classes(frame: Frame, name: str, wish: Wish) -> Labels:
    """Labels of a column that numbers classes with names: one, or a list of them, an image."""
    names, cells = tuple(frame.classes[name]), frame.cells[name]
    several = any(isinstance(cell, list | tuple) for cell in cells)
    wish.choose(frame.where, ["multilabel" if several else "classification"], f"{name!r} numbers classes")
    shown = [cell if isinstance(cell, list | tuple) else [cell] for cell in cells]
    for i, some in enumerate(shown):
        for label in some:
            if not isinstance(label, int | np.integer) or not 0 <= label < len(names):
                raise BadData(f"{frame.at(i)}: {name!r} is {label!r}, and there are {len(names)} classes, from 0.")
    if not several:
        return Labels("classification", names, np.array(shown, np.int32)[:, 0], complete=True)
    rows = np.zeros((len(cells), len(names)), np.uint8)
    for i, some in enumerate(shown):
        rows[i, np.array(some, int)] = 1
    return Labels("multilabel", names, rows)


def _words(frame: Frame, column: str) -> list[str]:
    words = [str(cell).strip().lower() for cell in frame.cells[column]]
    if strange := [i for i, word in enumerate(words) if word not in SPLIT_OF]:
        found = frame.cells[column][strange[0]]
        raise BadData(f"{frame.at(strange[0])}: {column!r} is {found!r}: give {', '.join(SPLIT_OF)}.")
    return [SPLIT_OF[word] for word in words]
