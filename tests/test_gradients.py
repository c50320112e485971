"""Gradients on every backend that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

PROGRAM = """
import keras, numpy as np
from keras_cnn.insight.gradients import gradients
x, y, unused = np.array([1.0, 2.0], "float32"), np.array([3.0, 4.0], "float32"), np.ones(3, "float32")
value, found = gradients(lambda x, y, unused: keras.ops.sum(x * x * y), [x, y, unused])
assert value == 19.0, value
for told, right in zip(found, ([6, 16], [1, 4], [0, 0, 0])):
    assert isinstance(told, np.ndarray) and told.tolist() == right, told
dense = keras.layers.Dense(1, kernel_initializer="ones")
value, (by_x,) = gradients(lambda x: keras.ops.sum(dense(x) ** 2), [x[None]])
assert (value, by_x.tolist()) == (9.0, [[6.0, 6.0]])
"""


@pytest.mark.no_keras
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_value_and_gradients(backend):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=os.environ | {"KERAS_BACKEND": backend})
