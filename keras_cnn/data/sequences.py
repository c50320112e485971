"""Sequences and what is to be learnt of them: arrays, `.npz`, long tables, and windows cut from one long series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.data import columns
from keras_cnn.data.sequence_files import (
    CUT,
    as_sequences,
    by_sequence,
    channel_names,
    check_lengths,
    finite,
    long_series,
    names_in,
    of_columns,
    opened,
)
from keras_cnn.data.sequence_splits import (
    SPLITS,
    Pair,
    Splits,
    check_targets,
    count,
    drawn,
    numbered,
    some,
    windows,
    with_classes,
)
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.fields import known_options


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length by split, as `kc.train(model, found.train, found.val)` takes them.

    train, val, test: pairs (x, y), or None. x: (n, time, channels), float32. y: of classes int64, (n,), or (n, time)
    with one for every step; of numbers float32, (n, targets), or (n, horizon, targets) of forecasts.
    channels: their names. class_names: of classes, else empty; targets: of numbers, else empty.
    """

    train: Pair
    val: Pair | None
    test: Pair | None
    channels: tuple[str, ...]
    class_names: tuple[str, ...]
    targets: tuple[str, ...]
    source: str

    @property
    def input_shape(self) -> tuple[int, int]:
        """(time, channels), as `build` takes it."""
        return self.train[0].shape[1], self.train[0].shape[2]

    @property
    def task(self) -> str:
        """What is learnt: "classification", "segmentation" (a class for every step) or "regression"."""
        if not self.class_names:
            return "regression"
        return "segmentation" if self.train[1].ndim == 2 else "classification"

    @property
    def sizes(self) -> dict[str, int]:
        """Sequences by split."""
        return {name: len(pair[0]) for name in SPLITS if (pair := getattr(self, name))}

    @property
    def horizon(self) -> int:
        """Steps that are forecast; 0 where nothing is."""
        return self.train[1].shape[1] if self.targets and self.train[1].ndim == 3 else 0

    def __str__(self) -> str:
        """What was understood, in one line."""
        steps, channels = self.input_shape
        sizes = ", ".join(f"{size} {name}" for name, size in self.sizes.items())
        names = self.class_names or self.targets
        what = f"{count(len(names), 'class' if self.class_names else 'target')} ({some(names)})"
        what += " for every step" if self.class_names and self.train[1].ndim == 2 else ""
        what += f", {count(self.horizon, 'step')} ahead" if self.horizon else ""
        seen = f"{count(channels, 'channel')} ({some(self.channels)})"
        return f"{self.source}: {sizes} sequences of {count(steps, 'step')}, {seen}; {what}"


@known_options
def load_sequences(
    source: Any,
    *,
    id: str | None = "id",
    time: str | None = "time",
    label: str | Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    window: int | None = None,
    horizon: int | None = None,
    targets: Sequence[str] | None = None,
    stride: int = 1,
    val_split: float = 0.2,
    test_split: float = 0.0,
    seed: int = 0,
) -> Sequences:
    """Sequences from arrays, a file, a table, or windows of one long series.

    source: one of these.
        A pair (x, y): x (n, time, channels), numbers; y whole numbers or texts, which are classes, or decimal numbers,
        which are targets: (n,) or (n, targets) of a sequence, (n, time) classes of every step, (n, horizon, targets).
        A mapping of "train", and perhaps "val" and "test", to such pairs.
        A `.npz` file: `x` and `y`, or `x_train`, `y_train`, `x_val`, ... `y_test`; perhaps `channels` and
        `class_names`, texts.
        A long table, `.csv`, `.tsv` or `.parquet` (which needs pyarrow): a row a step, with the columns `id`, which
        sequence it is of, `time`, by which its steps are put in order, and a column for each channel.
        With `window`: one long series, an array (time, channels), or such a table without ids.
    id, time, label: names of the table's columns. time=None: the rows are in order. Times are numbers, or texts whose
        order is that of time, such as 2026-03-01 12:00. label: one column of classes or numbers, or several of
        numbers; the same in all rows of a sequence, or, of classes, one for every step.
    channels: the names of an array's, or which columns of a table are; by default all others.
    class_names: by number; by default the classes in their order.
    window, horizon, stride: windows of so many steps, each `stride` behind the one before, whose next `horizon` steps
        are to be forecast. targets: which channels; by default all.
    val_split, test_split: shares held out where the source says nothing of splits. Sequences are drawn by `seed`,
        classes in proportion; a series is cut in time: its last part is for test, the one before for validation, and
        every window lies with its targets in one part, so that nothing of one part is seen in another.

    Sequences of different length are refused, since a step that is made up is one that is learnt: cut them, or pad them
    as it suits their meaning. So are NaN and texts where numbers are needed.
    Raises BadData for what cannot be learnt from, CorruptFile for a damaged file, MissingPackage for parquet.

    >>> import keras_cnn as kc, numpy as np
    >>> print(kc.load_sequences(np.arange(50.0)[:, None], window=8, horizon=2))
    the array: 31 train, 1 val sequences of 8 steps, 1 channel (channel1); 1 target (channel1), 2 steps ahead
    """
    _check(window, horizon, stride, val_split, test_split)
    where, table, given = opened(source)
    if window is not None:
        series, names = long_series(given, table, where, time, channels)
        wanted = tuple(targets or names)
        at = [_place(name, names, where) for name in wanted]
        pairs = windows(series, at, where, (window, horizon or 0, stride), val_split, test_split)
        return _whole(pairs, channels=names, class_names=(), targets=wanted, source=where)
    pairs, names, labels = _of_table(table, where, id, time, label, channels) if table else _of_arrays(given, channels)
    pairs, classes = with_classes(pairs, where, tuple(class_names or names_in(given, "class_names")))
    if len(pairs) == 1:
        pairs = drawn(*pairs["train"], bool(classes), val_split, test_split, seed)
    check_targets(pairs["train"][1], classes, labels)
    numbers = () if classes else labels or numbered("target", pairs["train"][1].shape[-1])
    return _whole(pairs, channels=names, class_names=classes, targets=numbers, source=where)


