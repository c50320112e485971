"""Exported networks as they are found: a file of another runtime, and beside it what it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.deploy import formats
from keras_cnn.deploy.formats import FORMATS, Running
from keras_cnn.errors import BadSpec, CorruptFile
from keras_cnn.models.fields import one_of

SUFFIXES = {kind.suffix: name for name, kind in FORMATS.items() if kind.suffix}
SAVEDMODEL = "saved_model.pb"


def is_exported(path: Any) -> bool:
    """Whether a name is that of a file, or folder, as `export` writes them."""
    if not isinstance(path, str | os.PathLike):
        return False
    return Path(path).suffix.lower() in SUFFIXES or (Path(path) / SAVEDMODEL).is_file()


def about_of(path: Path) -> Path:
    """The JSON beside an exported network."""
    return path.with_name(path.name + ".json")


@dataclass(frozen=True)
class File:
    """An exported network of ours; as much of a Keras model's interface as answering and measuring need.

    path: the file or folder. about: what stands beside it.
    """

    path: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def format(self) -> str:
        return self.about["format"]

    @property
    def kind(self) -> str:
        """Of its numbers: "float32", "float16" or "int8"."""
        return self.about.get("quantized", {}).get("precision", "float32")

    @property
    def input_shape(self) -> tuple[Any, ...]:
        return tuple(self.about["input"]["shape"])

    @property
    def batch(self) -> int | None:
        """Images that it takes at once, None for any number."""
        return self.input_shape[0]

    @property
    def output_shape(self) -> tuple[Any, ...]:
        return tuple(self.about["output"]["shape"])

    @property
    def record(self) -> dict[str, Any]:
        return self.about["network"]

    @property
    def layers(self) -> tuple[File, ...]:
        """Where a network's record is looked for."""
        return (self,)

    @cached_property
    def blank(self) -> Any:
        """The Keras network with random weights: for what its layers tell, such as what its output means."""
        from keras_cnn.building import build

        return build(config_of(self).with_(provenance={}))

    def run(self, engine: str = "keras", precision: str = "float32", threads: int | None = None) -> Running:
        """The file as its own runtime runs it. engine: that one, or what asks for none. precision: of the arithmetic of
        what is float32 in the file."""
        if engine not in ("keras", "auto", self.format):
            raise BadSpec(f"{self.path} is run by {self.format}, not by {engine}: leave the engine out.")
        run = formats.run(self.path, self.format, precision, threads, self.batch)
        return Running(self.name, self.input_shape, self.output_shape, run, self.format, precision)


def opened(path: str | os.PathLike[str]) -> File:
    """An exported network; BadSpec where there is none, CorruptFile where it is not as it was written."""
    path = Path(path)
    if not path.exists():
        raise BadSpec(f"{path} is not there: `keras-cnn export` writes such a file.")
    beside = about_of(path)
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        hashes, record = dict(about["sha256"]), about["network"]
        file = File(path, about)
        one_of("format", file.format, tuple(FORMATS))
        _ = file.output_shape, file.kind
        if file.batch is not None and not (isinstance(file.batch, int) and file.batch > 0):
            raise ValueError(f"a batch of {file.batch!r}")
    except FileNotFoundError:
        raise BadSpec(f"{beside} is not there, which says what {path.name} is of: export writes both.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        mend = "export the network again"
        raise CorruptFile(f"{beside} is not as export wrote it ({type(error).__name__}: {error}): {mend}.") from None
    below = [name for name in hashes if name.split("/")[0] in (path.name, path.with_suffix(".bin").name)]
    if not below or ".." in "/".join(below).split("/") or len(below) < len(hashes):
        raise CorruptFile(f"{beside} tells of other files than {path.name}: export the network again.")
    if not isinstance(record, dict):
        raise BadSpec(f"{path} was not made by keras_cnn.build: nothing tells what its answers mean.")
    try:
        there = formats.hashed(path.parent, hashes)
    except OSError as error:
        lost = Path(error.filename or path).name
        raise CorruptFile(f"{path}: {lost} is missing beside it: export it again.") from None
    if there != hashes:
        changed = next(name for name in hashes if hashes[name] != there[name])
        raise CorruptFile(f"{path.parent / changed} is not what {beside.name} was written for: export it again.")
    return file
