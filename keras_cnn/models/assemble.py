"""The builder that writes Keras layers."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_cnn.errors import BadSpec
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.config import Config
from keras_cnn.models.layers import (
    BatchNormalization,
    Fit,
    HeUniform,
    LastStep,
    Pad,
    Preprocessing,
    StackedIdentities,
    Standardise,
    StandardisedConv1D,
    StandardisedConv2D,
    StandardisedDepthwiseConv2D,
)
from keras_cnn.models.shapes import NON_TRAINABLE, Row, tally

CHANNELS_LAST: dict[str, Any] = {"data_format": "channels_last"}
STARTS: dict[str, Any] = {"he": HeUniform, "sum": StackedIdentities}


def _conv(layer):
    return lambda *, filters, size, stride, dilation, groups, bias, padding, start, name, dtype=None: layer(
        filters,
        size,
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        groups=groups,
        use_bias=bias,
        kernel_initializer=STARTS[start](),
        name=name,
        dtype=dtype,
        **CHANNELS_LAST,
    )


def _depthwise(layer):
    return lambda *, size, stride, dilation, bias, padding, name: layer(
        size,
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        use_bias=bias,
        depthwise_initializer=STARTS["he"](),
        name=name,
        **CHANNELS_LAST,
    )


def _upsample(*, factor, interpolation, name):
    return keras.layers.UpSampling2D(factor, interpolation=interpolation, name=name, **CHANNELS_LAST)


def _transposed(*, filters, factor, name):
    return keras.layers.Conv2DTranspose(
        filters, factor, strides=factor, kernel_initializer=STARTS["he"](), name=name, **CHANNELS_LAST
    )


def _act(*, fn, name, **kw):
    try:
        return keras.layers.Activation(fn, name=name, **kw)
    except (ValueError, TypeError):
        raise BadSpec(f"{name}: Keras has no activation {fn!r}; keras.activations lists those that it has.") from None


def _batchnorm(*, eps, momentum, zero, name):
    return BatchNormalization(epsilon=eps, momentum=momentum, gamma_initializer="zeros" if zero else "ones", name=name)


def _groupnorm(*, groups, eps, zero, name):
    return keras.layers.GroupNormalization(
        groups, epsilon=eps, gamma_initializer="zeros" if zero else "ones", name=name
    )


def _pool(layer):
    return lambda *, size, stride, padding, name: layer(size, stride, padding, name=name, **CHANNELS_LAST)


def _global(layer):
    return lambda *, name, **kw: layer(name=name, **kw, **CHANNELS_LAST)


def _droppath(sides):
    """Dropping a whole sample's branch is dropout with one coin a sample."""
    return lambda *, rate, name: keras.layers.Dropout(rate, noise_shape=(None, *[1] * (sides + 1)), name=name)


# One Keras layer for every kind of the builder's language.
LAYERS = {
    "conv": _conv(keras.layers.Conv2D),
    "standardisedconv": _conv(StandardisedConv2D),
    "batchnorm": _batchnorm,
    "groupnorm": _groupnorm,
    "act": _act,
    "pad": Pad,
    "maxpool": _pool(keras.layers.MaxPooling2D),
    "avgpool": _pool(keras.layers.AveragePooling2D),
    "depthwise": _depthwise(keras.layers.DepthwiseConv2D),
    "standardiseddepthwise": _depthwise(StandardisedDepthwiseConv2D),
    "globalavg": _global(keras.layers.GlobalAveragePooling2D),
    "globalmax": _global(keras.layers.GlobalMaxPooling2D),
    "standardise": Standardise,
    "upsample": _upsample,
    "transposed": _transposed,
    "fit": Fit,
    "dropout": keras.layers.Dropout,
    "droppath": _droppath(2),
    "multiply": keras.layers.Multiply,
    "scale": keras.layers.Rescaling,
    "add": keras.layers.Add,
    "concat": keras.layers.Concatenate,
    "dense": lambda *, units, bias=True, **kw: keras.layers.Dense(units, use_bias=bias, **kw),
    "unit": keras.layers.UnitNormalization,
}
# The same kinds along one axis, time, and those that only sequences have.
OF_SEQUENCES = LAYERS | {
    "conv": _conv(keras.layers.Conv1D),
    "standardisedconv": _conv(StandardisedConv1D),
    "globalavg": _global(keras.layers.GlobalAveragePooling1D),
    "globalmax": _global(keras.layers.GlobalMaxPooling1D),
    "globallast": LastStep,
    "layernorm": lambda *, eps, name: keras.layers.LayerNormalization(epsilon=eps, name=name),
    "droppath": _droppath(1),
    "spatialdropout": keras.layers.SpatialDropout1D,
    "reshape": lambda *, shape, **kw: keras.layers.Reshape(shape, **kw),
}
LAYERS_BY_SIDES = {1: OF_SEQUENCES, 2: LAYERS}
INPUTS = {1: "stem_sequence", 2: "stem_image"}
FULL = {1: 1.0, 2: 255.0}  # what becomes 1 before the preprocessing's mean and std: a sequence has any unit


