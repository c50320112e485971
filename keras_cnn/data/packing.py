"""Data sets written once as tar shards, with an index by which any image is read at its place."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from PIL import Image

from keras_cnn import files
from keras_cnn.data.files import Source
from keras_cnn.data.images import as_png, decoded_by, is_deep, printable
from keras_cnn.data.index import index
from keras_cnn.data.labels import TASKS, Wish
from keras_cnn.data.shards import FORMAT, INDEX, PARTS, VERSION, packed_at
from keras_cnn.data.splits import Split, Splits, draw
from keras_cnn.data.stream import in_order
from keras_cnn.data.tables import Table
from keras_cnn.errors import BadData, BadImage, BadSpec, CannotWrite, RunExists
from keras_cnn.models.fields import known_options, one_of
from keras_cnn.terminal import progress

PLAN = "plan.json"
NAMES = "classes.txt"  # for whoever reads the shards without the index
QUALITY = 95  # of resized JPEGs: above it, files grow faster than anybody sees
ENDINGS = {"JPEG": "jpg", "TIFF": "tif"}  # others are called as their formats are
BLOCK = 512  # bytes of a tar's header, which stands before each file


class Packed(NamedTuple):
    """What `pack` wrote. images: by split; size: bytes of all shards; skipped: names of unreadable images left out."""

    path: Path
    images: dict[str, int]
    shards: int
    size: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """An image that is to be written. label: as the index has it; number: in its split, and in its name in the tar."""

    number: int
    source: Source
    label: Any
    mask: Source | None


@known_options
def pack(
    data: str | os.PathLike[str] | Table | Splits,
    out: str | os.PathLike[str],
    *,
    size: int | None = None,
    task: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    shard_bytes: int = 256 << 20,
) -> Packed:
    """Write a data set once as tar shards that train at the speed of the disk: `kc.pack("photos/", "packed/")`.

    Everything that takes "photos/" takes "packed/" then. Any image is read at its place; nothing is unpacked.

    data: whatever has images and labels, see `load_data`; or what `index` found. Splits stay as they are: where there
        is no val, `load_data` takes the share of train that it would take of the original.
    out: a folder. `train-000000.tar` and so on hold records as WebDataset reads them: `00000000.jpg` beside
        `00000000.cls` (the class by number), `.json` ({"labels": [names]}, or the numbers to predict by name) or
        `.seg.png` (classes by number, 255 where none counts). `index.json` is written last: split, place, label and
        checksum of each image, and the hash of each shard. Training images are mixed, by a hash of their names, so
        that a part of a shard is a fair sample.
    size: the short side of the images in pixels; larger ones are shrunk to it (Lanczos; JPEG at quality 95, other
        formats as PNG; upright). By default, and for smaller images and gray of more than 8 bits, the encoded bytes
        are kept as they are. Twice the side that a network sees leaves all that random parts need.
    task: what the labels mean where they could be meant otherwise, as of `load_data`.
    skip_bad: leave unreadable images out, and count them; by default the first raises BadImage, which names it. Each
        image is decoded once for that.
    overwrite: replace what an earlier `pack` left in out. Otherwise one that was stopped goes on where it was, if it is
        of the same images and options, and one that is complete is refused (RunExists).
    shard_bytes: of a shard, about; small enough to be copied and shared out, large enough that few files are open.
    Raises CannotWrite where out cannot be written to, and where the disk is full; what is done is kept.
    """
    if size is not None and size < 1:
        raise BadSpec(f"size={size!r}: give the short side of the images in pixels, from 1.")
    if shard_bytes < 1:
        raise BadSpec(f"shard_bytes={shard_bytes!r}: give the bytes of a shard, from 1.")
    if task is not None:
        one_of("task", task, TASKS)
    out = Path(out)
    told = {"val_split": 0.0, "training": False, "wish": Wish(task), "skip_bad": skip_bad}
    splits = data if isinstance(data, Splits) else index(data, **told)
    items = {name: _items(name, split, splits.task) for name, split in splits.items()}
    if not any(items.values()):
        raise BadData(f"{printable(os.fspath(out))}: there are no images to pack.")
    legend = next((split.legend for _, split in splits.items()), None)
    plan = {"images": _digest(splits, items), "size": size, "shard_bytes": shard_bytes}
    make = partial(_encoded, legend=legend, size=size, skip_bad=skip_bad)
    with files.holding(out):
        _begin(out, plan, overwrite)
        try:
            shards = {name: [*_shards(out, name, some, make, splits, shard_bytes)] for name, some in items.items()}
            return _finish(out, splits, shards, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            done = len(list((out / PARTS).glob("*-*.json")))
            raise CannotWrite(
                f"{out}: the disk is full; {done} shards are done and kept: free some space, and the same call goes on."
            ) from error


def _items(name: str, split: Split, task: str) -> list[Item]:
    """The images of a split in the order in which they are written."""
    rows: list[Any] = split.labels.tolist()
    if task == "multilabel":
        rows = [np.flatnonzero(row).tolist() for row in split.labels]
    order = list(range(len(rows)))
    if name == "train":
        order.sort(key=lambda i: draw(0, f"packed/{split.sources[i].key}"))  # in another order than val is drawn by
    masks = split.masks or [None] * len(rows)
    return [Item(n, split.sources[i], rows[i], masks[i]) for n, i in enumerate(order)]


def _digest(splits: Splits, items: dict[str, list[Item]]) -> str:
    rows = {name: [(item.source.key, item.label) for item in some] for name, some in items.items()}
    return files.checksum([splits.task, splits.class_names, rows])


def _begin(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Make the folder ready: empty, or with what the same work has left in it. Raises RunExists."""
    parts = out / PARTS
    ours = parts.is_dir() or packed_at(out)
    others = [path.name for path in out.iterdir() if path.name != files.LOCK]
    if others and not ours:
        raise RunExists(f"{out} holds other files, such as {sorted(others)[0]}: choose a new folder.")
    if ours and overwrite:
        (out / INDEX).unlink(missing_ok=True)  # first: without it, nobody takes the rest for a data set
        for path in out.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
            path.unlink()
        shutil.rmtree(parts, ignore_errors=True)
    elif ours and not parts.is_dir():
        raise RunExists(f"{out} holds packed data: choose another folder, or overwrite=True (--overwrite) replaces it.")
    for name in ("train", "val", "test"):
        files.clear_beside(out / name)
    if parts.is_dir():
        try:
            before = json.loads((parts / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        if changed := files.differences(before, plan):
            raise RunExists(
                f"{out} holds the beginning of other packing ({changed}): choose another folder, or overwrite=True "
                "(--overwrite) begins anew."
            )
    files.write_text(parts / PLAN, json.dumps(plan))


def _shards(
    out: Path, split: str, items: Sequence[Item], make: Any, splits: Splits, most: int
) -> Iterator[dict[str, Any]]:
    """What the index says of each shard of a split; written now where it is not there yet."""
    begun = done = 0
    while (known := out / PARTS / f"{split}-{done:06}.json").exists():
        shard = json.loads(known.read_text(encoding="utf-8"))
        begun, done = shard.pop("stop"), done + 1
        yield shard
    made = iter(progress(in_order(make, items[begun:], ahead=64), f"packing {split}", len(items) - begun))
    for number, first in zip(itertools.count(done), made, strict=False):
        name = f"{split}-{number:06}.tar"
        shard = {"file": name, "keys": [], "offsets": [], "lengths": [], "checks": [], "labels": [], "skipped": []}
        shard |= {"masks": []} if splits.task == "segmentation" else {}
        files.write_beside(out / name, partial(_write, itertools.chain([first], made), shard, splits, most))
        with (out / name).open("rb") as file:
            shard["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            shard["bytes"] = file.seek(0, os.SEEK_END)
        begun += len(shard["keys"]) + len(shard["skipped"])
        files.write_text(out / PARTS / f"{split}-{number:06}.json", json.dumps({**shard, "stop": begun}))
        yield shard


def _write(made: Iterator[tuple[Item, Any]], shard: dict[str, Any], splits: Splits, most: int, path: str) -> None:
    """Write images to a tar until it has so many bytes, or there are no more."""
    with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for item, encoded in made:
            _add(archive, shard, item, encoded, splits)
            if archive.offset >= most:
                return


def _add(archive: tarfile.TarFile, shard: dict[str, Any], item: Item, made: Any, splits: Splits) -> None:
    """Append an image and its label to a tar, and say in the index's lists where they are."""
    if made is None:
        shard["skipped"].append(item.source.name)
        return
    ending, content, mask = made

    def add(kind: str, content: bytes) -> tuple[int, int, int]:
        member = tarfile.TarInfo(f"{item.number:08}.{kind}")
        member.size, place = len(content), archive.offset + BLOCK
        archive.addfile(member, io.BytesIO(content))
        return place, len(content), crc32(content)

    for column, value in zip(("offsets", "lengths", "checks"), add(ending, content), strict=True):
        shard[column].append(value)
    shard["keys"].append(item.source.key)
    shard["labels"].append(item.label)
    names = splits.class_names
    if splits.task == "segmentation":
        shard["masks"].append(add("seg.png", mask))
    elif splits.task == "classification":
        add("cls", str(item.label).encode())
    else:
        shown = {"labels": [names[i] for i in item.label]} if splits.task == "multilabel" else None
        add("json", json.dumps(shown or dict(zip(names, item.label, strict=True))).encode())


def _finish(out: Path, splits: Splits, shards: dict[str, list[dict[str, Any]]], size: int | None) -> Packed:
    every = [shard for some in shards.values() for shard in some]
    skipped = tuple(name for shard in every for name in shard.pop("skipped"))
    images = {name: sum(len(shard["keys"]) for shard in some) for name, some in shards.items()}
    if not any(images.values()):
        raise BadData(f"{out}: every image is unreadable, such as {skipped[0]}.")
    notes = [
        *splits.notes,
        *([f"{len(skipped):,} unreadable ones were left out when it was packed"] if skipped else []),
    ]
    told = {
        "format": FORMAT,
        "version": VERSION,
        "task": splits.task,
        "class_names": splits.class_names,
        "chiral": splits.chiral,
        "size": size,
        "notes": notes,
        "skipped": skipped,
        "splits": {name: [shard for shard in some if shard["keys"]] for name, some in shards.items()},
    }
    if splits.task in ("classification", "segmentation"):
        files.write_text(out / NAMES, "".join(f"{name}\n" for name in splits.class_names))
    # What tells it from other files comes first.
    head = {"format": FORMAT, "sha256": files.checksum(told)}
    files.write_text(out / INDEX, json.dumps(head | told) + "\n")
    shutil.rmtree(out / PARTS)
    return Packed(out, images, len(every), sum(shard["bytes"] for shard in every), skipped)


# --- one image -------------------------------------------------------------------------------------------------------


def _encoded(item: Item, *, legend: Any, size: int | None, skip_bad: bool) -> tuple[str, bytes, bytes | None] | None:
    """(ending, bytes of the image, of its mask); None where the image is unreadable and may be left out."""
    try:
        blob = item.source.read()
        hasten = None if size is None or item.mask else partial(_hasten, size)
        kind, small, whole, shrunk = decoded_by(partial(_shrunk, size), lambda: blob, item.source.name, opened=hasten)
        mask = None
        if item.mask is not None:
            classes = Image.fromarray(legend.read(item.mask, whole[::-1]))
            mask = as_png(np.asarray(classes.resize(shrunk, Image.Resampling.NEAREST))).getvalue()
    except (BadImage, OSError) as error:
        if not skip_bad:
            raise error if isinstance(error, BadImage) else BadImage(f"{item.source.name}: {error}.") from error
        return None
    return ENDINGS.get(kind, kind.lower()), small or blob, mask


def _hasten(size: int, image: Image.Image) -> None:
    """Have a JPEG decoded at a half, a quarter or an eighth, where that leaves twice what is wanted."""
    image.draft(image.mode, (2 * size, 2 * size))


Sides = tuple[int, int]


def _shrunk(size: int | None, image: Image.Image) -> tuple[str, bytes | None, Sides, Sides]:
    """(format, bytes or None where they stay as they are, (width, height), what becomes of it)."""
    kind, whole = str(image.format), image.size
    if size is None or min(whole) <= size or is_deep(image):
        return kind, None, whole, whole
    width, height = (max(1, round(side * size / min(whole))) for side in whole)
    kind, mode, told = "PNG", "RGBA" if image.has_transparency_data else "RGB", {}
    if image.format == "JPEG":
        kind, told = "JPEG", {"quality": QUALITY}
    if image.mode in ("1", "L") and mode == "RGB":
        mode = "L"
    file = io.BytesIO()
    picture = image if image.mode == mode else image.convert(mode)
    picture.resize((width, height), Image.Resampling.LANCZOS).save(file, kind, **told)
    return kind, file.getvalue(), whole, (width, height)
