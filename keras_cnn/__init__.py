"""Convolutional networks for Keras 3: exact, pretrained, ready to fine-tune.

The public names are imported when first used, so that `import keras_cnn` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. No module has the name of a function: importing it would hide the function.
_HOME = {
    "Head": "spec",
    "Preprocess": "spec",
    "build": "building",
    "config_of": "hub",
    "features": "transfer",
    "fine_tune": "transfer",
    "freeze": "transfer",
    "info": "describe",
    "list_models": "describe",
    "load_data": "data",
    "load_image": "data",
    "replace_head": "transfer",
    "save_pretrained": "hub",
    "stages": "transfer",
    "train": "training",
    "unfreeze": "transfer",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'keras_cnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"keras_cnn.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
