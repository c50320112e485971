"""Linear models on features, by scikit-learn, as a dense layer has them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def centred(features: np.ndarray, labels: np.ndarray, model: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """(rows (outputs, n), offsets (outputs,), the fit) of a linear model of scikit-learn, for the features themselves.

    It is fitted on features around 0 of mean length 1, so that its penalty means the same for all networks.
    """
    centre = features.mean(0)
    length = float(np.linalg.norm(features - centre, axis=1).mean()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at the last iteration is good enough
        found = model().fit((features - centre) / length, labels)
    rows, offsets = np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_)
    return rows / length, offsets - rows @ (centre / length), found
