"""Answers to any number of images as one file; a run that was killed goes on where it was.

Answers are appended to `FILE.partial`, a line of JSON each, and put on the disk batch by batch; when all are there,
they become FILE in one step. So what is called FILE is whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_cnn import files
from keras_cnn.checkpoints import arrays
from keras_cnn.data.files import Source
from keras_cnn.data.stream import in_batches
from keras_cnn.deploy.opened import File
from keras_cnn.errors import BadSpec, MissingPackage
from keras_cnn.terminal import cell

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]  # all rows, as often as they are asked for
ROWS = 1024  # that are held at a time


class Partial:
    """The answers that are there so far; made by `partial`.

    answered: how many. bad: names of the images that could not be read.
    """

    def __init__(self, path: Path, file: Any, rows: Iterable[Row]) -> None:
        self.path, self.file = path, file
        self.names, self.bad = Counter[str](), list[str]()
        for row in rows:
            self._count(row)

    @property
    def answered(self) -> int:
        return self.names.total()

    def left(self, sources: Sequence[Source]) -> list[Source]:
        """Those that have no answer yet; one that is named twice has two."""
        seen = Counter(self.names)
        left = []
        for source in sources:
            if seen[source.name] > 0:
                seen[source.name] -= 1
            else:
                left.append(source)
        return left

    def extend(self, answers: Iterable[Any], size: int) -> None:
        """Append answers as they come, so many at a time."""
        for some in in_batches(answers, size):
            rows = [_row(answer) for answer in some]
            self.file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
            self.file.flush()
            os.fsync(self.file.fileno())
            for row in rows:
                self._count(row)

    def finish(self, out: Path) -> None:
        """Make the file of all answers, and forget the partial one."""
        files.write_beside(out, lambda place: WRITERS[out.suffix.lower()](place, lambda: _rows(self.path)))
        self.path.unlink()

    def _count(self, row: Row) -> None:
        self.names[row["image"]] += 1
        if row["error"]:
            self.bad.append(row["image"])


@contextmanager
def partial(out: Path, work: Mapping[str, Any], *, resume: bool = True) -> Iterator[Partial]:
    """The answers of work that a file is to hold: none, or those that it had when it was killed.

    work: all that answers depend on. resume: go on with those that are there; else they are forgotten.
    Raises BadSpec where the partial file is of other work or cannot be read, RunInUse where another process writes it,
    CannotWrite where nothing can be written, MissingPackage where the file needs one that is not installed.
    """
    if out.suffix.lower() == ".parquet":
        _pyarrow()
    path = out.with_name(f"{out.name}.partial")
    files.check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path} is written by another process: wait for its end, or give another file."
    with files.locked(path.with_name(f".{path.name}.lock"), busy):
        if not resume:
            path.unlink(missing_ok=True)
        _begin(path, json.loads(json.dumps(dict(work))))
        with path.open("ab") as file:
            kept = Partial(path, file, _rows(path))
            try:
                yield kept
            finally:
                if not kept.answered:
                    path.unlink(missing_ok=True)


def table(answers: Iterable[Any], like: Any) -> Any:
    """Answers as a table of pyarrow, with the columns of a .parquet file. like: an answer that has all of them."""
    return _arrow(map(_row, answers), _schema(like.columns()))


def identity(network: Any) -> str:
    """A hash of all numbers of a network, or exported file."""
    if isinstance(network, File):
        return hashlib.sha256(json.dumps(network.about["sha256"], sort_keys=True).encode()).hexdigest()
    return arrays.digest(arrays.arrays(network))


def _begin(path: Path, work: Any) -> None:
    """Have a partial file that begins with what it is of, and ends with a whole line."""
    mend = f"delete {path}, or give another file"
    if not path.exists() or not path.stat().st_size:
        path.write_text(json.dumps({"work": work}) + "\n", encoding="utf-8")
        return
    with path.open("rb+") as file:
        try:
            before = json.loads(file.readline())["work"]
            differences = files.differences(before, work)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadSpec(f"{path} holds no answers that could be gone on with: {mend}.") from None
        if differences:
            raise BadSpec(f"{path} holds answers of other work ({differences}): repeat that, or {mend}.")
        whole = file.tell()
        for line in file:
            if not line.endswith(b"\n"):  # it was killed while it wrote
                break
            whole += len(line)
        file.truncate(whole)


def _row(answer: Any) -> Row:
    """An answer by columns and as JSON; for an image that cannot be read, why."""
    row: Row = {"image": answer.name, "error": answer.error}
    return row if answer.error else {**row, "columns": answer.columns(), "facts": answer.facts()}


def facts(row: Row) -> Row:
    """A row as JSON has it."""
    return {"image": row["image"], "error": row["error"]} if row["error"] else row["facts"]


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        file.readline()
        yield from map(json.loads, file)


# --- files ------------------------------------------------------------------------------------------------------------


def _csv(path: str, rows: Rows) -> None:
    """A line an image, with the columns of the first one that can be read; for one that cannot, why."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", *_columns(rows), "error"])
        writer.writeheader()
        for row in rows():
            line = {"image": row["image"], **row.get("columns", {}), "error": row["error"]}
            writer.writerow({title: cell(value) for title, value in line.items()})


def _parquet(path: str, rows: Rows) -> None:
    """The same columns; numbers are float64 or int64, whatever they are read by."""
    parquet, schema = _pyarrow()[1], _schema(_columns(rows))
    with parquet.ParquetWriter(path, schema) as writer:
        for some in in_batches(rows(), ROWS):
            writer.write_table(_arrow(some, schema))


def _jsonl(path: str, rows: Rows) -> None:
    """An answer a line, as --json has it."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(facts(row)) + "\n" for row in rows())


def _json(path: str, rows: Rows) -> None:
    """What --json prints; an answer a line."""
    with open(path, "w", encoding="utf-8") as file:
        for i, row in enumerate(rows()):
            file.write((",\n" if i else "[\n") + json.dumps(facts(row)))
        file.write("\n]\n")


def _columns(rows: Rows) -> Row:
    return next((row["columns"] for row in rows() if not row["error"]), {})


def _schema(columns: Row) -> Any:
    arrow, _ = _pyarrow()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    titles = {title: kinds[type(value)] for title, value in columns.items()}
    return arrow.schema({"image": arrow.string(), **titles, "error": arrow.string()})


def _arrow(rows: Iterable[Row], schema: Any) -> Any:
    lines = [{"image": row["image"], **row.get("columns", {}), "error": row["error"] or None} for row in rows]
    return _pyarrow()[0].Table.from_pylist(lines, schema)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackage(
            "a .parquet file or a table needs pyarrow: pip install pyarrow; or give a .csv."
        ) from error
    return arrow, parquet


WRITERS: Mapping[str, Callable[[str, Rows], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
}
