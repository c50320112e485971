"""What `fine_tune` may be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_cnn.data.training_set import TrainingSet
from keras_cnn.errors import BadSpec
from keras_cnn.models.fields import one_of
from keras_cnn.training.phases import WARMUPS

BATCHNORM = {None: None, "frozen": "frozen", "train": "train", "recalibrate": "train"}  # what `unfreeze` is told
CHOICES: dict[str, Mapping[Any, Any]] = {"cycle": WARMUPS, "bn": BATCHNORM}
RANGES: dict[str, tuple[float, float]] = {  # the least and the most of a number
    **dict.fromkeys(("head_epochs", "epochs", "head_rate", "rate", "decay", "views"), (0, math.inf)),
    **dict.fromkeys(("weight_decay", "l2sp"), (0, math.inf)),
    **dict.fromkeys(("ema", "smoothing"), (0, 0.9999)),
    "patience": (1, math.inf),
}


def check(options: Mapping[str, Any]) -> None:
    """Raise BadSpec where a value cannot be meant."""
    for name, choices in CHOICES.items():
        if options[name] not in choices:  # None, where it is one, goes without saying
            one_of(name, options[name], tuple(filter(None, choices)))
    for name, (least, most) in RANGES.items():
        if options[name] is not None and not least <= options[name] <= most:
            at_most = f", at most {most:g}" if most < math.inf else ""
            raise BadSpec(f"{name}={options[name]!r}: give {least:g} or more{at_most}.")


def class_weights(wanted: str | Mapping[int, float] | None, given: TrainingSet, model: Any) -> dict[int, float] | None:
    """A weight for each class; those that are not named, or have no images, weigh 1."""
    if not wanted:
        return None
    if len(model.outputs) > 1:
        raise BadSpec("class_weight is for networks with one output: build it with aux=False.")
    classes = range(model.outputs[0].shape[-1])
    if isinstance(wanted, Mapping):
        if strange := [label for label in wanted if label not in classes]:
            raise BadSpec(f"class_weight has the class {strange[0]!r}: the head's go from 0 to {len(classes) - 1}.")
        return {label: float(wanted.get(label, 1.0)) for label in classes}
    labels = given.labels()
    if wanted != "balanced" or labels is None:
        raise BadSpec(f"class_weight={wanted!r}: give a weight for each class, or, with Data or arrays, 'balanced'.")
    counts = np.bincount(labels, minlength=len(classes))
    fair = len(labels) / np.count_nonzero(counts)
    return {label: float(fair / counts[label]) if counts[label] else 1.0 for label in classes}
