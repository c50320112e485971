"""Tables of images: CSV, TSV, JSON lines and Parquet, with a column of paths, or of images, and columns of labels."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from keras_cnn.data.files import Source, Spool, files_of, regular
from keras_cnn.data.frames import Columns, Frame, data_set, pick
from keras_cnn.data.images import printable, read_bounded
from keras_cnn.data.labels import Wish
from keras_cnn.data.splits import Splits, in_list
from keras_cnn.errors import BadData, BadSpec, MissingPackage
from keras_cnn.models.fields import held_to, known_options

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
LARGEST = 1 << 30  # bytes of a table as text: ten times what ImageNet's 1.3 million rows have
ROWS = 256  # of a Parquet file that are held at a time, with their images

Open = Callable[[], IO[bytes]]
Find = Callable[[str], Source | None]  # the image of a path that a table names


@known_options
@dataclass(frozen=True)
class Table:
    """A table of images for `load_data`, where it does not say itself what its columns are.

    path: a `.csv`, `.tsv` or `.parquet` file; the columns of a CSV are parted by commas, semicolons or tabs. Or what
        else has columns: "tfds:NAME", "hf://datasets/OWNER/NAME", or the folder of a data set of the Hub.
    image: the column of paths, relative to the table or to root, or of the images themselves; by default that with a
        usual name (file_name, file, image, path, ...), or whose cells end like images.
    labels: the column of labels, or several of numbers; by default that with a usual name (label, class, target, ...),
        else all that are left if they hold numbers. A column of paths of masks makes segmentation.
    separator: of several names in one cell, such as "|"; by default "|", ";" or ",", where it is clear.
    root: the folder, or zip, that paths are relative to; by default that of the table.
    split: the column that says train, val or test; by default that called split, if there is one.
    """

    path: str | os.PathLike[str]
    image: str | None = None
    labels: str | Sequence[str] | None = None
    separator: str | None = None
    root: str | os.PathLike[str] | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and not isinstance(self.labels, str):
            object.__setattr__(self, "labels", held_to("labels", self.labels, tuple[str, ...]))
        for name in ("image", "separator", "split"):
            if held_to(name, getattr(self, name), str | None) == "":
                raise BadSpec(f"{name}='': give a text, or leave it out.")

    @property
    def given(self) -> dict[str, Any]:
        """What was said of the columns."""
        return {"image": self.image, "labels": self.labels, "split": self.split}


def read(table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set of a table. options: see `splits.labelled`. Raises BadData, with the row, for what is wrong."""
    path = Path(table.path)
    where = printable(path)
    if path.suffix.lower() not in KINDS:
        raise BadSpec(f"{where}: a table is one of {', '.join(KINDS)}.")
    if not path.is_file():
        raise BadData(f"{where}: {'not a file' if path.exists() else 'no such file'}; give a table of images.")
    frame = frame_of(where, path.suffix, partial(path.open, "rb"))
    return of_frame(frame, below(path.parent if table.root is None else Path(table.root)), wish, table, **options)


def of_frame(frame: Frame, find: Find, wish: Wish, table: Table, **options: Any) -> Splits:
    """The data set of a frame. find: the image of a path, where its cells are paths. table: what somebody said."""
    return of_columns(frame, pick(frame.kinds, frame.where, wish, table.given), find, wish, table, **options)


def of_columns(frame: Frame, columns: Columns, find: Find, wish: Wish, table: Table, **options: Any) -> Splits:
    """The same, of columns that are known."""
    sources, masks = _sources(frame, columns.image, find), None
    if len(columns.labels) == 1 and frame.kinds[columns.labels[0]] in ("image", "path"):
        masks = _sources(frame, columns.labels[0], find, unique=False)
    return data_set(frame, columns, wish, sources=sources, masks=masks, separator=table.separator, **options)


def below(root: Path) -> Find:
    """What finds the image of a path below a folder, or in a zip."""
    if root.suffix.lower() != ".zip":
        return lambda text: _on_disk(root, text)
    files = files_of(root).files
    return lambda text: files.get(PurePosixPath(text).parts)


def _on_disk(root: Path, text: str) -> Source | None:
    path = root / text
    return Source(text, printable(path), partial(regular, path)) if path.is_file() else None


def _sources(frame: Frame, column: str, find: Find, unique: bool = True) -> list[Source]:
    """The images of a column; BadData lists those that are not there, and rows that are empty or come twice."""
    cells = frame.cells[column]
    texts = [cell.key if isinstance(cell, Source) else "" if cell is None else str(cell).strip() for cell in cells]
    if "" in texts:
        raise BadData(
            f"{frame.at(texts.index(''))}: {column!r} is empty: give the path of an image, or remove the row."
        )
    if unique and len(set(texts)) < len(texts) and not isinstance(cells[0], Source):
        [(twice, _)] = Counter(texts).most_common(1)
        first, second = [i for i, text in enumerate(texts) if text == twice][:2]
        raise BadData(
            f"{frame.at(second)}: {twice!r} is the image of another row, too ({frame.at(first).rpartition(', ')[2]}): "
            "give each image one row, with all its labels."
        )
    found = [
        cell if isinstance(cell, Source) else (source := find(text)) and replace(source, key=text)
        for text, cell in zip(texts, cells, strict=True)
    ]
    if missing := [text for text, source in zip(texts, found, strict=True) if source is None]:
        raise BadData(
            f"{frame.where}: {len(missing)} of {len(texts)} files of {column!r} are missing: {in_list(missing)}; paths "
            "are relative to the table, or to root, as in kc.Table(..., root='photos') (--root)."
        )
    return [source for source in found if source]


