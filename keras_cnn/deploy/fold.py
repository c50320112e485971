"""A network for prediction in fewer steps: batch norms and the scale of its input are part of its convolutions."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_cnn.errors import FoldWarning
from keras_cnn.insight import graphs
from keras_cnn.models.assemble import recursion
from keras_cnn.models.layers import BatchNormalization, Pad, Preprocessing, WeightStandardised, plain_silu

SIDE = 97  # positions that a network of any size is shown: odd, so that what is padded inside is seen
# Of the largest output: what rounding in another order may become, many layers on; the coarser, the more.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1}

# Layers that outputs can be scaled in: the kernel that makes them, and its axes that are outputs, from the last.
LINEAR: Mapping[type, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense), ("kernel", (-1,))),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), ("kernel", (-2, -1))),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), ("pointwise_kernel", (-1,))),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), ("kernel", (-2,))),
}
STEMS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
ZEROS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
# What does nothing at prediction.
TRAINING_ONLY = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)


def fold(model: Any) -> Any:
    """A copy for prediction whose batch norms are part of the linear maps that they follow (1712.05877, section 3.2).

    Linear maps are convolutions, depthwise, separable and transposed ones too, and dense layers. The scale by which raw
    pixels are multiplied goes into the first convolution; so does what is added to them, where that one pads with no
    zeros, which would have to be shifted as well. Kernels that are standardised each time they are used (1903.10520)
    are so once, in plain convolutions. Swish is two plain operations. Dropout and drop path are gone, and models inside
    of the model are laid open.

    Any functional or sequential Keras model will do. What cannot be folded stays as it is, such as a batch norm behind
    an addition: it is a layer of the copy, under its name (`unfolded`). The given model is left as it was, and nothing
    is shared. The copy's outputs are compared with the model's on noise before it is returned, to 1e-3 of the largest;
    where they differ, FoldWarning is given and the copy has nothing folded.
    """
    with recursion(len(model.layers)):
        flat = _laid_open(model)
        copy = _written(flat, _plan(flat))
        if not _agree(model, copy):
            text = f"{model.name} answers otherwise when it is folded, and is used as it is: please report its layers."
            warnings.warn(text, FoldWarning, stacklevel=2)
            copy = _written(flat, Plan())
    copy.jit_compile = model.jit_compile
    return copy


def unfolded(copy: Any) -> list[str]:
    """The names of the batch norms that are left in a folded copy: no linear map of their own is before them."""
    return [layer.name for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]


# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What becomes of the layers of a model, by their names.

    norms: the batch norms that each linear layer takes in, in order. stem: (layer, scale, shift) of the first
    convolution: what its inputs are multiplied by and what is added to its outputs' cause, or None. gone: layers that
    are left out. instead: others in the place of layers.
    """

    norms: dict[str, list[Any]] = field(default_factory=dict)
    stem: tuple[str, np.ndarray, np.ndarray] | None = None
    gone: set[str] = field(default_factory=set)
    instead: dict[str, Callable[[], Any]] = field(default_factory=dict)


class Graph:
    """The calls of a flat model. once: by name, layers that are called once, and by no option of training."""

    def __init__(self, model: Any) -> None:
        self.calls = graphs.calls(model.outputs, {id(tensor) for tensor in model.inputs})
        self.made_by = {id(tensor): call for call in self.calls for tensor in call.outputs}
        self.users: dict[int, list[Any]] = {}
        for call in self.calls:
            for tensor in call.input_tensors:
                self.users.setdefault(id(tensor), []).append(call)
        self.ends = {id(tensor) for tensor in model.outputs}
        often = Counter(call.operation.name for call in self.calls)
        self.once = {name for name, times in often.items() if times == 1}
        self.once -= {call.operation.name for call in self.calls if call.arguments.kwargs.get("training")}

    def before(self, call: Any) -> Any:
        """The call that alone gives this one its input, and gives it to no other; None where there is none."""
        if len(call.input_tensors) != 1:
            return None
        [given] = call.input_tensors
        made = self.made_by.get(id(given))
        if made is None or len(self.users[id(given)]) > 1 or id(given) in self.ends:
            return None
        return made if made.operation.name in self.once else None


def _plan(flat: Any) -> Plan:
    graph, plan = Graph(flat), Plan()
    for call in graph.calls:
        layer = call.operation
        if layer.name not in graph.once:
            continue
        if type(layer) in TRAINING_ONLY:
            plan.gone.add(layer.name)
        elif type(layer) in (layers.BatchNormalization, BatchNormalization):
            before = graph.before(call)
            while before is not None and before.operation.name in plan.gone:
                before = graph.before(before)
            if before is not None and _takes(before.operation, layer):
                plan.norms.setdefault(before.operation.name, []).append(layer)
                plan.gone.add(layer.name)
        elif type(layer) is Pad and layer.value == "lowest":
            made = graph.made_by.get(id(call.input_tensors[0]))
            if made is not None and graphs.activation_name(made.operation) in ("relu", "relu6"):
                # Nothing is lower than zero there: ranges that int8 is fitted to stay finite.
                plan.instead[layer.name] = lambda layer=layer: Pad.from_config({**layer.get_config(), "value": "zero"})
    if len(flat.inputs) == 1:
        _plan_stem(flat, graph, plan)
    return plan


