"""What the tests of the hub share: small repositories, made without Keras."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import seeded
from huggingface_hub import constants
from safetensors.numpy import save

from keras_cnn.checkpoints import card, directory
from keras_cnn.checkpoints.convert import timm
from keras_cnn.checkpoints.convert.rename import to_theirs
from keras_cnn.models import registry, shapes
from keras_cnn.models.config import Config, Preprocess
from keras_cnn.models.heads import Head

ROOT = Path(__file__).parents[1]
NAMES = ("ant", "bee", "cow")
PREPROCESS = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(24, 24), crop=0.9, interpolation="bilinear")
NET, WEIGHTS = "hf://me/net", "model.safetensors"
LFS, INFO = r"^/lfs/", r"^/api/models/me/net/revision/"


def config(name: str = "resnet20", **facts) -> Config:
    facts = {"license": "mit", "data": "three animals", "metrics": {"val accuracy": 0.75}, **facts}
    facts = {key: value for key, value in facts.items() if value is not None}
    return registry.get(name).with_(
        head=Head(classes=len(NAMES)), preprocess=PREPROCESS, class_names=NAMES, provenance=facts
    )


def arrays(conf: Config, factor: float = 1.0) -> dict[str, np.ndarray]:
    values = seeded.arrays(shapes.variables(shapes.tally(conf)))
    return {key: np.float32(factor) * value for key, value in values.items()}


def ours(name: str = "resnet20", factor: float = 1.0, values=None, **facts) -> dict[str, bytes]:
    """The files of a weights directory."""
    conf = config(name, **facts)
    weights = save(values or arrays(conf, factor), {"format": "keras"})
    files = {"model.safetensors": {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}}
    return {
        "model.safetensors": weights,
        "config.json": directory.config_text(conf, files).encode(),
        "README.md": card.card(conf, "net").encode(),
    }


def theirs(name: str, classes: int = 10, gain: float = 1.0) -> dict[str, bytes]:
    """The files of a repository of timm's, as its `save_for_hf` writes them."""
    conf = registry.get(name).with_(head=Head(classes=classes))
    state = to_theirs(seeded.arrays(shapes.variables(shapes.tally(conf)), gain), conf.backbone, timm.FORMAT)
    pre = conf.preprocess
    described = {
        "architecture": name,
        "num_classes": classes,
        "num_features": 512,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "test_in10",
            "custom_load": False,
            "input_size": [3, *pre.size],
            "fixed_input_size": False,
            "interpolation": pre.interpolation,
            "crop_pct": pre.crop,
            "crop_mode": "center",
            "mean": list(pre.mean),
            "std": list(pre.std),
            "num_classes": classes,
            "license": "apache-2.0",
        },
    }
    weights = save({key: np.ascontiguousarray(value) for key, value in state.items()}, {"format": "pt"})
    return {"model.safetensors": weights, "config.json": json.dumps(described).encode()}


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def cached(home: Path, name: str) -> list[Path]:
    """Files and links of a name, in whatever snapshot."""
    return sorted((home / "hub").glob(f"models--*/snapshots/*/{name}"))


def same(source, expected) -> bool:
    """Whether a source gives exactly these arrays."""
    found = source.load()[1]
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in found)


def downloads(hub) -> int:
    """How often the weights were sent."""
    return len(hub.seen("GET", rf"{LFS}.*{WEIGHTS}"))


def flip(path: Path) -> None:
    """Change the last byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))


def offline(monkeypatch) -> None:
    """As HF_HUB_OFFLINE does it when the client is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
