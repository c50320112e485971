"""Data sets of the Hub: their usual layouts in a local copy, and by name where `datasets` is installed."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from keras_cnn.data.files import Files, Parts, Source, Spool
from keras_cnn.data.frames import Frame
from keras_cnn.data.labels import Wish
from keras_cnn.data.splits import SPLIT_OF, Splits, agreed
from keras_cnn.data.tables import Find, Table, below, classes_of, frame_of, laid_down, of_frame
from keras_cnn.errors import BadData, MissingPackage

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"  # the column that makes a table the metadata of an image folder
HUB = "hf://datasets/"
Frames = list[tuple[Parts, Frame]]


def metadata_in(files: Files) -> Frames:
    """(the place, the table) of each `metadata.csv` (or .jsonl, .parquet) of an `imagefolder`, as the Hub has them."""
    found = [(parts, _frame(files.files[parts])) for parts in sorted(files.files) if parts[-1].lower() in METADATA]
    return [(parts, frame) for parts, frame in found if FILE_NAME in frame.cells]


def image_folder(where: str, files: Files, tables: Frames, table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set of an `imagefolder`: tables of images beside or above them, their folders being the splits.

    options: see `splits.labelled`.
    """
    frame = _joined(where, tables)
    paths = [(*parts[:-1], *PurePosixPath(str(cell)).parts) for parts, one in tables for cell in one.cells[FILE_NAME]]
    frame = replace(frame, cells={**frame.cells, FILE_NAME: ["/".join(path) for path in paths]})
    words = agreed([_split(path[:-1]) for path in paths], frame.cells[FILE_NAME], where)
    found = of_frame(frame, _in(files), wish, table, words=words, **options)
    others = [files.images[parts].name for parts in files.images.keys() - set(paths)]
    return replace(found, ignored=tuple(sorted([*files.skipped, *others])))


def parquet_in(files: Files) -> list[Parts]:
    """The Parquet files of a folder, as the Hub's data sets have them."""
    return sorted(parts for parts in files.files if parts[-1].lower().endswith(".parquet"))


def parquet_folder(where: str, files: Files, places: list[Parts], table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set of Parquet files such as `data/train-00000-of-00002.parquet`. options: see `splits.labelled`."""
    tables = [(parts, _frame(files.files[parts])) for parts in places]
    # The split of a file is that of a folder, or the first word of its name.
    of_files = [_split((*parts[:-1], parts[-1].split("-")[0].split(".")[0])) for parts in places]
    words = agreed(of_files, [files.files[parts].name for parts in places], where)
    frame = _joined(where, tables)
    if words:
        words = [word for word, (_, one) in zip(words, tables, strict=True) for _ in range(len(one))]
    return of_frame(frame, _in(files), wish, table, words=words, **options)


def _frame(source: Source) -> Frame:
    return frame_of(source.name, PurePosixPath(source.name).suffix, source.open)


def _joined(where: str, tables: Frames) -> Frame:
    """Tables one below the other; the keys of images in them begin with the place of their file."""
    columns = list(tables[0][1].cells)
    cells: dict[str, list[Any]] = {name: [] for name in columns}
    for parts, frame in tables:
        if list(frame.cells) != columns:
            raise BadData(f"{frame.where}: its columns are not those of {tables[0][1].where}: make them the same.")
        for name, some in frame.cells.items():
            cells[name] += [
                replace(cell, key="/".join((*parts, cell.key))) if isinstance(cell, Source) else cell for cell in some
            ]
    places = [(frame, i) for _, frame in tables for i in range(len(frame))]
    return Frame(where, cells, lambda i: places[i][0].at(places[i][1]), tables[0][1].classes)


def _in(files: Files) -> Find:
    return lambda path: files.files.get(PurePosixPath(path).parts)


def _split(words: Parts) -> str | None:
    """The split that words of a place name, the innermost first."""
    return next((SPLIT_OF[word.lower()] for word in reversed(words) if word.lower() in SPLIT_OF), None)


def by_name(table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set "hf://datasets/OWNER/NAME" of a table's path, or "...@REVISION", as `datasets` loads it."""
    name = str(table.path)
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingPackage(
            f"{name} needs the package datasets; pip install datasets, or give the folder of a local copy."
        ) from error
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        found: Any = datasets.load_dataset(repository, revision=revision or None)
    except Exception as error:  # of the network, of the data set's files, of a name that there is not
        raise BadData(f"{name}: `datasets` cannot load it ({error}); check the name, or give a local copy.") from error
    named = {split: SPLIT_OF[split] for split in found if split in SPLIT_OF}
    if not named:
        raise BadData(f"{name}: none of its splits ({', '.join(found)}) is train, val or test.")
    features = found[next(iter(named))].features
    classes = {column: names for column, feature in features.to_dict().items() if (names := classes_of(feature))}
    cells: dict[str, list[Any]] = {column: [] for column in features}
    spool, places = Spool(), [(split, i) for split in named for i in range(len(found[split]))]
    for split in named:
        rows = found[split]
        for column, feature in features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        for row in rows:
            for column, cell in row.items():
                n = len(cells[column])
                cells[column].append(laid_down(spool, n, "{}[{}][{}]".format(name, *places[n]), cell))
    frame = Frame(name, cells, lambda i: f"{name}[{places[i][0]}], row {places[i][1] + 1}", classes)
    words = [named[split] for split, _ in places]
    return of_frame(frame, below(Path("/")), wish, table, words=words, **options)