class Graph(Builder):
    """Each call makes a Keras layer and applies it to symbolic tensors."""

    def emit(self, kind: str, token: str, x: Tensor, **args: Any) -> Tensor:
        return LAYERS_BY_SIDES[self.backbone.SIDES][kind](name=self.name(token), **args)(x)


def assemble(config: Config, name: str | None = None) -> keras.Model:
    """The functional model of a configuration, with random weights: raw image or sequence in, head's output out."""
    g, pre, sides = Graph(config.backbone), config.preprocess, config.backbone.SIDES
    with _quick_variables():
        image = keras.Input(config.input_shape, name=INPUTS[sides])
        x = Preprocessing(pre.mean, pre.std, config.to_dict(), full=FULL[sides], name="stem_preprocess")(image)
        outputs = g.network(x, config.head)
    with recursion(len(tally(config))):
        return keras.Model(image, outputs if outputs[1:] else outputs[0], name=name or config.name)


@contextlib.contextmanager
def recursion(layers: int) -> Iterator[None]:
    """Room for the block to make a `keras.Model` of so many layers, which Keras walks by recursion.

    Of our networks resnet1202 alone needs more than Python allows. Whoever calls `keras.models.clone_model` or
    `keras.saving.load_model` for it needs the room as well; saving it, its summary and its predictions do not.
    """
    before = sys.getrecursionlimit()
    if 2 * layers <= before:  # the other half is for whoever called
        yield
        return
    sys.setrecursionlimit(before + layers)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def sizes(model: Any, rows: Iterable[Row] = ()) -> dict[str, int]:
    """Learned parameters of each layer of a Keras model, in the order of `rows`, as `info` has them.

    Keras lists the layers of parallel branches by their depth instead; without rows, its order is what there is.
    """
    place = {row.layer: i for i, row in enumerate(rows)}
    layers = sorted(model.layers, key=lambda layer: place.get(layer.name, len(place)))
    return {layer.name: learned(layer) for layer in layers}


def learned(layer: Any) -> int:
    """Parameters that learn where nothing is frozen: all but the statistics of batch norm."""
    return sum(math.prod(v.shape) for v in layer.weights if v.name not in NON_TRAINABLE)


@contextlib.contextmanager
def _quick_variables() -> Iterator[None]:
    """TensorFlow makes a new kernel for every variable of a new name, half a millisecond each, a third of building.

    So each is made under one name and then given its own, which SavedModels and graphs show. There is no public way to
    name a variable that is there. A strategy's variables are several under one name: they are left alone.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def named(create: Any, **options: Any) -> Any:
        scope, name = tf.get_current_name_scope(), options["name"]
        variable = create(**{**options, "name": "variable/"})
        variable._handle_name = f"{scope}/{name}:0" if scope else f"{name}:0"
        return variable

    with contextlib.nullcontext() if tf.distribute.has_strategy() else tf.variable_creator_scope(named):
        yield
