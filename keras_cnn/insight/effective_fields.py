"""Which positions of the input matter to a layer, and how much: the effective receptive field, by gradients."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight.gradients import gradients
from keras_cnn.insight.graphs import graph_of
from keras_cnn.models.fields import known_options

if TYPE_CHECKING:
    import keras

LEAST = 1 - 0.9545  # of the largest gradient; two standard deviations of a Gaussian hold 95.45 %
NOISE, AT_ONCE = 16, 16  # random inputs, and how many inputs have their gradients at once


@known_options
@dataclass(frozen=True)
class EffectiveField:
    """How much each position of the input matters to one position of a layer's output.

    map: float64, (height, width) of the input, or (time,): the size of the gradient, as a share of the largest.
    size: side of a square of as many positions as have more than 4.55 % of it; of sequences, the number of them.
    position: of the layer's output, the one that was looked at; () where it has none, as behind a global pooling.
    """

    map: np.ndarray
    size: float
    position: tuple[int, ...]


@known_options
def effective_field(model: keras.Model, layer: str, images: Any = None, seed: int = 0) -> EffectiveField:
    """The effective receptive field of the centre of a layer's output (Luo et al. 2016, 1701.04128).

    The theoretical field (`receptive_field`) holds whatever an output could depend on. Far fewer paths lead to its
    border than to its centre, so that the gradient falls off like a Gaussian: under random weights of n layers the
    effective size grows as sqrt(n), where the theoretical grows as n (section 2). Its size is measured as in section 3:
    positions with more than 1 - 95.45 % of the largest gradient are counted, and the root is taken.

    The gradient is that of the sum over the output's channels, with signs drawn anew for each image; its root mean
    square over images and input channels is then the size of all channels' gradients, none of which cancel.

    model: a functional or sequential Keras model with one input of floats, channels last; run as at prediction.
    layer: its name, as in `model.summary()`. A network that `build` gives random weights starts with residual branches
        at 0, and so sees no more than its shortcuts do.
    images: (n, height, width, channels), or sequences (n, time, channels), as the model takes them; they may be larger
        than its field where the model leaves its size open. By default 16 of noise: pixels from 0 to 255 for a network
        of ours, else of mean 0 and spread 1.
    seed: of the noise and the signs.
    Raises BadSpec for a model without a graph, with several inputs or an open size that no images settle, and a layer
    that is not there; BadData for images of another shape, and where no input has a gradient.

    >>> import keras_cnn as kc
    >>> net = kc.build("resnet18.tiny_in200", input_shape=(128, 128, 3))
    >>> field = kc.insight.effective_field(net, "stage2_block2_act")
    >>> field.map.shape, field.size < kc.insight.receptive_field(net)["stage2_block2_act"].size[0]
    ((128, 128), True)
    """
    import keras

    rng = np.random.default_rng(seed)
    output = _output(model, layer)
    inputs = _noise(model, rng) if images is None else _checked(model, images)
    inner = keras.Model(model.inputs[0], output)
    position: tuple[int, ...] = ()
    total = np.zeros(inputs.shape[1:-1])
    for start in range(0, len(inputs), AT_ONCE):
        some = inputs[start : start + AT_ONCE]
        shape = inner.compute_output_shape(some.shape)
        position = tuple(n // 2 for n in shape[1:-1])
        signs = rng.choice([-1.0, 1.0], (len(some), shape[-1])).astype("float32")
        _, (gradient,) = gradients(_centre(inner, position, signs), [some])
        total += np.square(gradient.astype("float64")).sum((0, -1))
    size = np.sqrt(total)
    if not 0 < size.max() < np.inf:
        raise BadData(f"{layer}: no position of these images has a gradient that is a number above 0: give others.")
    share = size / size.max()
    return EffectiveField(share, float((share > LEAST).sum() ** (1 / share.ndim)), position)


def _centre(model: Any, position: tuple[int, ...], signs: np.ndarray) -> Callable[[Any], Any]:
    """The sum over images and channels, with signs, of what a model gives at one position."""
    import keras

    def value(x: Any) -> Any:
        y = model(x, training=False)
        at_centre: Any = keras.ops.cast(y[(slice(None), *position)], "float32")
        return keras.ops.sum(at_centre * keras.ops.convert_to_tensor(signs))  # torch has no gradients through NumPy

    return value


def _output(model: Any, layer: str) -> Any:
    """The symbolic output of a layer of a functional model of one input."""
    graph = graph_of(model)
    if graph is None:
        raise BadSpec(
            f"{getattr(model, 'name', model)!r} has no graph: give a functional model, or a sequential one that is "
            "built; a subclassed model hides what its layers give."
        )
    if len(graph.inputs) > 1 or len(graph.inputs[0].shape) < 3 or "float" not in graph.inputs[0].dtype:
        raise BadSpec(f"{model.name}: give a model with one input of floats, (batch, ..., channels).")
    operations = {operation.name: operation for operation in graph.operations}
    if layer not in operations:
        near = difflib.get_close_matches(str(layer), operations, 3, 0.5) or list(operations)[-3:]
        raise BadSpec(f"{model.name} has no layer {layer!r}; it has {', '.join(near)}.")
    nodes = operations[layer]._inbound_nodes
    if len(nodes) > 1 or len(nodes[0].outputs) > 1:
        raise BadSpec(f"{layer} is called several times or gives several outputs: name a layer with one.")
    return nodes[0].outputs[0]


def _noise(model: Any, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(model.inputs[0].shape)[1:]
    if None in shape:
        raise BadSpec(f"{model.name} leaves its input's size open, {shape}: give images.")
    pixels = any(getattr(layer, "full", None) == 255 for layer in model.layers)
    noise = rng.uniform(0, 255, (NOISE, *shape)) if pixels else rng.normal(size=(NOISE, *shape))
    return noise.astype("float32")


def _checked(model: Any, images: Any) -> np.ndarray:
    images, wanted = np.asarray(images), tuple(model.inputs[0].shape)
    fits = len(images.shape) == len(wanted) and all(w in (None, n) for w, n in zip(wanted, images.shape, strict=True))
    if not fits or not len(images):
        raise BadData(f"images of shape {images.shape}: {model.name} takes {wanted}, None standing for any number.")
    return images.astype("float32")
