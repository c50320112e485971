"""What a network's features already say of other classes: a linear probe and nearest neighbours."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.data import labelled
from keras_cnn.data.examples import Pair
from keras_cnn.data.training_set import training_set
from keras_cnn.errors import BadData
from keras_cnn.models.fields import known_options
from keras_cnn.transfer import split
from keras_cnn.transfer.precomputed import Features

STRENGTH = 10.0  # of the fit against the penalty, on centred features of mean length 1
NEIGHBOURS = 10
ENOUGH = 10_000  # images for a baseline; more would take minutes and change little


@dataclass(frozen=True)
class Baselines:
    """linear, knn: validation accuracies. images: that were learnt from; seconds: the two fits, features at hand."""

    linear: float
    knn: float
    images: int
    seconds: float

    def __str__(self) -> str:
        what = f"linear probe {self.linear:.1%}, nearest neighbours {self.knn:.1%}"
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
    """How well logistic regression and cosine nearest neighbours do on the features below the head: no training.

    train, val, validation_data: `Data`, or two pairs of arrays (images, integer labels), given as to `fine_tune`; of
    more than 10,000 training images so many are drawn. batch_size: images that the network sees at once. cache: as in
    `fine_tune`, which then finds the features on disk. The model is not touched.
    Raises BadData where there is nothing to validate on.
    """
    train, val = labelled.accepted(model, train, val, validation_data, head=False)
    found = Features(training_set(train, val, batch_size)).of(split.backbone(model)[0], cache)
    if not found or not found[1]:
        raise BadData("a probe needs training and validation images, as Data or as arrays, that fit into memory.")
    (pair,), held_out = found
    baselines = measure(pair, held_out, int(pair[1].max()) + 1)[1]
    assert baselines is not None
    return baselines


@dataclass(frozen=True)
class Linear:
    """A linear classifier as the weights of a dense layer: kernel (features, classes), bias (classes,)."""

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.kernel + self.bias


def measure(train: Pair, val: Pair | None, classes: int) -> tuple[Linear, Baselines | None]:
    """A linear classifier of features and, where there is something to validate on, how good it and neighbours are."""
    from sklearn.neighbors import KNeighborsClassifier

    chosen = np.sort(np.random.default_rng(0).permutation(len(train[1]))[:ENOUGH])
    features, labels = train[0][chosen], train[1][chosen]
    start = time.perf_counter()
    linear = fit(features, labels, classes)
    if val is None:
        return linear, None
    knn = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), metric="cosine", weights="distance").fit(features, labels)
    right, near = float((linear(val[0]).argmax(1) == val[1]).mean()), float(knn.score(*val))
    return linear, Baselines(right, near, len(labels), time.perf_counter() - start)


def fit(features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Logistic regression on features (images, n); classes that no image has are left improbable."""
    from sklearn.linear_model import LogisticRegression

    centre = features.mean(0)
    length = float(np.linalg.norm(features - centre, axis=1).mean()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at the last iteration is good enough
        found = LogisticRegression(C=STRENGTH, max_iter=500).fit((features - centre) / length, labels)
    rows, offsets = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # scikit-learn has one row for two classes; each takes a half
        rows, offsets = np.stack([-rows[0], rows[0]]) / 2, np.array([-offsets[0], offsets[0]]) / 2
    kernel, bias = np.zeros((features.shape[1], classes), "float32"), np.full(classes, -30.0, "float32")
    kernel[:, found.classes_] = (rows / length).T
    bias[found.classes_] = offsets - rows @ (centre / length)
    return Linear(kernel, bias)
