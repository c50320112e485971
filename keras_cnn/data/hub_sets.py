"""Data sets of the Hub: their usual layouts in a local copy, and by name where `datasets` is installed."""

from __future__ import annotations

import importlib
from pathlib import Path, PurePosixPath
from typing import Any

from keras_cnn.data.files import Files, Parts, Spool
from keras_cnn.data.frames import Frame
from keras_cnn.data.labels import Wish
from keras_cnn.data.splits import SPLIT_OF, Splits
from keras_cnn.data.tables import Table, below, classes_of, frame_of, laid_down, of_frame, parquet
from keras_cnn.errors import BadData, MissingPackage

METADATA = ("metadata.csv", "metadata.tsv", "metadata.parquet")
FILE_NAME = "file_name"  # the column that makes a table the metadata of an image folder
HUB = "hf://datasets/"
Frames = list[tuple[Parts, Frame]]


def metadata_in(files: Files) -> Frames:
    """(the folder, the table) of each `metadata.csv` of an `imagefolder`, as the Hub has them."""
    found = []
    for parts, source in sorted(files.files.items()):
        if parts[-1].lower() in METADATA:
            frame = frame_of(source.name, PurePosixPath(parts[-1]).suffix, source.open)
            if FILE_NAME in frame.cells:
                found.append((parts[:-1], frame))
    return found


def image_folder(where: str, files: Files, tables: Frames, table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set of an `imagefolder`: tables of images beside or above them, their folders being the splits.

    options: see `splits.labelled`.
    """
    columns = list(tables[0][1].cells)
    cells: dict[str, list[Any]] = {name: [] for name in columns}
    places: list[tuple[Frame, int]] = []
    for folder, frame in tables:
        if list(frame.cells) != columns:
            raise BadData(f"{frame.where}: its columns are not those of {tables[0][1].where}: make them the same.")
        for name, some in frame.cells.items():
            cells[name] += ["/".join((*folder, str(cell))) for cell in some] if name == FILE_NAME else some
        places += [(frame, i) for i in range(len(frame.cells[FILE_NAME]))]
    whole = Frame(where, cells, lambda i: places[i][0].at(places[i][1]), tables[0][1].classes)
    words = [_split((*PurePosixPath(path).parts[:-1],)) for path in cells[FILE_NAME]]
    given = None if None in words else [word for word in words if word]
    return of_frame(whole, lambda path: files.files.get(PurePosixPath(path).parts), wish, table, words=given, **options)


def parquet_in(files: Files) -> list[Parts]:
    """The Parquet files of a folder, as the Hub's data sets have them."""
    return sorted(parts for parts in files.files if parts[-1].lower().endswith(".parquet"))


def parquet_folder(where: str, files: Files, places: list[Parts], table: Table, wish: Wish, **options: Any) -> Splits:
    """The data set of Parquet files such as `data/train-00000-of-00002.parquet`. options: see `splits.labelled`."""
    frames = [(files.files[parts].name, files.files[parts].open) for parts in places]
    frame = parquet(frames, where)
    by_file = {name: _split(parts) for (name, _), parts in zip(frames, places, strict=True)}
    count = len(next(iter(frame.cells.values()), ()))
    words = [by_file[frame.at(i).rpartition(", row ")[0]] for i in range(count)]
    given = None if None in words else [word for word in words if word]
    return of_frame(frame, lambda path: None, wish, table, words=given, **options)


def _split(parts: Parts) -> str | None:
    """The split that a file is in: that of a folder, or of the first word of its name, as in train-00000-of-00002."""
    words = [*(part.lower() for part in reversed(parts[:-1])), parts[-1].lower().split("-")[0].split(".")[0]]
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), None)


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