def _takes(linear: Any, norm: Any) -> bool:
    """Whether a layer can scale and shift its outputs as a batch norm does."""
    if not _plain(linear) or linear.activation is not keras.activations.linear:
        return False
    rank = len(norm.input.shape)
    channels = 1 if getattr(linear, "data_format", None) == "channels_first" else rank - 1
    return norm.axis % rank == channels


def _plain(layer: Any) -> bool:
    """Whether a layer is a linear map of `LINEAR`, with no other numbers than its kernels and bias."""
    kind = layer.PLAIN if isinstance(layer, WeightStandardised) else type(layer)
    return kind in LINEAR and not getattr(layer, "lora_enabled", False) and not getattr(layer, "quantization_mode", "")


def _plan_stem(flat: Any, graph: Graph, plan: Plan) -> None:
    """Have the first convolution take in what is done to each channel of the input before it."""
    found, zeros, users = [], False, graph.users.get(id(flat.inputs[0]), [])
    while len(users) == 1 and users[0].operation.name in graph.once and len(users[0].outputs) == 1:
        [call] = users
        layer = call.operation
        if (made := _affine(layer)) is not None and not zeros:
            found.append((layer, *made))
        elif type(layer) in ZEROS or (type(layer) is Pad and layer.value == "zero" and not any(layer.paddings[-1])):
            zeros = True
        elif layer.name not in plan.gone:
            break
        users = [] if id(call.outputs[0]) in graph.ends else graph.users.get(id(call.outputs[0]), [])
    if not found or len(users) != 1 or users[0].operation.name not in graph.once:
        return
    stem, channels = users[0].operation, flat.inputs[0].shape[-1]
    kind = stem.PLAIN if isinstance(stem, WeightStandardised) else type(stem)
    floats = keras.backend.is_float_dtype(flat.inputs[0].dtype) and stem.compute_dtype == "float32"
    last = getattr(stem, "data_format", "") == "channels_last" and getattr(stem, "groups", 1) == 1
    if kind not in STEMS or not _plain(stem) or not floats or not last:
        return
    scale, shift = np.ones(channels), np.zeros(channels)
    for _, by, plus in found:
        scale, shift = scale * by, shift * by + plus
    if not (np.isfinite(scale).all() and np.isfinite(shift).all() and scale.all()):
        return
    names = [layer.name for layer, *_ in found]
    whole = stem.padding == "valid" and not zeros
    plan.stem = (stem.name, scale, shift if whole else np.zeros(channels))
    if whole or not shift.any():
        plan.gone.update(names)
    else:
        plan.gone.update(names[:-1])
        offset = (shift / scale).tolist()
        plan.instead[names[-1]] = lambda: layers.Rescaling(1.0, offset, name=names[-1], dtype="float32")