# --- reading ---------------------------------------------------------------------------------------------------------


def frame_of(where: str, kind: str, open_file: Open) -> Frame:
    """The columns of a table. where: what messages call it; kind: its suffix."""
    if kind.lower() == ".parquet":
        return _parquet(where, open_file)
    with open_file() as file:
        try:
            text = read_bounded(file, where, LARGEST, "a table", BadData).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadData(f"{where}: the table is not UTF-8 ({error.reason}); save it as UTF-8.") from None
    if kind.lower() == ".jsonl":
        return _lines(where, text)
    return _delimited(where, text, "\t" if kind.lower() == ".tsv" else None)


def _lines(where: str, text: str) -> Frame:
    """Of objects in JSON, one a line, all with the same keys."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for n, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise BadData(f"{where}, row {n}: it is no JSON ({error}); correct the line.") from None
        if row is not None and not (isinstance(row, dict) and row):
            raise BadData(f'{where}, row {n}: give an object with columns, such as {{"file_name": "a.png"}}.')
        if row and rows and row.keys() != rows[0][1].keys():
            odd = sorted(row.keys() ^ rows[0][1].keys())[0]
            raise BadData(f"{where}, row {n}: {odd!r} is not in every row; give all rows the same columns.")
        rows += [(n, row)] if row else []
    if not rows:
        raise BadData(f"{where}: the table is empty; give a line for each image.")
    plain = lambda cell: int(cell) if isinstance(cell, bool) else cell  # noqa: E731
    cells = {name: [plain(row[name]) for _, row in rows] for name in rows[0][1]}
    return Frame(where, cells, lambda i: f"{where}, row {rows[i][0]}")


def _delimited(where: str, text: str, delimiter: str | None) -> Frame:
    """Rows are counted as spreadsheets do, the header being the first."""
    header = text.partition("\n")[0]
    delimiter = delimiter or max(",;\t", key=header.count)
    try:
        rows = [(n, row) for n, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 1)]
    except csv.Error as error:
        raise BadData(f"{where}: the table cannot be read ({error}); save it as CSV.") from None
    rows = [(n, row) for n, row in rows if row]  # csv has an empty list for a line without anything
    if not rows:
        raise BadData(f"{where}: the table is empty; give a row of names of columns, and one for each image.")
    names, rows = [name.strip() for name in rows[0][1]], rows[1:]
    if len(set(names)) < len(names):
        raise BadData(f"{where}: two columns are called {Counter(names).most_common(1)[0][0]!r}; name each once.")
    for n, row in rows:
        if not any(cell.strip() for cell in row):
            raise BadData(f"{where}, row {n}: the row is empty; remove it.")
        if len(row) != len(names):
            raise BadData(f"{where}, row {n}: there are {len(row)} cells for {len(names)} columns; correct the row.")
    cells = {name: [row[i] for _, row in rows] for i, name in enumerate(names)}
    return Frame(where, cells, lambda i: f"{where}, row {rows[i][0]}")


def _parquet(where: str, open_file: Open) -> Frame:
    """The columns of a Parquet file; rows are counted from 1.

    Images in it (as data sets of the Hub have them, {"bytes": ..., "path": ...}) are laid down on disk as they come,
    and names of classes are those of the `datasets` features in its schema.
    """
    try:
        import pyarrow.parquet as arrow
    except ImportError as error:
        raise MissingPackage(f"{where} needs pyarrow; pip install pyarrow.") from error
    spool = Spool()
    with open_file() as file:
        try:
            table = arrow.ParquetFile(file)
            cells: dict[str, list[Any]] = {name: [] for name in table.schema_arrow.names}
            for batch in table.iter_batches(ROWS):
                for name, values in batch.to_pydict().items():
                    start = len(cells[name])
                    cells[name] += [laid_down(spool, i, f"{where}[{i}]", cell) for i, cell in enumerate(values, start)]
            features = features_of(table.schema_arrow.metadata or {})
        except (OSError, ValueError) as error:  # as pyarrow's own are
            raise BadData(f"{where}: the file is no Parquet, or damaged ({error}); load it again.") from error
    classes = {name: names for name, feature in features.items() if (names := classes_of(feature))}
    return Frame(where, cells, lambda i: f"{where}, row {i + 1}", classes)


def laid_down(spool: Spool, number: int, name: str, cell: Any) -> Any:
    """A cell; an image in it as a source, whose key is the number of its row; of one elsewhere its path."""
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(content, bytes):
        return Source(f"{number:08}", name, spool.add(content))
    return cell.get("path") if isinstance(cell, Mapping) else cell


def features_of(metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """The features that `datasets` writes into a schema, by column; none where there are none that can be read."""
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def classes_of(feature: Any) -> Sequence[str] | None:
    """The names of a feature of `datasets` that numbers classes, or is a list of such numbers; None of others."""
    return next((one["names"] for one in _nested(feature) if one.get("_type") == "ClassLabel"), None)


def _nested(feature: Any) -> Iterator[Mapping[str, Any]]:
    """A feature, and that of the items of its list."""
    while feature:
        feature = feature[0] if isinstance(feature, list) else feature
        if not isinstance(feature, Mapping):
            return
        yield feature
        feature = feature.get("feature")
