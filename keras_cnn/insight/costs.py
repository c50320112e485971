"""Parameters, multiply-accumulates and activation memory of any Keras model, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_cnn.errors import BadSpec
from keras_cnn.models.fields import known_options
from keras_cnn.models.shapes import NORM_COSTS, Row, by_stage

if TYPE_CHECKING:
    import keras


@known_options
def profile(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> dict[str, list[Row]]:
    """What each layer of a model holds and costs for one image, by stage: the first token of the layer's name.

    Each `Row` has the layer, its kind, the shapes of its variables, its multiply-accumulates (convolutions and dense
    layers; normalisations by the element, as the published figures count) and its output's shape; add rows up with
    `shapes.parameters`, `shapes.macs` and `shapes.activations`. Nested models are entered.
    input_shape: (height, width, channels) for a model that leaves them open.
    Raises BadSpec where the size is open, and for a layer with weights whose cost has no rule.

    >>> import keras_cnn as kc
    >>> list(kc.profile(kc.build("resnet20")))
    ['stem', 'stage1', 'stage2', 'stage3', 'head']
    """
    if input_shape is not None:
        import keras

        from keras_cnn.models.assemble import recursion

        with recursion(len(model.layers)):
            model = keras.models.clone_model(model, input_tensors=keras.Input(input_shape))
    elif None in tuple(model.input_shape)[1:]:
        raise BadSpec(f"{model.name} leaves its input's size open: give input_shape=(height, width, channels).")
    return by_stage(_rows(model))


def _rows(model: Any) -> list[Row]:
    rows: list[Row] = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            rows += _rows(layer)
            continue
        shapes = {v.name: tuple(v.shape) for v in layer.weights}
        rows.append(Row(layer.name, type(layer).__name__, shapes, _macs(layer), _shape(layer.output)))
    return rows


def _macs(layer: Any) -> int:
    for kind in type(layer).__mro__:
        if kind.__name__ in RULES:
            return RULES[kind.__name__](layer)
    if layer.trainable_weights:
        raise BadSpec(f"{layer.name}: the cost of a {type(layer).__name__} is not known here.")
    return 0


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple((tensor[0] if isinstance(tensor, list | tuple) else tensor).shape)


def _places(tensor: Any) -> int:
    return math.prod(n or 1 for n in _shape(tensor)[1:-1])


def _size(*variables: Any) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _each_output(layer: Any) -> int:
    return _places(layer.output) * _size(layer.kernel)


def _each_input(layer: Any) -> int:
    """Every input position spreads one kernel."""
    return _places(layer.input) * _size(layer.kernel)


def _separable(layer: Any) -> int:
    return _places(layer.output) * _size(layer.depthwise_kernel, layer.pointwise_kernel)


def _norm(cost: int) -> Callable[[Any], int]:
    return lambda layer: cost * math.prod(n or 1 for n in _shape(layer.output)[1:])


# By the name of a layer's class or of one that it derives from.
RULES: dict[str, Callable[[Any], int]] = {
    **{f"Conv{n}D": _each_output for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": _each_output for n in (1, 2)},
    **{f"SeparableConv{n}D": _separable for n in (1, 2)},
    **{f"Conv{n}DTranspose": _each_input for n in (1, 2, 3)},
    "Dense": _each_output,
    "BatchNormalization": _norm(NORM_COSTS["batchnorm"]),
    "GroupNormalization": _norm(NORM_COSTS["groupnorm"]),
    "LayerNormalization": _norm(NORM_COSTS["groupnorm"]),
}
