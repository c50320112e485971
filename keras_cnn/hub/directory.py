"""A weights directory: `model.safetensors`, `config.json`, `README.md`. A run's output is one too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from keras_cnn import catalog, checkpoint, convert
from keras_cnn.errors import CorruptFile
from keras_cnn.hub import card
from keras_cnn.spec import Config

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1  # of our part of config.json, `keras_cnn`; other libraries' keys are never used


def read(path: str | Path) -> Any:
    """The Source in a weights directory of ours or of timm's, told apart by what config.json says."""
    from keras_cnn.hub.resolve import Source

    path = Path(path)
    values = _read_json(path / CONFIG)
    if "keras_cnn" in values:
        ours = values["keras_cnn"]
        if ours.get("format") != FORMAT:
            raise CorruptFile(
                f"{path / CONFIG} has format {ours.get('format')!r}, this version reads {FORMAT}: upgrade keras-cnn."
            )
        config = catalog.config_from_dict(ours)
        return Source(config, lambda: (config, _checked(path, ours["files"])))
    if "architecture" in values:
        config = convert.timm.config(values)
        return Source(config, lambda: convert.read(_weights_file(path), config))
    raise CorruptFile(f"{path / CONFIG} is neither ours (no key 'keras_cnn') nor timm's (no key 'architecture').")


def save_pretrained(model: Any, path: str | os.PathLike[str], *, half: bool = False, **provenance: Any) -> Path:
    """Write a model of ours as a weights directory, head included, which `build(path)` reads back.

    half: kernels in float16, half the size. provenance: facts for config.json and the model card, such as
    `metrics={"accuracy": 0.91}`, `data=...`, `command=...`, `license=...`; they add to what the model knows.
    Each file is written beside its target and renamed. Raises BadSpec for a model that is not of ours.
    """
    path = Path(path)
    config = config_of(model)
    config = config.with_(provenance={**config.provenance, **provenance} or {"source": "random weights"})
    checkpoint.save(checkpoint.arrays(model), path / WEIGHTS, half=half)
    files = {WEIGHTS: {"sha256": sha256(path / WEIGHTS), "size": (path / WEIGHTS).stat().st_size}}
    text = json.dumps({"keras_cnn": {"format": FORMAT, **config.to_dict(), "files": files}}, indent=1)
    checkpoint.write_beside(path / CONFIG, lambda name: Path(name).write_text(text + "\n"))
    checkpoint.write_beside(path / CARD, lambda name: Path(name).write_text(card.card(config, path.name)))
    return path


def config_of(model: Any) -> Config:
    """The configuration that a model of ours carries, also after `keras.saving.load_model`."""
    record = next((layer.record for layer in model.layers if hasattr(layer, "record")), None)
    if record is None:
        from keras_cnn.errors import BadSpec

        raise BadSpec(f"{model.name} was not made by keras_cnn.build: it has no stem_preprocess layer with a record.")
    config = catalog.config_from_dict(record)
    shape = tuple(model.input_shape[1:])
    return config.with_(spec=dataclasses.replace(config.spec, input_shape=shape))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: Path, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CorruptFile(f"{file} is missing: fetch the directory again.")
        if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
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
