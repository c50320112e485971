"""Damage archives of data and networks at random, and tell what reading them led to.

    python tests/attacks/damage_archives.py --trials 500 [--seed 0] [--memory 4096] [what ...]

Damages and outcomes are those of damage_formats.py. Where a row is called "forged", somebody mends the checksums after
the damage (of a tar's header, of `index.json`, of a zip's member), so that what lies behind them is reached. Each
image, mask, label and array is read, as whoever trains on them would.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import images
import seeded
from damage_formats import Subject, damage, exchange, main

import keras_cnn as kc
from keras_cnn import files
from keras_cnn.checkpoints import arrays, keras_file
from keras_cnn.data.files import Source
from keras_cnn.data.images import decode, resize_and_crop
from keras_cnn.data.index import index
from keras_cnn.models.config import Preprocess

SMALL = Preprocess(size=(8, 8), crop=1.0)
BLOCK, CHECK = 512, 148  # of a tar: bytes of a header, and where its checksum is
FORGED = ".forged"  # the ending of a folder in which checksums are mended


# --- subjects: (what is damaged, how it is read) ----------------------------------------------------------------------


def webdataset(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """Shards as others write them: a class by number, columns, or a mask beside each image."""
    labels: dict[str, Callable[[int], dict[str, bytes]]] = {
        "cls": lambda i: {"cls": b"%d" % (i % 2)},
        "json": lambda i: {"json": b'{"label": "%s"}' % (b"owl" if i % 2 else b"elk")},
        "mask": lambda i: {"seg.png": images.encode(np.full((8, 8, 1), i % 2, "uint8"))},
    }
    for name, label in labels.items():
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for i in range(6):
                for kind, content in {"png": images.encode(images.noise(8, 8, seed=i)), **label(i)}.items():
                    member = tarfile.TarInfo(f"{i:03}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    paths = [folder / f"{name}.tar" for name in labels]
    return paths, lambda: [_data(path) for path in paths]


def packed(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """Shards of ours with their index: a folder for each task."""
    photos = images.folder(folder / "photos", {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1}, (8, 8))
    kc.pack(photos, folder / "classification")
    names = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.png"))]
    for task, (column, cells) in {
        "multilabel": ("tags", ["sea|sun", "sun", "sea"]),
        "regression": ("age", ["1.5", "2", "-3"]),
    }.items():
        rows = [f"{name},{cells[i % 3]}" for i, name in enumerate(names)]
        (photos / f"{task}.csv").write_text("\n".join([f"file,{column}", *rows]) + "\n")
        kc.pack(photos / f"{task}.csv", folder / task)
    for kind, pixels in {
        "images": images.noise(8, 8),
        "masks": np.indices((8, 8))[0][..., None].astype("uint8") % 2,
    }.items():
        (folder / "drawn" / kind).mkdir(parents=True)
        for i in range(4):
            (folder / "drawn" / kind / f"{i}.png").write_bytes(images.encode(np.roll(pixels, i, 0)))
    kc.pack(folder / "drawn", folder / "segmentation", task="segmentation")
    found = [folder / task for task in ("classification", "multilabel", "regression", "segmentation")]
    paths = [path for one in found for path in (one / "index.json", one / "train-000000.tar")]
    return paths, lambda: [_data(one) for one in found]


def network(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """A `.keras` file of ours."""
    model = kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=["cat", "dog"])
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    model.save(path := folder / "net.keras")

    def read() -> object:
        source = keras_file.read(path)
        assert source.load is not None
        config, values = source.load()
        return repr(config), arrays.digest(values)

    return [path], read


def sequences(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """An `.npz` of sequences, their classes and the names of both."""
    x, y = np.random.default_rng(0).normal(size=(6, 4, 2)).astype("float32"), np.arange(6) % 2
    np.savez(path := folder / "x.npz", x=x, y=y, channels=["heart", "lung"], class_names=["ill", "well"])

    def read() -> object:
        found = kc.load_sequences(path)
        pairs = [array.tobytes() for pair in (found.train, found.val) if pair for array in pair]
        return pairs, found.channels, found.class_names, str(found)

    return [path], read


def _data(path: Path) -> object:
    """All that a data set says, and every pixel of it."""
    found = index(path, val_split=0.3)
    splits = [
        (
            name,
            [source.key for source in split.sources],
            split.labels.tolist(),
            [_pixels(source) for source in split.sources],
            [split.legend.read(mask).tobytes() for mask in split.masks or () if split.legend],
        )
        for name, split in found.items()
    ]
    return splits, found.task, found.class_names, found.chiral, found.notes


def _pixels(source: Source) -> bytes:
    return resize_and_crop(decode(source.read, 3, source.name), SMALL).tobytes()


def _forged(subject: Subject) -> Subject:
    """The same in a folder where checksums are mended."""

    def made(folder: Path) -> tuple[list[Path], Callable[[], object]]:
        (folder / FORGED).mkdir()
        return subject(folder / FORGED)

    return made


SUBJECTS: dict[str, Subject] = {"webdataset": webdataset, "packed": packed, "keras": network, "npz": sequences}
SUBJECTS |= {f"{name} forged": _forged(subject) for name, subject in SUBJECTS.items()}


# --- damages ----------------------------------------------------------------------------------------------------------


def changed(path: Path, content: bytes, rng: random.Random) -> bytes:
    """A file damaged; in a folder of forgeries with checksums that are right."""
    told = FORGED in path.parts
    if path.suffix == ".json":
        return (_index if told else damage)(content, rng)
    if path.suffix == ".tar":
        return (_header if told else damage)(content, rng)
    return (_member if told else damage)(content, rng)


def _index(content: bytes, rng: random.Random) -> bytes:
    told = json.loads(exchange(content, rng))
    if told.pop("sha256", None) is None:  # the checksum itself was left out
        return content.replace(b"sha256", b"sha", 1)
    return json.dumps({"format": told.get("format"), "sha256": files.checksum(told)} | told).encode()


def _header(content: bytes, rng: random.Random) -> bytes:
    """A tar of which one header is damaged, its checksum made right."""
    at = rng.choice([*_headers(content)])
    header = bytearray(damage(content[at : at + BLOCK], rng)[:BLOCK].ljust(BLOCK, b"\0"))
    header[CHECK : CHECK + 8] = b" " * 8
    header[CHECK : CHECK + 8] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + BLOCK :]


def _headers(content: bytes) -> Iterator[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        yield from (member.offset for member in archive)


def _member(content: bytes, rng: random.Random) -> bytes:
    """A zip of which one member is damaged, or of JSON a value exchanged, and all is zipped anew."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members])
    change = exchange if name.endswith(".json") and rng.random() < 0.7 else damage
    members[name] = change(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, one in members.items():
            archive.writestr(name, one)
    return file.getvalue()


if __name__ == "__main__":
    main(__doc__, SUBJECTS, changed)
