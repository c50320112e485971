"""Convolutional networks for Keras 3: exact, pretrained, ready to fine-tune.

The public names are imported when first used, so that `import keras_cnn` costs nothing; it only makes TensorFlow's
settings for this machine (see `runtime`), which have to be made before TensorFlow is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_cnn import runtime

if TYPE_CHECKING:  # for editors and type checkers
    from keras_cnn.building import build
    from keras_cnn.checkup import doctor
    from keras_cnn.data import load_data, load_image
    from keras_cnn.describe import info, list_models
    from keras_cnn.hub import config_of, publish, pull, save_pretrained
    from keras_cnn.insight import profile
    from keras_cnn.scaling import compound_scale, search_coefficients
    from keras_cnn.spec import Head, Preprocess
    from keras_cnn.training import train
    from keras_cnn.transfer import (
        features,
        fine_tune,
        freeze,
        lr_find,
        probe,
        recalibrate_batchnorm,
        replace_head,
        stages,
        study,
        trainable_table,
        unfreeze,
    )

__version__ = "0.1.0"

runtime.prepare()

__all__ = [
    "Head",
    "Preprocess",
    "build",
    "compound_scale",
    "config_of",
    "doctor",
    "features",
    "fine_tune",
    "freeze",
    "info",
    "list_models",
    "load_data",
    "load_image",
    "lr_find",
    "probe",
    "profile",
    "publish",
    "pull",
    "recalibrate_batchnorm",
    "replace_head",
    "save_pretrained",
    "search_coefficients",
    "stages",
    "study",
    "train",
    "trainable_table",
    "unfreeze",
]

# Where each public name lives. No module has the name of a public function: importing it would hide the function.
_HOME = {
    "building": ["build"],
    "checkup": ["doctor"],
    "data": ["load_data", "load_image"],
    "describe": ["info", "list_models"],
    "hub": ["config_of", "publish", "pull", "save_pretrained"],
    "insight": ["profile"],
    "scaling": ["compound_scale", "search_coefficients"],
    "spec": ["Head", "Preprocess"],
    "training": ["train"],
    "transfer": [
        "features",
        "fine_tune",
        "freeze",
        "lr_find",
        "probe",
        "recalibrate_batchnorm",
        "replace_head",
        "stages",
        "study",
        "trainable_table",
        "unfreeze",
    ],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"keras_cnn.{module}"), name)
            return value
    raise AttributeError(f"module 'keras_cnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
