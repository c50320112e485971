"""A weights directory: `model.safetensors`, `config.json`, `README.md`. A run's output is one too."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_cnn import catalog, checkpoint, convert
from keras_cnn.errors import CorruptFile, KerasCnnError
from keras_cnn.hub import card
from keras_cnn.spec import Config, record_of

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1  # of our part of config.json, `keras_cnn`; other libraries' keys are never used


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's configuration and, where there are weights, how to read them."""

    config: Config
    load: Callable[[], tuple[Config, checkpoint.Arrays]] | None = None


def read(path: str | Path) -> Source:
    """The Source in a weights directory of ours or of timm's, told apart by what config.json says."""
    path = Path(path)
    values = _read_json(path / CONFIG)
    if "keras_cnn" in values:
        ours = values["keras_cnn"]
        if not isinstance(ours, dict):
            raise CorruptFile(f"{path / CONFIG}: the value of 'keras_cnn' is not an object: fetch it again.")
        if ours.get("format") != FORMAT:
            raise CorruptFile(
                f"{path / CONFIG} has format {ours.get('format')!r}, this version reads {FORMAT}: upgrade keras-cnn."
            )
        config = _named(path / CONFIG, catalog.config_from_dict, ours)
        config = config.with_(provenance={"source": path.resolve().name, **config.provenance})
        return Source(config, lambda: (config, _checked(path, ours.get("files"))))
    if "architecture" in values:
        config = _named(path / CONFIG, convert.timm.config, values)
        return Source(config, lambda: convert.read(_weights_file(path), config))
    raise CorruptFile(f"{path / CONFIG} is neither ours (no key 'keras_cnn') nor timm's (no key 'architecture').")


def save_pretrained(model: Any, path: str | os.PathLike[str], *, half: bool = False, **provenance: Any) -> Path:
    """Write a model of ours as a weights directory, head included, which `build(path)` reads back.

    half: kernels in float16, half the size. provenance: facts for config.json and the model card, such as
    `metrics={"accuracy": 0.91}`, `data=...`, `command=...`, `license=...`; they add to what the model knows.
    All files are written aside first, then renamed. Raises BadSpec for a model that is not of ours.
    """
    path = Path(path)
    config = config_of(model)
    config = config.with_(provenance={**config.provenance, **provenance} or {"source": "random weights"})
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path), tempfile.TemporaryDirectory(dir=path, prefix=".") as folder:
        new = Path(folder)
        checkpoint.save(checkpoint.arrays(model), new / WEIGHTS, half=half)
        files = {WEIGHTS: {"sha256": sha256(new / WEIGHTS), "size": (new / WEIGHTS).stat().st_size}}
        text = json.dumps({"keras_cnn": {"format": FORMAT, **config.to_dict(), "files": files}}, indent=1)
        (new / CONFIG).write_text(text + "\n")
        (new / CARD).write_text(card.card(config, path.name))
        for name in (WEIGHTS, CONFIG, CARD):  # all are whole before the first takes its place
            os.replace(new / name, path / name)
    return path


def config_of(model: Any) -> Config:
    """The configuration that a model of ours carries, also after `keras.saving.load_model`."""
    config = catalog.config_from_dict(record_of(model))
    shape = tuple(model.input_shape[1:])
    return config.with_(spec=dataclasses.replace(config.spec, input_shape=shape))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Writers of one directory take turns, so that its hashes are those of its files; no lock file is left."""
    try:
        import fcntl
    except ImportError:  # Windows: the last writer wins file by file
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _named(file: Path, parse: Callable[[dict[str, Any]], Config], values: dict[str, Any]) -> Config:
    """Parse a configuration; errors name its file."""
    try:
        return parse(values)
    except KerasCnnError as error:
        raise type(error)(f"{file}: {error}") from None


def _checked(path: Path, files: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise CorruptFile(f"{path / CONFIG} does not name {WEIGHTS} under 'files': fetch it again.")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CorruptFile(f"{file} is missing: fetch the directory again.")
        if (file.stat().st_size, sha256(file)) != (expected.get("size"), expected.get("sha256")):
            raise CorruptFile(
                f"{file} is not the file that {path / CONFIG} names (its sha256 differs): fetch it again."
            )
    return checkpoint.load(path / WEIGHTS)


def _weights_file(path: Path) -> Path:
    names = (WEIGHTS, "pytorch_model.bin")
    for name in names:
        if (path / name).is_file():
            return path / name
    raise CorruptFile(f"{path} has no {' or '.join(names)}: it is not a weights directory.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CorruptFile(f"{path.parent} has no {path.name}: it is not a weights directory.")
    try:
        values = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptFile(f"{path} is not valid JSON ({error}): fetch it again.") from None
    if not isinstance(values, dict):
        raise CorruptFile(f"{path} is not a JSON object: fetch it again.")
    return values