def _whole(pairs: Splits, **told: Any) -> Sequences:
    return Sequences(train=pairs["train"], val=pairs.get("val"), test=pairs.get("test"), **told)


def _check(window: int | None, horizon: int | None, stride: int, val_split: float, test_split: float) -> None:
    for name, value in {"window": window, "horizon": horizon, "stride": stride}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise BadSpec(f"{name}={value!r}: give a number of steps from 1.")
    if (window is None) != (horizon is None):
        raise BadSpec("window and horizon belong together: the steps that are seen, and those that are forecast.")
    if val_split < 0 or test_split < 0 or val_split + test_split >= 1:
        raise BadSpec(f"val_split={val_split!r}, test_split={test_split!r}: give shares that leave some for training.")


def _of_arrays(given: Any, channels: Sequence[str] | None) -> tuple[Splits, tuple[str, ...], tuple[str, ...]]:
    """(x and y of each split, names of channels, of targets) of a pair, a mapping of pairs, or an `.npz`."""
    told = names_in(given, "channels")
    if isinstance(given, Mapping) and not given.keys() & {"train"}:  # the keys of a file
        names = [name for name in SPLITS if f"x_{name}" in given]
        ends = {name: f"_{name}" for name in names} or {"train": ""}
        if missing := [key for end in ends.values() for key in (f"x{end}", f"y{end}") if key not in given]:
            raise BadData(f"there is no array {missing[0]!r}: give x and y, or x_train, y_train, x_val, ... y_test.")
        given = {name: (given[f"x{end}"], given[f"y{end}"]) for name, end in ends.items()}
    pairs = dict(given) if isinstance(given, Mapping) else {"train": given}
    if strange := pairs.keys() - set(SPLITS):
        raise BadData(f"there is no split {sorted(strange)[0]!r}: give train, val and test, or train alone.")
    if "train" not in pairs:
        raise BadData("there is no split 'train': give one to learn from.")
    for name, pair in pairs.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadData(f"{name} is no pair: give (x, y), sequences (n, time, channels) and what is learnt of them.")
    found = {name: (as_sequences(x, f"x of {name}"), np.asarray(y)) for name, (x, y) in pairs.items()}
    shapes = {x.shape[1:] for x, _ in found.values()}
    if len(shapes) > 1:
        raise BadData(f"the splits have sequences of other shapes, {some(map(str, sorted(shapes)))}: {CUT}")
    for name, (x, y) in found.items():
        if not y.ndim or len(x) != len(y) or not len(x):
            count = len(y) if y.ndim else "no list of"
            raise BadData(f"{name} has {len(x)} sequences and {count} labels: give one for each sequence.")
    (shape,) = shapes
    return found, channel_names(channels or told, shape[-1]), ()


def _of_table(
    table: columns.Columns,
    where: str,
    id: str | None,
    time: str | None,
    label: str | Sequence[str] | None,
    channels: Sequence[str] | None,
) -> tuple[Splits, tuple[str, ...], tuple[str, ...]]:
    """As `_of_arrays`, of a long table."""
    if id is None:
        raise BadSpec(f"id=None: {where} is then one long series: give window= and horizon=, to cut it.")
    ids = list(map(str, columns.column(table, id, where)))
    if label is None and "label" not in table:
        raise BadData(f"{where}: which column is learnt? give label=, of {', '.join(table)}.")
    labels = (label,) if isinstance(label, str) else tuple(label or ("label",))
    names = tuple(channels or [name for name in table if name not in {id, time, *labels}])
    if not names:
        raise BadData(f"{where} has no column left for a channel: it has {', '.join(table)}.")
    answers = [columns.column(table, name, where) for name in labels]
    if empty := [name for name, answer in zip(labels, answers, strict=True) if "" in answer or None in answer]:
        raise BadData(f"{where}: the column {empty[0]!r} is empty in a row: give every step what is learnt.")
    learnt = (
        [columns.numbers(answer, name, where) for answer, name in zip(answers, labels, strict=True)]
        if answers[1:]
        else [columns.typed(answers[0])]
    )
    rows = by_sequence(ids, None if time is None else columns.column(table, time, where), where)
    check_lengths([len(found) for found in rows.values()], list(rows), where)
    order = np.array(list(rows.values()))
    x = finite(of_columns(table, names, where)[order], where)
    y = np.array(learnt).T[order]  # (n, time, labels)
    if (y == y[:, :1]).all():
        y = y[:, 0]
    elif y.dtype.kind == "f":
        changing = labels[int(np.argwhere((y != y[:, :1]).any(axis=(0, 1)))[0, 0])]
        raise BadData(
            f"{where}: the numbers of {changing!r} change within a sequence: to forecast a channel, give window= and "
            "horizon=; to learn one number of a sequence, give it in all of its rows."
        )
    return {"train": (x, y[..., 0] if len(labels) == 1 else y)}, names, labels


def _place(name: str, names: tuple[str, ...], where: str) -> int:
    if name not in names:
        raise BadData(f"{where} has no channel {name!r} to forecast: it has {', '.join(names)}.")
    return names.index(name)
