"""The builder that counts instead of building: shapes of variables, multiply-accumulates, output shapes.

It runs in milliseconds and imports no framework; a test holds it to the Keras graph, variant by variant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from keras_cnn.errors import BadSpec
from keras_cnn.models import naming
from keras_cnn.models.backbone import Backbone, check_norm, out_size
from keras_cnn.models.builder import Builder
from keras_cnn.models.config import Config


class Shape(NamedTuple):
    """Stands in for a tensor: (batch, height, width, channels), (batch, time, channels) or (batch, channels)."""

    shape: tuple[int | None, ...]


class Row(NamedTuple):
    """One layer: its variables, its multiply-accumulates for one image, its output."""

    layer: str
    kind: str
    variables: dict[str, tuple[int, ...]]
    macs: int
    output: tuple[int | None, ...]


NON_TRAINABLE = ("moving_mean", "moving_variance", "mean", "std")


def _elements(shape: tuple[int | None, ...]) -> int:
    return math.prod(n or 0 for n in shape[1:])


def _positions(shape: tuple[int | None, ...]) -> int:
    return math.prod(n or 0 for n in shape[1:-1])


def _conv(shape, *, filters, size, stride, dilation, groups, bias, padding, start, dtype=None):
    b, *sides, c = shape
    window = size if isinstance(size, tuple) else (size,) * len(sides)
    across = [out_size(n, k, stride, padding, dilation) for n, k in zip(sides, window, strict=True)]
    out, kernel = (b, *across, filters), (*window, c // groups, filters)
    return out, {"kernel": kernel} | ({"bias": (filters,)} if bias else {}), _positions(out) * math.prod(kernel)


def _depthwise(shape, *, size, stride, dilation, bias, padding):
    b, h, w, c = shape
    out = (b, *(out_size(n, size, stride, padding, dilation) for n in (h, w)), c)
    macs = _positions(out) * size * size * c
    return out, {"kernel": (size, size, c, 1)} | ({"bias": (c,)} if bias else {}), macs


def _upsample(shape, *, factor, interpolation):
    b, h, w, c = shape
    return (b, *(n and n * factor for n in (h, w)), c), {}, 0


def _transposed(shape, *, filters, factor):
    (b, h, w, _), _, _ = _upsample(shape, factor=factor, interpolation="")
    kernel = (factor, factor, filters, shape[-1])
    return (b, h, w, filters), {"kernel": kernel, "bias": (filters,)}, _positions(shape) * math.prod(kernel)


def _fit(shape, size=None):
    own, like = (shape, (None, *size)) if size else shape
    return (own[0], *like[1:3], own[-1]), {}, 0


def _dense(shape, *, units, bias=True, **_):
    kernel = (shape[-1], units)
    return (
        (*shape[:-1], units),
        {"kernel": kernel} | ({"bias": (units,)} if bias else {}),
        _positions(shape) * math.prod(kernel),
    )


def _pool(shape, *, size, stride, padding):
    b, h, w, c = shape
    return (b, *(out_size(n, size, stride, padding) for n in (h, w)), c), {}, 0


def _pad(shape, *, paddings, value):
    grow = lambda n, side: None if n is None else n + sum(side)  # noqa: E731
    return (shape[0], *(grow(n, side) for n, side in zip(shape[1:], paddings, strict=True))), {}, 0


# Operations of a normalisation for each element, as fvcore counts them in the published figures: scale and shift;
# for a group its mean, variance and division too.
NORM_COSTS = {"batchnorm": 2, "groupnorm": 5}


def _norm(kind, *names):
    cost = NORM_COSTS[kind]
    return lambda shape, **_: (shape, {name: (shape[-1],) for name in names}, cost * _elements(shape))


def _same(shape, **_):
    return shape, {}, 0


def _global(shape, keepdims=False):
    return (shape[0], *((1, 1) if keepdims else ()), shape[-1]), {}, 0


def _concat(shapes):
    return (*shapes[0][:-1], sum(s[-1] for s in shapes)), {}, 0


COUNTS = {
    "conv": _conv,
    "standardisedconv": _conv,
    "depthwise": _depthwise,
    "standardiseddepthwise": _depthwise,
    "dense": _dense,
    "multiply": lambda shapes: (shapes[0], {}, 0),
    "maxpool": _pool,
    "avgpool": _pool,
    "pad": _pad,
    "batchnorm": _norm("batchnorm", "gamma", "beta", "moving_mean", "moving_variance"),
    "groupnorm": _norm("groupnorm", "gamma", "beta"),
    "standardise": lambda shape, **_: (shape, dict.fromkeys(("mean", "std"), (shape[-1],)), 0),
    "globalavg": _global,
    "globalmax": _global,
    "globallast": _global,
    "layernorm": _norm("groupnorm", "gamma", "beta"),
    "spatialdropout": _same,
    "reshape": lambda given, *, shape, **_: ((given[0], *shape), {}, 0),
    "upsample": _upsample,
    "transposed": _transposed,
    "fit": _fit,
    "act": _same,
    "unit": _same,
    "scale": _same,
    "dropout": _same,
    "droppath": _same,
    "add": lambda shapes: (shapes[0], {}, 0),
    "concat": _concat,
}


class Tally(Builder):
    """Collects one `Row` a layer in `rows`, which every scope shares."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.rows: list[Row] = []

    def emit(self, kind: str, token: str, x: Any, **args: Any) -> Shape:
        shapes = [t.shape for t in x] if isinstance(x, list) else x.shape
        output, variables, macs = COUNTS[kind](shapes, **args)
        self.rows.append(Row(self.name(token), kind, variables, macs, output))
        return Shape(output)


