"""Shards: tar files of images and labels, read by position; our own with an index, or those that WebDataset writes."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from keras_cnn import files
from keras_cnn.data import images
from keras_cnn.data.files import SUFFIXES, Files, Parts, Source
from keras_cnn.data.frames import Frame
from keras_cnn.data.images import printable, read_bounded
from keras_cnn.data.labels import MOST_CLASSES, Labels, Wish
from keras_cnn.data.masks import Legend
from keras_cnn.data.splits import SPLIT_OF, Split, Splits, agreed, in_list, labelled
from keras_cnn.data.tables import Table, of_frame
from keras_cnn.errors import BadData, BadSpec, KerasCnnError
from keras_cnn.models.config import check_class_names
from keras_cnn.models.fields import held_to, one_of, written
from keras_cnn.terminal import progress

INDEX = "index.json"
PARTS = ".packing"  # beside it: what is known of the shards that are done, until the index is
FORMAT, VERSION = "keras_cnn.packed", 1
BEGINS = f'{{"format": "{FORMAT}"'.encode()  # of an index of ours, as no other file of its name begins
MASKS = ("seg.png", "mask.png")  # endings of a record's mask
MOST_TEXT = 1 << 20  # bytes of a record's label
MOST_HEADER = 16 << 10  # bytes of a member's long name, or of its further facts, which grow by as many times
# Of the kinds of labels by which a record is told what it is: NumPy's dtype and a row's rank.
ROWS = {"classification": "int32", "multilabel": "uint8", "regression": "float32", "segmentation": "int32"}


@dataclass(frozen=True)
class Record(Source):
    """An image in a shard. place: among all records, as they lie on the disk; start, size: its bytes in the file."""

    place: int = 0
    path: str = ""
    start: int = 0
    size: int = 0


def read_at(path: str, start: int, size: int, check: int | None = None) -> IO[bytes]:
    """A part of a file as a stream. check: its CRC-32; OSError where the part is not what it was, or not there.

    A size is what somebody's header says: memory for more than an image may have is not even asked for.
    """
    if size > images.MOST_BYTES:
        raise OSError(f"{size:,} bytes are too many for an image, which may have {images.MOST_BYTES >> 20} MiB")
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        content = file.read(size)
    if len(content) < size or (check is not None and zlib.crc32(content) != check):
        raise OSError("the shard has changed since it was written; pack the data again")
    return io.BytesIO(content)


def by_place(found: Splits) -> Splits:
    """The same, the images of each split as they lie on the disk: what is read in order is read from end to end."""

    def ordered(split: Split | None) -> Split | None:
        return split and split.some(
            np.argsort([getattr(source, "place", 0) for source in split.sources], kind="stable")
        )

    return replace(found, train=ordered(found.train), val=ordered(found.val), test=ordered(found.test))


def packed_at(path: Path) -> bool:
    """Whether a folder holds packed data of ours; BadData where it was not packed to the end."""
    if (path / PARTS).is_dir():
        raise BadData(f"{printable(path)}: packing has not come to its end: the same `keras-cnn pack` goes on.")
    try:
        with (path / INDEX).open("rb") as file:
            return file.read(len(BEGINS)) == BEGINS
    except OSError:
        return False


def damaged_at(path: Path) -> bool:
    """Whether the beginning of an index beside shards that are called like ours has suffered.

    They would be read as those of others otherwise: divided in another way, and not held to their checksums.
    """
    if not any(path.glob(f"*-{0:06}.tar")):
        return False
    try:
        with (path / INDEX).open("rb") as file:
            told = json.loads(read_bounded(file, INDEX))
    except OSError:
        return False
    except (ValueError, RecursionError, KerasCnnError):
        return True
    return isinstance(told, dict) and len(told.keys() & {"version", "task", "class_names", "splits", "sha256"}) > 2


def read(path: Path, wish: Wish, *, skip_bad: bool = False, **options: Any) -> Splits:
    """The data set that `pack` wrote into a folder. options: see `splits.labelled`.

    Where it had no val, a share of train becomes that just as it does of the data that was packed.
    Raises BadData for an index that is damaged; and, unless skip_bad, for shards that are missing or not as long as
    they were. Records are held to their checksums as they are read.
    """
    where = printable(path)
    try:
        return _read(path, where, _index(path, where), wish, skip_bad, options)
    except KerasCnnError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:  # its checksum was right
        why = f"is not as `pack` writes it ({type(error).__name__})"
        raise BadData(f"{where}/{INDEX} {why}: pack the data again.") from error


def _read(path: Path, where: str, index: dict[str, Any], wish: Wish, skip_bad: bool, options: dict[str, Any]) -> Splits:
    task, names, told_notes = _facts(index, where)
    wish.choose(where, [task], "it was packed so")
    shards = [(split, shard) for split, some in index["splits"].items() for shard in some]
    kept, notes = _whole(path, shards, where, skip_bad)
    sources, masks, labels, words = [], [], [], []
    for split, shard in kept:
        file = path / shard["file"]
        places = [shard["offsets"], shard["lengths"], shard["checks"]]
        _whole_numbers([*places, *zip(*shard.get("masks", ()), strict=True)])
        parts = zip(shard["keys"], *places, strict=True)
        for key, start, size, check in parts:
            name = f"{printable(file)}/{printable(key)}"
            path_of = os.fspath(file)
            reader = partial(read_at, path_of, start, size, check)
            sources.append(Record(key, name, reader, len(sources), path_of, start, size))
        for key, (start, size, check) in zip(shard["keys"], shard["masks"], strict=True) if "masks" in shard else ():
            name = f"{printable(file)}/{printable(key)} (mask)"
            masks.append(Source(key, name, partial(read_at, os.fspath(file), start, size, check)))
        labels += shard["labels"]
        words += [split] * len(shard["keys"])
    if not sources:
        raise BadData(f"{where}: holds no images; pack the data again.")
    rows = rows_of(labels, task, len(names))
    if len(rows) != len(sources):
        raise ValueError("other labels than images")
    told = Labels(task, names, rows, (*told_notes, *notes))
    legend = Legend(names, {**{i: i for i in range(len(names))}, 255: 255}) if task == "segmentation" else None
    found = labelled(sources, told, words, where, masks=masks if legend else None, legend=legend, **options)
    return replace(by_place(found), notes=told.notes, chiral=index["chiral"], content=index["sha256"])


def _facts(index: dict[str, Any], where: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(task, names of classes, notes) of an index; BadData where they are none."""
    try:
        one_of("task", index["task"], tuple(ROWS))
        held_to("chiral", index["chiral"], bool)
        names, notes = (held_to(name, index[name], tuple[str, ...]) for name in ("class_names", "notes"))
        check_class_names(names)
        written("notes", notes)
    except BadSpec as error:
        raise BadData(f"{where}/{INDEX} is not as `pack` writes it: {error}") from None
    return index["task"], names, notes


