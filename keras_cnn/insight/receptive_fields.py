"""Which positions of the input each layer of a network can see, found by walking its graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from keras_cnn.errors import BadSpec
from keras_cnn.insight.graphs import calls, graph_of, walkable
from keras_cnn.insight.spans import Field, Window, everywhere, start_field, through, union
from keras_cnn.insight.windows import extent, same_padding
from keras_cnn.models.fields import known_options

if TYPE_CHECKING:
    import keras


@known_options
@dataclass(frozen=True)
class ReceptiveField:
    """What the positions of a layer's output see, one number an axis: of images (height, width), of sequences (time,).

    size: positions of the input from the first to the last that an output depends on; of the output that sees most,
        where they differ, as behind an upsampling. math.inf where it depends on all of them, however large the input.
    jump: positions of the input between those that two neighbouring outputs stand for; below 1 behind an upsampling
        that goes beyond the input's resolution; 0 where there are no neighbours, as behind a global pooling.
    start: the first position that output 0 sees; negative in the padding. Output i sees from start + i * jump on.
    """

    size: tuple[float, ...]
    jump: tuple[float, ...]
    start: tuple[float, ...]


@known_options
def receptive_field(model: keras.Model) -> dict[str, ReceptiveField]:
    """The theoretical receptive field of every layer of a functional or sequential Keras model, by the layer's name.

    What could influence an output, were no weight zero (Araujo et al. 2019, distill.pub, "Computing receptive fields of
    convolutional neural networks"); where branches join, an output sees what any of them sees. What mixes all
    positions sees everything: global pools, squeeze-and-excitation, group norm, flattening, attention, recurrence.
    What matters of it is less: see `effective_field`.

    Padding "same" depends on the input's size where there are strides: `start` is exact where the model knows its size,
    and else that of sizes which the strides divide. Layers of a nested model are "model/layer"; a layer that is called
    several times has the field of its last call. Behaviour is that of prediction: dropout and augmentation do nothing.
    Several inputs are taken to lie on each other.
    Raises BadSpec for a model without a graph, one without spatial axes, and a layer without a rule.

    >>> import keras_cnn as kc
    >>> fields = kc.insight.receptive_field(kc.build("resnet20"))
    >>> fields["stage3_block3_add"].size, fields["stage3_block3_add"].jump, fields["head_pool"].size
    ((81, 81), (4, 4), (inf, inf))
    """
    graph = walkable(model)
    told: dict[str, ReceptiveField] = {}
    _walk(graph, [tuple(start_field() for _ in tensor.shape[2:]) for tensor in graph.inputs], "", told)
    if not any(field.size for field in told.values()):
        raise BadSpec(f"{model.name} has no spatial axes: no layer gives maps (batch, ..., channels).")
    return told


Fields = tuple[Field, ...]  # of a tensor, one an axis


def _walk(model: Any, given: Sequence[Fields], prefix: str, told: dict[str, ReceptiveField]) -> list[Fields]:
    """Tell every layer's field; returns those of the model's outputs, from those of its inputs."""
    found = {id(tensor): fields for tensor, fields in zip(model.inputs, given, strict=True)}
    for tensor, fields in zip(model.inputs, given, strict=True):
        told[prefix + tensor._keras_history.operation.name] = _tell(fields)
    for node in calls(model.outputs, set(found)):
        layer, inputs, outputs = node.operation, node.input_tensors, node.outputs
        fields = [found[id(tensor)] for tensor in inputs]
        name = prefix + layer.name
        if (graph := graph_of(layer)) is not None:
            results = _walk(graph, fields, f"{name}/", told)
        else:
            results = [_rule(layer)(layer, fields, inputs, tensor) for tensor in outputs]
        found |= {id(tensor): result for tensor, result in zip(outputs, results, strict=True)}
        told[name] = _tell(results[0])
    return [found[id(tensor)] for tensor in model.outputs]


def _tell(fields: Fields) -> ReceptiveField:
    columns = [(field.size, field.jump, field.spans[0][0]) for field in fields]
    size, jump, start = (tuple(map(_plain, column)) for column in zip(*columns, strict=True)) if columns else ((),) * 3
    return ReceptiveField(size, jump, start)


def _plain(number: float | Fraction) -> float:
    return int(number) if math.isfinite(number) and number == int(number) else float(number)


# --- what each layer does to the fields of its inputs: (layer, fields of each, input tensors, output tensor) --------

Rule = Callable[[Any, list[Fields], list[Any], Any], Fields]


def _rule(layer: Any) -> Rule:
    if getattr(layer, "data_format", None) == "channels_first":
        raise BadSpec(f"{layer.name} has data_format='channels_first': give a model with channels last.")
    for kind in type(layer).__mro__:
        if kind.__name__ in RULES:
            return RULES[kind.__name__]
    raise BadSpec(
        f"{layer.name}: which positions a {type(layer).__name__} sees is not known here. Give a model of Keras' own "
        "layers, or one that ends before it."
    )


def _lengths(tensor: Any) -> tuple[int | None, ...]:
    return tuple(tensor.shape[1:-1])


def _joined(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    """Positions stay where they are; of several inputs, such as a sum's, an output sees what each of them sees."""
    spatial = [(own, _lengths(tensor)) for own, tensor in zip(fields, inputs, strict=True) if own]
    if not spatial:
        return ()
    if len({len(own) for own, _ in spatial}) > 1:
        raise BadSpec(f"{layer.name}: joins maps with different numbers of axes.")
    try:
        return tuple(union(*zip(*axis, strict=True)) for axis in _by_axis(spatial))
    except ArithmeticError:
        raise BadSpec(
            f"{layer.name}: joins maps whose positions lie {[_tell(own).jump for own, _ in spatial]} apart, which "
            "takes an input of known size: give the model an input_shape."
        ) from None


def _by_axis(spatial: list[tuple[Fields, tuple[int | None, ...]]]) -> list[list[tuple[Field, int | None]]]:
    """(field, length) of each map, for each axis; a pooled map has lost its lengths, but sees along all axes."""
    full = [(own, lengths if len(lengths) == len(own) else (1,) * len(own)) for own, lengths in spatial]
    return [[(own[axis], lengths[axis]) for own, lengths in full] for axis in range(len(full[0][0]))]


def _all(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    """Every position sees all positions; there may be none left to step between."""
    stays = _lengths(output) == _lengths(inputs[0])
    return tuple(everywhere(field.jump if stays else 0) for field in _joined(layer, fields, inputs, output))


def _slid(window: Callable[[Any, int, int | None, int | None], Window]) -> Rule:
    """A rule from the window of (layer, axis, its length in, its length out)."""

    def rule(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
        lengths = zip(_lengths(inputs[0]), _lengths(output), strict=True)
        return tuple(through(fields[0][axis], window(layer, axis, *sides)) for axis, sides in enumerate(lengths))

    return rule


def _side(value: Any, axis: int, unset: int = 1) -> int:
    value = unset if value is None else value
    return value if isinstance(value, int) else value[axis]


def _slide(size: int, stride: int, dilation: int, padding: str, length: int | None) -> Window:
    reach = extent(size, dilation)
    before = {"valid": 0, "causal": reach - 1, "same": same_padding(length, reach, stride)[0]}[padding]
    return Window(lambda i: range(i * stride - before, i * stride - before + reach, dilation), 1, stride)


def _conv(layer: Any, axis: int, length: int | None, _: int | None) -> Window:
    size, stride, dilation = (_side(v, axis) for v in (layer.kernel_size, layer.strides, layer.dilation_rate))
    return _slide(size, stride, dilation, layer.padding, length)


def _pool(layer: Any, axis: int, length: int | None, _: int | None) -> Window:
    size = _side(layer.pool_size, axis)
    return _slide(size, _side(layer.strides, axis, size), 1, layer.padding, length)


def _transposed(layer: Any, axis: int, *_: int | None) -> Window:
    """Input j reaches the outputs j * stride - cut + t * dilation; seen from an output, those that reach it."""
    size, stride, dilation = (_side(v, axis) for v in (layer.kernel_size, layer.strides, layer.dilation_rate))
    reach, cut = extent(size, dilation), 0
    if layer.padding == "same" and layer.output_padding is None:
        cut = max(reach - stride, 0) // 2
    elif layer.padding == "same":
        cut = max(2 * (reach // 2) - _side(layer.output_padding, axis), 0) // 2
    reached = lambda i: [(i + cut - t) // stride for t in range(0, reach, dilation) if (i + cut - t) % stride == 0]  # noqa: E731
    return Window(reached, stride, 1)


def _moved(before: Callable[[Any, int, int | None, int | None], int]) -> Rule:
    """Padding and cropping: position i is i - before of the input."""
    return _slid(lambda layer, axis, *sides: Window(lambda i: (i - before(layer, axis, *sides),), 1, 1))


def _padding(layer: Any, axis: int, *_: Any) -> int:
    padding = layer.padding
    return (padding if isinstance(padding[0], int) else padding[axis])[0]


def _cropping(layer: Any, axis: int, *_: Any) -> int:
    cropping = layer.cropping
    return -(cropping if isinstance(cropping[0], int) else cropping[axis])[0]


def _fitting(layer: Any, axis: int, have: int | None, wanted: int | None) -> int:
    return max(wanted - have, 0) // 2 if have and wanted else 0


def _scaled(ins: int, outs: int, interpolation: str, layer: Any) -> Window:
    """Resizing: the centre of output i lies at (i + 1/2) * ins / outs - 1/2 of the input (half-pixel centres)."""
    ratio = Fraction(ins, outs)

    def nearest(i: int) -> tuple[int, ...]:
        return (math.floor((i + Fraction(1, 2)) * ratio),)

    def bilinear(i: int) -> tuple[int, ...]:
        centre = (i + Fraction(1, 2)) * ratio - Fraction(1, 2)
        return (math.floor(centre), math.ceil(centre))

    seen = {"nearest": nearest, "bilinear": bilinear}.get(interpolation)
    if seen is None:
        raise BadSpec(f"{layer.name}: interpolation={interpolation!r} has no rule here; 'nearest' and 'bilinear' have.")
    return Window(seen, ratio.denominator, ratio.numerator)


def _upsampling(layer: Any, axis: int, *_: Any) -> Window:
    return _scaled(1, _side(layer.size, axis), getattr(layer, "interpolation", "nearest"), layer)


def _resizing(layer: Any, axis: int, have: int | None, wanted: int | None) -> Window:
    if not have or not wanted:
        raise BadSpec(f"{layer.name}: a Resizing from an open size has no fixed field: give the model an input_shape.")
    if layer.antialias or layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        raise BadSpec(f"{layer.name}: a Resizing that smooths, crops or pads has no rule here.")
    return _scaled(have, wanted, layer.interpolation, layer)


def _last(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    """One position; of an open length it is -1, counted from the end."""
    return tuple(Field((field.at((n or 0) - 1),), 0) for field, n in zip(fields[0], _lengths(inputs[0]), strict=True))


def _first(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    return _moved(_fitting)(layer, fields[:1], inputs[:1], output)


def _embedded(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    """Words become channels, and what was an axis of words one of positions."""
    return tuple(start_field() for _ in _lengths(output))


def _concatenated(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    if layer.axis % len(output.shape) != len(output.shape) - 1:
        raise BadSpec(f"{layer.name}: concatenates along axis {layer.axis}; only channels, the last axis, have a rule.")
    return _joined(layer, fields, inputs, output)


def _along_channels(layer: Any, fields: list[Fields], inputs: list[Any], output: Any) -> Fields:
    """Sums over the last axis stay at their position; those over others see all."""
    axes = layer.axis if isinstance(layer.axis, list | tuple) else (layer.axis,)
    rank = len(inputs[0].shape)
    return (_joined if all(axis % rank == rank - 1 for axis in axes) else _all)(layer, fields, inputs, output)


def _sides(name: str, rule: Rule) -> dict[str, Rule]:
    return {name.format(n): rule for n in (1, 2, 3)}


# By the name of a layer's class or of one that it derives from; operations such as a + b have the names of layers.
RULES: dict[str, Rule] = {
    **_sides("Conv{}D", _slid(_conv)),
    **_sides("Conv{}DTranspose", _slid(_transposed)),
    **_sides("DepthwiseConv{}D", _slid(_conv)),
    **_sides("SeparableConv{}D", _slid(_conv)),
    **_sides("MaxPooling{}D", _slid(_pool)),
    **_sides("AveragePooling{}D", _slid(_pool)),
    **_sides("GlobalAveragePooling{}D", _all),
    **_sides("GlobalMaxPooling{}D", _all),
    **_sides("ZeroPadding{}D", _moved(_padding)),
    **_sides("Cropping{}D", _moved(_cropping)),
    **_sides("UpSampling{}D", _slid(_upsampling)),
    **_sides("SpatialDropout{}D", _joined),
    "Resizing": _slid(_resizing),
    "Pad": _moved(lambda layer, axis, *_: layer.paddings[axis][0]),
    "Fit": _first,
    "LastStep": _last,
    "Embedding": _embedded,
    "Concatenate": _concatenated,
    **dict.fromkeys(("LayerNormalization", "UnitNormalization", "Softmax"), _along_channels),
    **dict.fromkeys(("GroupNormalization", "Flatten", "Reshape", "RNN", "Bidirectional"), _all),
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention"), _all),
    # Each position by itself. Augmentation does nothing when a network predicts.
    **dict.fromkeys(("Dense", "Activation", "BatchNormalization", "Rescaling", "Normalization", "Identity"), _joined),
    **dict.fromkeys(("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), _joined),
    **dict.fromkeys(("ReLU", "LeakyReLU", "PReLU", "ELU"), _joined),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _joined),
    **dict.fromkeys(("Relu", "Relu6", "Sigmoid", "Silu", "Gelu", "Elu", "Tanh", "HardSigmoid", "HardSilu"), _joined),
    **dict.fromkeys(("Divide", "TrueDivide", "Negative", "Exp", "Log", "Square", "Sqrt", "Abs", "Cast"), _joined),
    **dict.fromkeys(("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation"), _joined),
    **dict.fromkeys(("RandomContrast", "RandomBrightness"), _joined),
    **dict.fromkeys(("Preprocessing", "Standardise"), _joined),
    **dict.fromkeys(("LayerScale", "StochasticDepth", "CustomScaleLayer"), _joined),  # of keras.applications
}
