"""Convolutional networks for Keras 3: exact, pretrained, ready to fine-tune.

The public names are imported when first used, so that `import keras_cnn` costs nothing; it only makes TensorFlow's
settings for this machine (see `runtime`), which have to be made before TensorFlow is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_cnn import runtime

if TYPE_CHECKING:  # for editors and type checkers
    from keras_cnn import insight as insight
    from keras_cnn.building import build
    from keras_cnn.checkpoints.directory import config_of, save_pretrained
    from keras_cnn.data import Table, load_data, load_image
    from keras_cnn.data.packing import pack
    from keras_cnn.data.sequences import load_sequences
    from keras_cnn.deploy.benchmarking import benchmark
    from keras_cnn.deploy.explaining import explain
    from keras_cnn.deploy.exporting import export
    from keras_cnn.deploy.predictor import predictor
    from keras_cnn.deploy.quantizing import quantize
    from keras_cnn.deploy.serving import Limits, service
    from keras_cnn.deploy.tiles import predict_tiles
    from keras_cnn.hub import publish, pull
    from keras_cnn.hub.info import info, list_models
    from keras_cnn.insight import lint, profile
    from keras_cnn.models.config import Head, Preprocess
    from keras_cnn.models.decoders import UNet
    from keras_cnn.models.families.tcn import TCN
    from keras_cnn.models.scaling import compound_scale, search_coefficients
    from keras_cnn.models.sequence_heads import SequenceHead
    from keras_cnn.training.distribution import distribute
    from keras_cnn.training.doctor import doctor
    from keras_cnn.training.evaluation import evaluate
    from keras_cnn.training.finetune import fine_tune
    from keras_cnn.training.lr_range import lr_find
    from keras_cnn.training.recipe import Recipe
    from keras_cnn.training.reporting import report
    from keras_cnn.training.scratch import train
    from keras_cnn.training.soups import average
    from keras_cnn.training.speeds import throughput
    from keras_cnn.training.study import study
    from keras_cnn.transfer import (
        features,
        freeze,
        probe,
        recalibrate_batchnorm,
        replace_head,
        stages,
        trainable_table,
        unfreeze,
    )

__version__ = "0.1.0"

runtime.prepare()

__all__ = [
    "TCN",
    "Head",
    "Limits",
    "Preprocess",
    "Recipe",
    "SequenceHead",
    "Table",
    "UNet",
    "average",
    "benchmark",
    "build",
    "compound_scale",
    "config_of",
    "distribute",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "features",
    "fine_tune",
    "freeze",
    "info",
    "lint",
    "list_models",
    "load_data",
    "load_image",
    "load_sequences",
    "lr_find",
    "pack",
    "predict_tiles",
    "predictor",
    "probe",
    "profile",
    "publish",
    "pull",
    "quantize",
    "recalibrate_batchnorm",
    "replace_head",
    "report",
    "save_pretrained",
    "search_coefficients",
    "service",
    "stages",
    "study",
    "throughput",
    "train",
    "trainable_table",
    "unfreeze",
]

# Where each public name lives. No module here has the name of a public function: importing it would hide the function.
_HOME = {
    "building": ["build"],
    "checkpoints.directory": ["config_of", "save_pretrained"],
    "data": ["Table", "load_data", "load_image"],
    "data.packing": ["pack"],
    "data.sequences": ["load_sequences"],
    "deploy.benchmarking": ["benchmark"],
    "deploy.exporting": ["export"],
    "deploy.explaining": ["explain"],
    "deploy.predictor": ["predictor"],
    "deploy.quantizing": ["quantize"],
    "deploy.serving": ["Limits", "service"],
    "deploy.tiles": ["predict_tiles"],
    "hub": ["publish", "pull"],
    "hub.info": ["info", "list_models"],
    "insight": ["lint", "profile"],
    "models.config": ["Head", "Preprocess"],
    "models.decoders": ["UNet"],
    "models.families.tcn": ["TCN"],
    "models.scaling": ["compound_scale", "search_coefficients"],
    "models.sequence_heads": ["SequenceHead"],
    "training.distribution": ["distribute"],
    "training.doctor": ["doctor"],
    "training.evaluation": ["evaluate"],
    "training.finetune": ["fine_tune"],
    "training.lr_range": ["lr_find"],
    "training.recipe": ["Recipe"],
    "training.reporting": ["report"],
    "training.scratch": ["train"],
    "training.soups": ["average"],
    "training.speeds": ["throughput"],
    "training.study": ["study"],
    "transfer": [
        "features",
        "freeze",
        "probe",
        "recalibrate_batchnorm",
        "replace_head",
        "stages",
        "trainable_table",
        "unfreeze",
    ],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"keras_cnn.{module}"), name)
            return value
    if name == "insight":  # used as kc.insight.receptive_field
        return importlib.import_module("keras_cnn.insight")
    raise AttributeError(f"module 'keras_cnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
