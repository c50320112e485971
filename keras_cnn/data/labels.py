"""What labels mean: one class an image, any number of them, or numbers to predict; from numbers and from texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_cnn.errors import BadData
from keras_cnn.models.config import check_class_names

TASKS = ("classification", "multilabel", "regression", "segmentation")
MOST_CLASSES = 1 << 20  # that are told by their numbers alone: a stray label could claim any number of them
SEPARATORS = "|;,"  # of several names in one cell
# Words of names that a mirror image would make wrong.
SIDES = frozenset(
    [
        "left",
        "right",
        "x",
        "xmin",
        "xmax",
        "angle",
        "yaw",
        "roll",
        "heading",
        "steering",
        "steer",
        "turn",
        "direction",
        "azimuth",
        "clockwise",
        "counterclockwise",
        "anticlockwise",
        "east",
        "west",
    ]
)
PREDICT = "task='regression' predicts them as numbers"

At = Callable[[int], str]  # where a row is, in words


class Labels(NamedTuple):
    """Labels of the images of a data set, as `Split.labels` has them.

    names: of the classes, or targets. complete: whether all of the classes have to occur, as whoever made the data set
    named them. notes: what was understood, for people.
    """

    task: str
    names: tuple[str, ...]
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    complete: bool = False


class Wish(NamedTuple):
    """What labels are to be. task: said by a person; likely: by the network that they are for. None: not known."""

    task: str | None = None
    likely: str | None = None

    @property
    def asked(self) -> str | None:
        """The task that is meant, as far as it is known: a network's head says nothing where it is the usual one."""
        return self.task or (None if self.likely == "classification" else self.likely)

    def choose(self, where: str, able: Sequence[str], what: str) -> str:
        """One of the tasks that labels are able to be, the usual first; BadData where the wish is for another one."""
        if self.task is not None and self.task not in able:
            raise BadData(f"{where}: task={self.task!r} does not fit: {what}, which can be {' or '.join(able)}.")
        return next((task for task in able if task == self.asked), able[0])


ANY = Wish()


def sides(names: Sequence[str]) -> str | None:
    """The first name that speaks of sides, so that a mirror image would belong to another one."""
    split = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
    return next((name for name in names if SIDES & {word.lower() for word in split.findall(name)}), None)


