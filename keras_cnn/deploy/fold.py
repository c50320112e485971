"""Batch norm folded into the convolution before it, kernels standardised once: the same function in fewer steps."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnn.models.assemble import recursion
from keras_cnn.models.layers import WeightStandardised


def fold(model: Any) -> Any:
    """A copy for prediction whose batch norms are part of the convolutions that they follow (1712.05877, section 3.2).

    Kernels that are standardised each time they are used (1903.10520) are so once, in plain convolutions. Outputs agree
    to float32's rounding. A batch norm behind anything but a convolution of its own stays as it is, so any functional
    model will do; the given one is left as it was, and nothing is shared.
    """
    norms = _foldable(model)
    folded = {norm.name for norm in norms.values()}

    def clone(layer: Any) -> Any:
        bias = {"use_bias": True} if layer.name in norms else {}
        if isinstance(layer, WeightStandardised):
            return layer.PLAIN.from_config({**layer.plain_config(), **bias})
        return layer.__class__.from_config({**layer.get_config(), **bias})

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    with recursion(len(model.layers)):
        copy: Any = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in [layer for layer in copy.layers if layer.weights]:
        original = model.get_layer(layer.name)
        layer.set_weights(_folded(original, norms[layer.name]) if layer.name in norms else _weights(original))
    copy.jit_compile = model.jit_compile
    return copy


def _foldable(model: Any) -> dict[str, Any]:
    """The batch norm behind each convolution that feeds nothing else, by the convolution's name."""
    outputs = {id(tensor) for tensor in model.outputs}
    users: dict[int, int] = {}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            users[id(tensor)] = users.get(id(tensor), 0) + (not isinstance(layer, keras.layers.InputLayer))
    makers = {id(tensor): layer for layer in model.layers for tensor in keras.tree.flatten(layer.output)}
    found = {}
    for norm in model.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            entering: Any = norm.input
            before = makers.get(id(entering))
            convolution = isinstance(before, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
            alone = users[id(entering)] == 1 and id(entering) not in outputs
            if convolution and alone and before.activation is keras.activations.linear:
                found[before.name] = norm
    return found


def _weights(layer: Any) -> list[Any]:
    """As they are, but a standardised kernel as inputs meet it."""
    weights = layer.get_weights()
    return [_number(_kernel(layer)), *weights[1:]] if isinstance(layer, WeightStandardised) else weights


def _kernel(convolution: Any) -> Any:
    standardised = isinstance(convolution, WeightStandardised)
    return convolution.standardised_kernel() if standardised else convolution.kernel


def _folded(convolution: Any, norm: Any) -> list[np.ndarray]:
    """Kernel and bias that do what the convolution and the norm do at prediction."""
    scale = _number(norm.gamma, 1.0) / np.sqrt(_number(norm.moving_variance) + norm.epsilon)
    bias = (_number(convolution.bias) - _number(norm.moving_mean)) * scale + _number(norm.beta)
    kernel = _number(_kernel(convolution))
    # A depthwise kernel (height, width, channels, multiplier) has its outputs in the last two axes, others in the last.
    outputs = kernel.shape[2:] if isinstance(convolution, keras.layers.DepthwiseConv2D) else kernel.shape[3:]
    return [kernel * scale.reshape(outputs), bias]


def _number(variable: Any, absent: float = 0.0) -> np.ndarray:
    """A variable, or a tensor, in float64; `absent` where the layer has none."""
    return np.asarray(absent if variable is None else ops.convert_to_numpy(variable), "float64")
