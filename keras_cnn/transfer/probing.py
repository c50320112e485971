"""What a network's features already say of other classes: a linear probe and nearest neighbours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn import tasks
from keras_cnn.data.examples import Pair
from keras_cnn.data.training_set import training_set
from keras_cnn.errors import BadData
from keras_cnn.models.fields import known_options
from keras_cnn.tasks import Task, labelled
from keras_cnn.transfer import split
from keras_cnn.transfer.precomputed import Features

NEIGHBOURS = 10
ENOUGH = 10_000  # images for a baseline; more would take minutes and change little


@dataclass(frozen=True)
class Baselines:
    """linear, knn: what the task monitors, on validation images. images: that were learnt from; seconds: the two fits,
    features at hand. figure: the name of what is monitored; format: how people read it."""

    linear: float
    knn: float
    images: int
    seconds: float
    figure: str
    format: str

    @classmethod
    def of(cls, task: Task, **found: Any) -> Baselines:
        return cls(**{**found, "figure": task.judged_by, "format": task.format})

    def __str__(self) -> str:
        name = "" if self.format.endswith("%") else f"{self.figure} "  # a share needs none
        linear, knn = (f"{name}{value:{self.format}}" for value in (self.linear, self.knn))
        what = f"linear probe {linear}, nearest neighbours {knn}"
        return f"your data, these features, {self.seconds:.1f} seconds: {what}"


@known_options
def probe(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    validation_data: Any = None,
    batch_size: int = 32,
    cache: bool | str | Path = True,
) -> Baselines:
    """How well a linear head and cosine nearest neighbours do on the features below the head: no training.

    The linear head is the task's: logistic regression, one class against the rest, ridge regression.

    train, val, validation_data: `Data`, or two pairs of arrays (images, labels), given as to `fine_tune`; of
    more than 10,000 training images so many are drawn. batch_size: images that the network sees at once. cache: as in
    `fine_tune`, which then finds the features on disk. The model is not touched.
    Raises BadData where there is nothing to validate on.
    """
    train, val = labelled.accepted(model, train, val, validation_data, head=False)
    given, task = training_set(train, val, batch_size), tasks.of(model)
    lower, _ = split.backbone(model)
    found = Features(given).of(lower, cache) if len(lower.output.shape) == 2 else None
    if not found or not found[1]:
        raise BadData(
            "a probe needs features of whole images, and training and validation images, as Data or as arrays, that "
            "fit into memory."
        )
    (pair,), held_out = found
    baselines = measure(task, model, pair, held_out, task.width(task.as_labels(pair[1])))[1]
    if baselines is None:
        raise BadData(f"a probe knows nothing of {task.name}: give a network with another head.")
    return baselines


def measure(
    task: Task, model: Any, train: Pair, val: Pair | None, outputs: int
) -> tuple[tuple[np.ndarray, np.ndarray] | None, Baselines | None]:
    """((kernel, bias) of the best linear head, how good it and neighbours are where there is something to validate on).

    model: whose head it is, which may know the scale of the targets.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(train[1]))[:ENOUGH])
    features, labels = train[0][chosen], task.as_labels(train[1][chosen])
    start = time.perf_counter()
    linear = task.linear(features, labels, outputs, model)
    near = task.neighbours(min(NEIGHBOURS, len(labels)))
    if val is None or linear is None or near is None:
        return linear, None
    truth = task.as_labels(val[1])
    answers = task.in_units(val[0] @ linear[0] + linear[1], model)
    flat = labels.reshape(len(labels), -1) if labels.ndim > 2 else labels
    neighbours = task.rows(near.fit(features, flat).predict(val[0]), outputs)
    right, alike = (task.figure(task.measured(truth, rows)) for rows in (answers, neighbours))
    seconds = time.perf_counter() - start
    return linear, Baselines.of(task, linear=right, knn=alike, images=len(labels), seconds=seconds)
