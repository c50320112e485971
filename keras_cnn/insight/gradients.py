"""Gradients of a number by tensors, on whichever backend Keras has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_cnn.errors import BadSpec


def gradients(function: Callable[..., Any], tensors: Sequence[Any]) -> tuple[float, list[np.ndarray]]:
    """The value of `function(*tensors)`, a scalar, and its gradient by each of the tensors, as NumPy arrays.

    function: of backend tensors, made of Keras layers and `keras.ops`; layers are called as at prediction unless it
        says otherwise. tensors: float arrays. Where the value does not depend on a tensor, its gradient is zeros.
    """
    import keras

    backend = keras.backend.backend()
    if backend not in _BY_BACKEND:
        raise BadSpec(f"the backend {backend} has no gradients: set KERAS_BACKEND to {', '.join(_BY_BACKEND)}.")
    to_numpy: Any = keras.ops.convert_to_numpy
    value, found = _BY_BACKEND[backend](function, [keras.ops.convert_to_tensor(tensor) for tensor in tensors])
    return float(to_numpy(value)), [
        np.zeros(np.shape(tensor), "float32") if gradient is None else to_numpy(gradient)
        for tensor, gradient in zip(tensors, found, strict=True)
    ]


def _tensorflow(function: Callable[..., Any], tensors: list[Any]) -> tuple[Any, Any]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(*tensors)
    return value, tape.gradient(value, tensors)


def _jax(function: Callable[..., Any], tensors: list[Any]) -> tuple[Any, Any]:
    import jax  # pyright: ignore[reportMissingImports]

    return jax.value_and_grad(function, argnums=tuple(range(len(tensors))))(*tensors)


def _torch(function: Callable[..., Any], tensors: list[Any]) -> tuple[Any, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        value = function(*leaves)
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), found


_BY_BACKEND = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