def tally(config: Config) -> tuple[Row, ...]:
    """Every layer of a network in the order of building, without building it."""
    return _tally(config.backbone, config.head, config.input_shape)


@cache  # many weights are of one network
def _tally(backbone: Backbone, head: Any, input_shape: tuple[int | None, ...]) -> tuple[Row, ...]:
    g = Tally(backbone)
    g.network(Shape((None, *input_shape)), head)
    return tuple(g.rows)


class Feature(NamedTuple):
    """A stage's feature map: its channels, and how many pixels of the image lie between two of its positions."""

    channels: int
    stride: int


WIDE = 2**14  # pixels: beside them, what windows without padding cut off is nothing


@cache
def feature_maps(backbone: Backbone, channels: int = 3) -> dict[str, Feature]:
    """Channels and stride of every stage, from the stem upwards, without any framework.

    channels: of the input, which the stem of a network for sequences has as well.

    >>> from keras_cnn.models.families.resnet import ResNet
    >>> feature_maps(ResNet(depths=(2, 2, 2, 2), output_stride=16))["stage4"]
    Feature(channels=2048, stride=16)
    """
    g = Tally(backbone)
    maps = backbone.features(g, Shape((None, *[WIDE] * backbone.SIDES, channels)))
    return {stage: Feature(x.shape[-1], round(WIDE / x.shape[1])) for stage, x in maps}


# Positions along a side that a layer's output has at least. A decoder that were to enlarge a map of one position to one
# would stand on stages that have long had nothing left to make smaller.
LEAST = {"fit": 2}


def check_size(config: Config) -> None:
    """Raise BadSpec, with the smallest side that works, where windows without padding eat the image up, where a decoder
    has nothing to enlarge, or where a norm sees single values, whose mean they are: all that it gives is beta."""
    norm = config.backbone.norm
    groups = check_norm(norm) or 0

    def wide(row: Row) -> bool:
        return all(n is None or n >= LEAST.get(row.kind, 1) for n in row.output[1:-1])

    def lone(row: Row) -> bool:  # each channel is a group, and has one position
        *places, channels = row.output[1:]
        each = groups == -1 or groups % (channels or 1) == 0
        return row.kind == "groupnorm" and each and {*places} == {1}

    def fits(*sides: int | None) -> bool:
        return all(wide(row) and not lone(row) for row in tally(config.at((*sides, config.channels))))

    *sides, _ = config.input_shape
    if not fits(*sides):
        least = next(n for n in itertools.count(1) if fits(*[n] * len(sides)))
        given, needed = ("x".join(map(str, lengths)) for lengths in (sides, [least] * len(sides)))
        kind, unit = {1: ("sequences", "steps"), 2: ("images", "pixels")}[len(sides)]
        why = f": norm={norm!r} of one position is beta, whatever it shows" if any(map(lone, tally(config))) else ""
        raise BadSpec(f"{config.name} needs {kind} of at least {needed} {unit}, not {given}{why}.")


def variables(rows: Iterable[Row]) -> dict[str, tuple[int, ...]]:
    """Shape of every variable under its key, `layer/variable`."""
    return {f"{row.layer}/{name}": shape for row in rows for name, shape in row.variables.items()}


def parameters(rows: Iterable[Row]) -> int:
    """Learned parameters: kernels, biases, gammas and betas, as torch counts them."""
    learned = (s for key, s in variables(rows).items() if key.rpartition("/")[2] not in NON_TRAINABLE)
    return sum(map(math.prod, learned))


def macs(rows: Iterable[Row]) -> int:
    """Multiply-accumulates of convolutions and dense layers for one image, and the operations of normalisations."""
    return sum(row.macs for row in rows)


def activations(rows: Iterable[Row]) -> int:
    """Bytes of all layers' outputs for one image in float32: what training has to keep."""
    return sum(4 * _elements(row.output) for row in rows)


def by_stage(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each stage."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(naming.stage_of(row.layer), []).append(row)
    return groups