def of_numbers(values: np.ndarray, names: Sequence[str] | None, wish: Wish, where: str, at: At) -> Labels:
    """Labels of columns of numbers, (n, columns), or of one, (n,).

    names: of the columns; of classes, where one column numbers them. Columns of 0 and 1 are classes, any number of
    them an image, or one where each row has one; whole numbers from 0, in one column, are classes by number where their
    dtype is of integers; others are numbers to predict.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row, *column = np.argwhere(~np.isfinite(values))[0]
        what = f" of {names[column[0]]!r}" if column and names else ""
        raise BadData(f"{at(int(row))}: the value{what} is {values[(row, *column)]}: give a number, or leave it out.")
    if values.ndim == 1:
        return _of_one(values, names, wish, where)
    binary = bool(np.isin(values, (0, 1)).all())
    hot = binary and bool((values.sum(1) == 1).all())
    able = ["classification"] * hot + ["multilabel"] * binary + ["regression"]
    what = "its columns have one 1 in each row" if hot else f"it has columns of {'0 and 1' if binary else 'numbers'}"
    task = wish.choose(where, able, what)
    names = named(names, values.shape[1], exact=True)
    if task == "classification":
        return Labels(task, names, values.argmax(1).astype(np.int32), ("each row has one 1, its class",), True)
    return Labels(task, names, values.astype("float32" if task == "regression" else "uint8"))


def _of_one(values: np.ndarray, names: Sequence[str] | None, wish: Wish, where: str) -> Labels:
    whole = bool((values >= 0).all() and (values == np.floor(values)).all())
    what = "its labels are whole numbers from 0" if whole else "its labels are not whole numbers from 0"
    able = ["classification", "regression"] if whole else ["regression"]
    task = wish.choose(where, able[::-1] if values.dtype.kind == "f" else able, what)
    if values.dtype.kind != "f" and not whole and wish.asked != "regression":
        raise BadData(f"the labels are not whole numbers from 0: give one for each image; {PREDICT}.")
    if task == "regression":
        return Labels(task, named(names or ("target",), 1, exact=True), values.astype(np.float32)[:, None])
    return Labels(task, named(names, int(values.max()) + 1), values.astype(np.int32), complete=True)


def named(names: Sequence[str] | None, count: int, *, exact: bool = False) -> tuple[str, ...]:
    """Names of so many classes or targets, by default their numbers; exact: no name may be left over."""
    if names is None and count > MOST_CLASSES:
        raise BadData(f"a label is {count - 1}: number classes from 0 on, without gaps; {PREDICT}.")
    found = tuple(names) if names is not None else tuple(map(str, range(count)))
    check_class_names(found)
    if len(found) < count:
        raise BadData(f"a label is {count - 1}, and class_names has {len(found)} names: give each class its own.")
    if exact and len(found) > count:
        raise BadData(f"there are {count} columns of labels, and class_names has {len(found)} names: give each one.")
    return found


# --- texts of a table ------------------------------------------------------------------------------------------------


def of_cells(name: str, cells: Sequence[Any], wish: Wish, separator: str | None, where: str, at: At) -> Labels:
    """Labels of one column of a table: texts, numbers, or lists of them.

    Numbers are what is to be predicted, but 0, 1, ... up to some number, all of which occur twice at least, are
    classes. Texts are names of classes; of several, where a separator is given or clear, or where cells are lists.
    """
    lists = [isinstance(cell, list | tuple) for cell in cells]
    if any(lists):
        if not all(lists):
            raise BadData(f"{at(lists.index(False))}: {name!r} is no list, as it is in other rows.")
        count = len(cells[0])
        if count > 1 and all(len(cell) == count and all(isinstance(x, int | float) for x in cell) for cell in cells):
            return of_numbers(np.array(cells), [f"{name} {i}" for i in range(count)], wish, where, at)
        return _several([list(map(str, cell)) for cell in cells], wish, where, f"{name!r} holds lists")
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    numbers = [as_number(text) for text in texts]
    if wish.asked == "multilabel" and set(numbers) <= {0.0, 1.0}:  # a column of one class, as others have several
        return of_numbers(np.array(numbers)[:, None], [name], wish, where, at)
    numeric = 2 * sum(number is not None for number in numbers) >= len(texts)
    if wish.task == "regression" or (numeric and separator is None and wish.task not in TASKS[:2]):
        return _of_column(name, held_to_numbers(name, texts, numbers, at), wish, where, at)
    separator = separator or (_clear(texts) if wish.task != "classification" else None)
    if separator or wish.task == "multilabel":
        parts = [[part.strip() for part in text.split(separator or "\0") if part.strip()] for text in texts]
        return _several(parts, wish, where, f"{name!r} holds names{f' between {separator!r}' if separator else ''}")
    wish.choose(where, ["classification"], f"{name!r} holds names")
    return _names(name, texts, at)


def _of_column(name: str, values: list[float], wish: Wish, where: str, at: At) -> Labels:
    counts = Counter(values)
    few = len(counts) > 1 and sorted(counts) == list(range(len(counts))) and min(counts.values()) > 1
    able = ["classification", "regression"] if few else ["regression"]
    if wish.choose(where, able, f"{name!r} holds numbers") == "regression":
        return of_numbers(np.array(values)[:, None], [name], Wish("regression"), where, at)
    labels = _names(name, [str(int(value)) for value in values], at)
    return labels._replace(notes=(f"the numbers of {name!r} are taken for classes; {PREDICT}",))


def as_number(text: str) -> float | None:
    """A text as a number, NaN and infinity too; None of others, and of codes such as 007."""
    if re.fullmatch(r"0\d+", text):
        return None
    try:
        return float(text)
    except ValueError:
        return None


def held_to_numbers(name: str, texts: Sequence[str], numbers: Sequence[float | None], at: At) -> list[float]:
    """The numbers of a column; BadData names the first row that has none."""
    for i, number in enumerate(numbers):
        if number is None or not math.isfinite(number):
            found = repr(texts[i]) if texts[i] else "empty"
            raise BadData(
                f"{at(i)}: {name!r} is {found} where a number is needed: correct or remove the row, or say "
                "task='classification' where these are names."
            )
    return [number for number in numbers if number is not None]


def _clear(texts: Sequence[str]) -> str | None:
    """The separator of names within cells, where it is clear: half of what it parts, at least, is in several cells."""
    cells = sorted(set(texts))
    for separator in SEPARATORS:
        parts = Counter(part for cell in cells for part in {part.strip() for part in cell.split(separator)} if part)
        joined = {part.strip() for cell in cells if separator in cell for part in cell.split(separator)} - {""}
        if joined and 2 * sum(parts[part] > 1 for part in joined) >= len(joined):
            return separator
    return None


def _several(cells: list[list[str]], wish: Wish, where: str, what: str) -> Labels:
    wish.choose(where, ["multilabel"], what)
    names = tuple(sorted({part for cell in cells for part in cell}))
    if not names:
        raise BadData(f"{where}: {what}, all of them empty: there is nothing to learn.")
    check_class_names(names)
    place = {name: i for i, name in enumerate(names)}
    rows = np.zeros((len(cells), len(names)), np.uint8)
    for i, cell in enumerate(cells):
        rows[i, [place[part] for part in cell]] = 1
    return Labels("multilabel", names, rows, (what,))


def _names(name: str, texts: list[str], at: At) -> Labels:
    if "" in texts:
        raise BadData(f"{at(texts.index(''))}: {name!r} is empty: give the image a class, or remove the row.")
    numeric = all(text.isdecimal() for text in texts)
    names = tuple(sorted(set(texts), key=(lambda text: (int(text), text)) if numeric else None))
    check_class_names(names)
    place = {name: i for i, name in enumerate(names)}
    return Labels("classification", names, np.array([place[text] for text in texts], np.int32))