def _affine(layer: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) of a layer that does no more than that to the last axis, numbers or one a channel."""
    if type(layer) is Preprocessing:
        return np.asarray(layer._scale), np.asarray(layer._shift)
    if type(layer) is layers.Rescaling:
        found = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    elif type(layer) is layers.Normalization and not layer.invert and layer.mean is not None:
        mean, spread = _number(layer.mean), np.maximum(np.sqrt(_number(layer.variance)), keras.config.epsilon())
        found = (1 / spread).reshape(-1), (-mean / spread).reshape(-1)
        if not {*layer.axis} <= {-1, mean.ndim - 1}:
            return None
    else:
        return None
    return found if max(part.ndim for part in found) < 2 else None


# --- doing it ---------------------------------------------------------------------------------------------------------


def _laid_open(model: Any) -> Any:
    """The model itself; where models are inside, or it is sequential, a copy that is one graph of layers."""
    graph = graphs.walkable(model)
    order = graphs.calls(graph.outputs, {id(tensor) for tensor in graph.inputs})
    if graph is model and not any(graphs.graph_of(call.operation) for call in order):
        return model
    copies, names = dict[int, Any](), set[str]()

    def copied(operation: Any) -> Any:
        if not isinstance(operation, layers.Layer):
            return operation
        if id(operation) not in copies:
            config, name, more = operation.get_config(), operation.name, 1
            while name in names:  # layers of two models may have one name
                name, more = f"{operation.name}_{more}", more + 1
            names.add(name)
            copies[id(operation)] = operation.__class__.from_config({**config, "name": name})
        return copies[id(operation)]

    inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in graph.inputs]
    flat: Any = keras.Model(inputs, graphs.run(graph, inputs, of=copied), name=model.name)
    originals = {id(layer): layer for layer in model._flatten_layers(include_self=False)}
    for key, copy in copies.items():
        _keep(copy, originals[key].get_weights())
    return flat


def _written(flat: Any, plan: Plan) -> Any:
    """A copy of a flat model with all that is planned done."""
    stem, scale, shift = plan.stem or ("", np.ones(1), np.zeros(1))

    def clone(layer: Any) -> Any:
        copy = remade(layer)
        if getattr(copy, "activation", None) is keras.activations.silu:
            copy.activation = plain_silu
        return copy

    def remade(layer: Any) -> Any:
        if layer.name in plan.instead:
            return plan.instead[layer.name]()
        bias = {"use_bias": True} if layer.name in plan.norms or (layer.name == stem and shift.any()) else {}
        if isinstance(layer, WeightStandardised):
            return layer.PLAIN.from_config({**layer.plain_config(), **bias})
        return layer.__class__.from_config({**layer.get_config(), **bias})

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in plan.gone else layer(*args, **kwargs)

    copy: Any = keras.models.clone_model(flat, clone_function=clone, call_function=call)
    for layer in [layer for layer in copy.layers if layer.weights and layer.name not in plan.instead]:
        original = flat.get_layer(layer.name)
        if layer.name in plan.norms or layer.name == stem:
            _assign(layer, original, plan.norms.get(layer.name, []), (scale, shift) if layer.name == stem else None)
        elif isinstance(original, WeightStandardised):
            _keep(layer, [_number(original.standardised_kernel()), *original.get_weights()[1:]])
        else:
            _keep(layer, original.get_weights())
    return copy


def _assign(layer: Any, original: Any, norms: list[Any], stem: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Give a layer the numbers by which it does what the original does to scaled and shifted inputs, and norms then."""
    attribute, axes = LINEAR[type(layer)]
    standardised = isinstance(original, WeightStandardised)
    kernels = {
        name: _number(getattr(original, name)) for name in ("depthwise_kernel", attribute) if hasattr(layer, name)
    }
    if standardised:
        kernels[attribute] = _number(original.standardised_kernel())
    kernel = kernels[attribute]
    outputs = tuple(kernel.shape[axis] for axis in axes)
    bias = _number(original.bias) + np.zeros(outputs).reshape(-1)
    if stem is not None:
        scale, shift = (part[:, None] for part in stem)
        summed = (kernel * shift).sum(tuple(range(kernel.ndim - 2)))  # what a shift makes of every output
        bias = bias + (summed.reshape(-1) if len(axes) == 2 else summed.sum(0))
        kernel = kernel * scale
    for norm in norms:
        by = _number(norm.gamma, 1.0) / np.sqrt(_number(norm.moving_variance) + norm.epsilon)
        bias = (bias - _number(norm.moving_mean)) * by + _number(norm.beta)
        kernel = kernel * (by.reshape(outputs) if axes != (-2,) else by[:, None])
    for name, value in {**kernels, attribute: kernel}.items():
        getattr(layer, name).assign(value)
    if layer.bias is not None:
        layer.bias.assign(bias)


def _keep(layer: Any, weights: list[Any]) -> None:
    layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):  # Normalization computes with what it makes of its weights when it is built
        layer.finalize_state()


def _agree(model: Any, copy: Any) -> bool:
    """Whether two models answer noise alike, to rounding."""
    noise = np.random.default_rng(0)
    shapes = [tuple(side or SIDE for side in given.shape[1:]) for given in model.inputs]
    kinds = [one.dtype for one in model.inputs]
    given: Any = [noise.integers(0, 256, (2, *s)).astype(kind) for s, kind in zip(shapes, kinds, strict=True)]
    tolerance = max(TOLERANCE.get(layer.compute_dtype, 0.0) for layer in copy.layers)
    wanted, found = (keras.tree.flatten(m(given if given[1:] else given[0], training=False)) for m in (model, copy))
    for one, other in zip(map(graphs.array, wanted), map(graphs.array, found), strict=True):
        largest = np.abs(one[np.isfinite(one)]).max(initial=0)
        if one.shape != other.shape or not np.allclose(other, one, rtol=0, atol=tolerance * largest, equal_nan=True):
            return False
    return True


def _number(variable: Any, absent: float = 0.0) -> np.ndarray:
    """A variable, or a tensor, in float64; `absent` where the layer has none."""
    return np.asarray(absent if variable is None else ops.convert_to_numpy(variable), "float64")
