"""Tables as columns: `.csv`, `.tsv` and `.parquet` files, without pandas, and what the texts of a column are."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_cnn.errors import BadData, CorruptFile, MissingPackage

Columns = dict[str, list[Any]]
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(source: str | os.PathLike[str]) -> Columns:
    """The columns of a table by name: texts of `.csv` and `.tsv`, Python's values of `.parquet`.

    Raises BadData for a table without rows, with two columns of a name, or a row of another length; CorruptFile for a
    file that is none; MissingPackage where pyarrow is needed.
    """
    path = Path(source)
    if not path.is_file():
        raise BadData(f"{path}: there is no such file.")
    if path.suffix not in (*DELIMITERS, ".parquet"):
        raise BadData(f"{path}: tables end in .csv, .tsv or .parquet.")
    found = _parquet(path) if path.suffix == ".parquet" else _texts(path)
    if not found or not next(iter(found.values())):
        raise BadData(f"{path} has no rows: its first line names the columns, each other line is a row.")
    return found


def column(table: Columns, name: str, where: str) -> list[Any]:
    """A column; BadData, with those that there are, where there is none of the name."""
    if name not in table:
        raise BadData(f"{where} has no column {name!r}: it has {', '.join(table)}.")
    return table[name]


def numbers(values: list[Any], name: str, where: str) -> list[float]:
    """A column as numbers; BadData names the first row that has none."""
    return [_as(float, value, row, name, where) for row, value in enumerate(values, 1)]


def typed(values: list[Any]) -> list[Any]:
    """A column as whole numbers where all are, else as numbers, else as texts."""
    for kind in (int, float):
        try:
            if all(isinstance(value, str) or kind(value) == value for value in values):
                return [kind(value) for value in values]
        except (ValueError, TypeError, OverflowError):
            continue
    return list(map(str, values))


def _as(kind: Callable[[Any], Any], value: Any, row: int, name: str, where: str) -> Any:
    try:
        return kind(value)
    except (ValueError, TypeError):
        what = "is empty" if value in ("", None) else f"is {str(value)[:40]!r}, which is no number"
        raise BadData(f"{where}: row {row} of the column {name!r} {what}: mend it, or leave the column out.") from None


def _texts(path: Path) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file, delimiter=DELIMITERS[path.suffix])) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptFile(f"{path} is no table of text ({error}): save it as UTF-8.") from None
    if twice := [name for name in header if header.count(name) > 1]:
        raise BadData(f"{path} has two columns {twice[0]!r}: give each a name of its own.")
    rows = [row for row in rows if row]
    if odd := [(i, len(row)) for i, row in enumerate(rows, 1) if len(row) != len(header)]:
        raise BadData(f"{path}: row {odd[0][0]} has {odd[0][1]} entries, and there are {len(header)} columns.")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingPackage(
            f"{path.name} is a parquet file: `pip install pyarrow` to read it, or save it as .csv."
        ) from None
    try:
        return parquet.read_table(path).to_pydict()
    except (ArrowException, OSError) as error:
        raise CorruptFile(f"{path} is truncated or no parquet file ({error}): fetch it again.") from None
