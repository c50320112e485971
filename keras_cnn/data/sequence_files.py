"""What files and arrays of sequences hold, without what is learnt of them: numbers, (time, channels)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.data import columns
from keras_cnn.data.sequence_splits import count, numbered
from keras_cnn.errors import BadData, CorruptFile

TABLES = (*columns.DELIMITERS, ".parquet")
FILES = (".npz", *TABLES)
CUT = (
    "cut all to one length, or pad them as it suits their meaning (before the first step, for a causal network); steps "
    "that are made up here would be learnt."
)


def named(path: str | os.PathLike[str], channels: int, steps: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, sequence) of a file that a network of so many channels is to answer; nothing is learnt of it.

    An `.npz`: its `x`. A table with a column `id`: a sequence for each, in the order of `time` where it has one;
    without: one series, of which the last `steps` are seen, or all where the network reads any number. A column `label`
    is passed over. Raises BadData where there are other columns than channels.
    """
    where, table, given = opened(path)
    if table is None:
        if "x" not in given:
            raise BadData(f"{where} has no array 'x', of sequences (n, time, channels): it has {', '.join(given)}.")
        yield from ((f"{where}[{i}]", one) for i, one in enumerate(as_sequences(given["x"], f"x of {where}")))
        return
    names = tuple(name for name in table if name not in ("id", "time", "label"))
    if len(names) != channels:
        raise BadData(
            f"{where} has {count(len(names), 'column')} beside id, time and label ({', '.join(names)}), and the "
            f"network reads {count(channels, 'channel')}: leave the others out."
        )
    time = "time" if "time" in table else None
    if "id" not in table:
        whole, _ = long_series(None, table, where, time, names)
        yield where, whole if steps is None else whole[-steps:]
        return
    values = of_columns(table, names, where)
    for name, rows in by_sequence(list(map(str, table["id"])), time and table[time], where).items():
        yield name, finite(values[None, rows], where)[0]


def opened(source: Any) -> tuple[str, columns.Columns | None, Any]:
    """(what to call it, its columns where it is a table, else the arrays of a file or those that were given)."""
    if not isinstance(source, str | os.PathLike):
        return "the array", None, source
    path = Path(source)
    if path.suffix not in FILES:
        raise BadData(f"{path}: sequences are in files that end in {', '.join(FILES)}.")
    return (path.name, None, npz(path)) if path.suffix == ".npz" else (path.name, columns.read(path), None)


def npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BadData(f"{path}: there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except MemoryError:
        raise CorruptFile(
            f"{path} claims more numbers than memory holds: it is damaged, or too large; save it anew, or in parts."
        ) from None
    except Exception as error:  # of a damaged, encrypted or oddly packed one, zipfile and NumPy raise anything
        why = str(error)[:200]  # of which some is quoted from the file, however long it is
        raise CorruptFile(f"{path} is damaged, or holds objects instead of arrays ({why}): save it anew.") from None


def names_in(given: Any, name: str) -> tuple[str, ...]:
    """The names that an `.npz` brings."""
    return tuple(map(str, given[name])) if isinstance(given, Mapping) and name in given else ()


def as_sequences(given: Any, what: str) -> np.ndarray:
    """(n, time, channels) as float32; BadData for what is something else, or has gaps."""
    if isinstance(given, list | tuple) or getattr(given, "dtype", None) is np.dtype(object):
        check_lengths([len(one) for one in given], [str(i) for i in range(len(given))], what)
        given = list(given)
    x = np.asarray(given)
    if x.dtype.kind not in "biuf":
        raise BadData(f"{what} holds {x.dtype}, no numbers: give decimal or whole ones.")
    if x.ndim != 3 or not all(x.shape[1:]):
        one = ", such as x[..., None] of a single channel" if x.ndim == 2 else ""
        raise BadData(f"{what} has the shape {x.shape}: give (n, time, channels){one}.")
    return finite(x, what)


def finite(x: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = x.astype("float32")
    if len(bad := np.argwhere(~np.isfinite(x))):
        place = ", ".join(f"{name} {i}" for name, i in zip(("sequence", "step", "channel"), bad[0], strict=True))
        raise BadData(f"{what} is NaN or infinite at {place}, and {len(bad) - 1} others: fill them, or leave it out.")
    return x


def of_columns(table: columns.Columns, names: Sequence[str], where: str) -> np.ndarray:
    """Columns of numbers side by side: (rows, channels)."""
    return np.array([columns.numbers(columns.column(table, name, where), name, where) for name in names]).T


def by_sequence(ids: list[str], times: list[Any] | None, where: str) -> dict[str, list[int]]:
    """The rows of each sequence, in the order of time."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, []).append(row)
    return rows if times is None else {name: _ordered(times, found, f"{where}: {name}") for name, found in rows.items()}


def _ordered(times: list[Any], rows: list[int], what: str) -> list[int]:
    known = columns.typed([times[row] for row in rows]) if isinstance(times[0], str) else [times[row] for row in rows]
    if None in known or "" in known:
        raise BadData(f"{what}: a row has no time: give each step its own, or time=None where the rows are in order.")
    order = sorted(range(len(rows)), key=known.__getitem__)
    if twice := [known[a] for a, b in pairwise(order) if known[a] == known[b]]:
        raise BadData(f"{what} has two rows of the time {twice[0]}: each step is one row; is there a column id?")
    return [rows[i] for i in order]


def long_series(
    given: Any, table: columns.Columns | None, where: str, time: str | None, channels: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One long series (time, channels), and the names of its channels."""
    if table is None:
        given, told = (given.get("x"), names_in(given, "channels")) if isinstance(given, Mapping) else (given, ())
        series = np.asarray(given)
        if series.dtype.kind not in "biuf" or series.ndim != 2:
            raise BadData(
                f"{where} has the shape {series.shape} of {series.dtype}: a series is (time, channels), numbers; of a "
                "single channel it is x[:, None]."
            )
        return finite(series[None], where)[0], channel_names(channels or told, series.shape[1])
    rows = list(range(len(next(iter(table.values())))))
    order = rows if time is None else _ordered(columns.column(table, time, where), rows, where)
    names = tuple(channels or [name for name in table if name != time])
    return finite(of_columns(table, names, where)[None, order], where)[0], names


def check_lengths(lengths: list[int], names: list[str], where: str) -> None:
    if len(set(lengths)) > 1:
        short, long = min(lengths), max(lengths)
        raise BadData(
            f"{where} has sequences of different length, from {count(short, 'step')} ({names[lengths.index(short)]}) "
            f"to {long} ({names[lengths.index(long)]}): {CUT}"
        )


def channel_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names and len(names) != count:
        raise BadData(f"{len(names)} names for {count} channels: give each one.")
    return tuple(names or ()) or numbered("channel", count)