def _whole_numbers(values: Any, most: int = 2**63 - 1) -> None:
    """ValueError for what is anything but whole numbers from 0."""
    found = np.array(values)
    if found.size and (found.dtype.kind != "i" or found.min() < 0 or found.max() > most):
        raise ValueError("other than whole numbers")


def rows_of(labels: Sequence[Any], task: str, classes: int) -> np.ndarray:
    """Labels as an index has them, as `Split.labels` has them: of several classes an image, those that it shows."""
    if task == "regression":
        found = np.array(labels)
        if found.dtype.kind not in "if" or not np.isfinite(found := found.astype(ROWS[task])).all():
            raise ValueError("other than numbers")
        return found.reshape(-1, classes)
    _whole_numbers(labels if task != "multilabel" else [one for row in labels for one in row], classes - 1)
    if task != "multilabel":
        return np.array(labels, ROWS[task])
    rows = np.zeros((len(labels), classes), np.uint8)
    for row, shown in zip(rows, labels, strict=True):
        row[shown] = 1
    return rows


def _index(path: Path, where: str) -> dict[str, Any]:
    """What an index says; BadData where it is not what `pack` wrote."""
    mend = "pack the data again"
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        told = index.pop("sha256")
        version = index["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadData(f"{where}/{INDEX} is no index that can be read: {mend}.") from None
    if version != VERSION:
        raise BadData(f"{where}/{INDEX} is of format {version!r}, and this release reads {VERSION}: {mend}.")
    if told != files.checksum(index):
        raise BadData(f"{where}/{INDEX} is damaged: {mend}.")
    for shard in (shard for some in index["splits"].values() for shard in some):
        if shard["file"] != PurePosixPath(shard["file"]).name:
            raise BadData(f"{where}/{INDEX}: the shard {shard['file']!r} points elsewhere; it is not to be trusted.")
    return {**index, "sha256": told}


def _whole(
    path: Path, shards: list[tuple[str, dict[str, Any]]], where: str, skip_bad: bool
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """(shards that are as long as they were, notes on others), each with the name of its split."""
    bad = {shard["file"]: fault for _, shard in shards if (fault := _fault(path / shard["file"], shard["bytes"]))}
    if not bad:
        return shards, []
    lost = sum(len(shard["keys"]) for _, shard in shards if shard["file"] in bad)
    what = f"{len(bad)} of {len(shards)} shards are damaged: {in_list(list(bad.values()))}"
    if not skip_bad:
        raise BadData(f"{where}: {what}; pack the data again, or skip_bad=True (--skip-bad) leaves them out.")
    return [(split, shard) for split, shard in shards if shard["file"] not in bad], [
        f"{what}; their {lost:,} images are left out"
    ]


def _fault(file: Path, size: int) -> str | None:
    """What is wrong with a shard of so many bytes; None where it has them."""
    found = file.stat().st_size if file.is_file() else None
    return None if found == size else f"{file.name} ({'missing' if found is None else f'{found:,} of {size:,} bytes'})"


# --- shards of others ------------------------------------------------------------------------------------------------


def tars_in(found: Files) -> list[tuple[Parts, Source]]:
    """The tar files of a folder that holds no images of its own."""
    return [] if found.images else sorted((p, s) for p, s in found.files.items() if p[-1].lower().endswith(".tar"))


def foreign(
    where: str, tars: Iterable[tuple[Parts, Source]], found: Files, table: Table, wish: Wish, **options: Any
) -> Splits:
    """The data set of shards as WebDataset has them; their headers are read once, images where they lie.

    A record is the files that share a name up to its first dot: an image; `cls`, the number of its class, whose names
    are the lines of a `classes.txt` beside the shards; or `json`, whose fields are columns, as of a table; `txt`, a
    label in words; `seg.png` or `mask.png`, a mask. Splits are words of the shards' names, or of their folders.
    Records without an image are listed in `ignored`.
    skip_bad, among the options: shards that are damaged are left out; see `splits.labelled` for the others.
    """
    skip_bad = options.pop("skip_bad", False)
    bad, rows, words, ignored = [], [], [], []
    for parts, source in progress(list(tars), "reading the headers of shards"):
        try:
            records = _records(source.open, source.name)
            if not any("image" in record for record in records):
                raise ValueError("no images" if records else "empty")
        except (OSError, ValueError, tarfile.TarError) as error:
            bad.append(f"{source.name} ({error})")
            continue
        stem = "/".join((*parts[:-1], PurePosixPath(parts[-1]).stem))
        rows += [record | {"key": f"{stem}/{record['key']}"} for record in records if "image" in record]
        words += [_split_of(parts)] * sum("image" in record for record in records)
        ignored += [f"{source.name}/{printable(r['key'])}" for r in records if "image" not in r]
    what = f"{len(bad)} shards are damaged or empty: {in_list(bad)}"
    if bad and not (skip_bad and rows):
        raise BadData(f"{where}: {what}; replace them, or skip_bad=True (--skip-bad) leaves them out.")
    split = agreed(words, [row["image"].name for row in rows], where)
    sources = [replace(row["image"], key=row["key"], place=i) for i, row in enumerate(rows)]
    cells = {**_columns(rows), "image": sources}
    classes = _classes(found, cells)
    frame = Frame(where, cells, lambda i: sources[i].name, classes)
    made = by_place(of_frame(frame, lambda text: None, wish, table, words=split, **options))
    notes = (*made.notes, *([f"{what}; they are left out"] if bad else []))
    return replace(made, notes=notes, ignored=(*made.ignored, *ignored))


def _split_of(parts: Parts) -> str | None:
    """The split that a shard's name tells, else the innermost of its folders."""
    for part in reversed((*parts[:-1], PurePosixPath(parts[-1]).stem)):
        for word in "".join(c if c.isalpha() else " " for c in part.lower()).split():
            if word in SPLIT_OF:
                return SPLIT_OF[word]
    return None


class _Headers:
    """A shard as tarfile sees it, which reads nothing but headers of it: whole, however long they claim to be."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self.file.read(size)


def _members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, by their headers; ReadError where these cannot be believed, or are not all there."""
    try:
        archive: Any  # some of it is not in its type
        with tarfile.open(fileobj=cast(Any, _Headers(file)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # which tarfile would keep, with all that they claim
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.size < 0 or archive.offset < member.offset_data:  # tarfile would go back, for ever
                    raise tarfile.ReadError(f"{member.name!r} claims {member.size:,} bytes")
                if member.isfile():
                    if member.issparse() or end != archive.offset:
                        raise tarfile.ReadError(f"{member.name!r} is sparse, or its headers disagree on its size")
                    yield member
            file.seek(archive.offset)
    except (OSError, tarfile.TarError):
        raise
    except Exception as error:  # of a damaged one, tarfile raises anything
        raise tarfile.ReadError(f"its headers are damaged, {type(error).__name__}") from None
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # which ends a tar; tarfile does not miss it
        raise tarfile.ReadError("cut off")


def _records(open_file: Any, name: str) -> list[dict[str, Any]]:
    """The records of a tar: key, image (a `Record`), and what else is known of it."""
    found: dict[str, dict[str, Any]] = {}
    with open_file() as file:
        for member in _members(file):
            folder, _, last = member.name.rpartition("/")
            stem, _, kind = last.partition(".")
            record = found.setdefault(f"{folder}/{stem}" if folder else stem, {"columns": {}, "kinds": set()})
            kind, called = kind.lower(), f"{name}/{printable(member.name)}"
            if kind in record["kinds"]:
                raise ValueError(f"{member.name!r} is in it twice")
            record["kinds"].add(kind)
            reader = partial(read_at, file.name, member.offset_data, member.size)
            if kind in MASKS:
                record["columns"]["mask"] = Source(member.name, called, reader)
            elif f".{kind}" in SUFFIXES:
                record["image"] = Record("", called, reader, 0, *reader.args)
            elif kind in ("cls", "txt", "json"):
                if member.size > MOST_TEXT:
                    raise ValueError(f"{member.name!r} has {member.size:,} bytes, too many for a label")
                record["columns"] |= _label(kind, reader().read(), member.name)
    return [{**record, "key": key} for key, record in found.items()]


def _label(kind: str, content: bytes, name: str) -> dict[str, Any]:
    """The cells that a record's label has; ValueError where it is not what its name says."""
    try:
        text = content.decode("utf-8").strip()
        if kind == "txt":
            return {"text": text}
        if kind == "cls":
            number = int(text)
            if not 0 <= number < MOST_CLASSES:
                raise ValueError
            return {"class": number}
        told = json.loads(text)
        return dict(told) if isinstance(told, Mapping) else {"label": told}
    except (ValueError, RecursionError):
        raise ValueError(f"{name!r} is no {kind}") from None


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What records have beside their images, by column; only what all of them have."""
    columns = [row["columns"] for row in rows]
    return {name: [one[name] for one in columns] for name in columns[0] if all(name in one for one in columns)}


def _classes(found: Files, cells: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[str]]:
    """The names of the classes that `cls`, or masks, number: of a `classes.txt`, else the numbers."""
    named = [source for parts, source in sorted(found.files.items()) if parts[-1].lower() == "classes.txt"]
    lines = named[0].text().splitlines() if named else []
    names = [line.strip() for line in lines if line.strip()]
    if "class" in cells and all(isinstance(cell, int) and 0 <= cell < MOST_CLASSES for cell in cells["class"]):
        return {"class": names or [str(i) for i in range(max(cells["class"], default=0) + 1)]}
    return {"mask": names} if names and "mask" in cells else {}
