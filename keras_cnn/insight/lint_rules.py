"""The rules of `lint`: each looks at one use of a layer, and tells what is wrong with it and what it costs, or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_cnn.insight.uses import Use, upwards
from keras_cnn.insight.windows import extent

Told = tuple[str, int | None]  # the message, and the parameters that could be left out


def _sides(*names: str) -> tuple[str, ...]:
    return tuple(name.format(n) for name in names for n in (1, 2, 3))


DENSE = ("Dense", "EinsumDense")
CONVOLUTIONS = _sides("Conv{}D", "Conv{}DTranspose", "DepthwiseConv{}D", "SeparableConv{}D")
PADDINGS = (*_sides("ZeroPadding{}D"), "Pad")
SILENT = (*_sides("SpatialDropout{}D"), "Dropout", "Identity", "ActivityRegularization")  # at prediction
# Sums of positions, or positions moved about: linear, and without weights.
ARRANGING = (
    *_sides("Cropping{}D", "AveragePooling{}D", "GlobalAveragePooling{}D", "UpSampling{}D"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Fit", "LastStep"),
)
ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "Silu", "Gelu", "Sigmoid", "Tanh")
BY_POSITION = (*_sides("MaxPooling{}D", "GlobalMaxPooling{}D"), *ACTIVATIONS)
NORMS = ("BatchNormalization", "GroupNormalization", "LayerNormalization")
HALVES = ("float16", "bfloat16")


def _is_linear(activation: Any) -> bool:
    return getattr(activation, "__name__", "linear") == "linear"


def _weighs(use: Use) -> bool:
    """Whether it begins as a linear map with weights."""
    return use.of(*CONVOLUTIONS, *DENSE)


def _map(use: Use) -> bool:
    """Whether it is a linear map with weights, and no activation of its own behind it."""
    return _weighs(use) and _is_linear(use.layer.activation)


def _nothing(use: Use) -> bool:
    return use.of(*SILENT) or (use.of("Activation") and _is_linear(use.layer.activation))


def _weightless(use: Use) -> bool:
    """Whether a linear map stays one beside it."""
    return use.of(*PADDINGS, *ARRANGING) or _nothing(use)


def _below(use: Use) -> Use | None:
    """The nearest thing before a use that is not linear without weights; None where any of them has further users."""
    for earlier in upwards(use):
        if not earlier.only:
            return None
        if not _weightless(earlier):
            return earlier
    return None


# --- linear maps behind each other ----------------------------------------------------------------------------------


def _sizes(use: Use) -> tuple[int, int]:
    """Channels in and out."""
    return use.inputs[0].shape[-1], use.output.shape[-1]


def _pointwise(use: Use) -> bool:
    return use.of("Dense") or math.prod(getattr(use.layer, "kernel_size", (2,))) == 1


def _on_purpose(first: Use, second: Use) -> bool:
    """Whether two maps have fewer parameters than the one that they are: a bottleneck, or a separable convolution."""
    (inputs, middle), (_, outputs) = _sizes(first), _sizes(second)
    depthwise = [use.of(*_sides("DepthwiseConv{}D")) for use in (first, second)]
    separable = any(depthwise) and any(map(_pointwise, (first, second)))
    return middle < min(inputs, outputs) or separable


def _together(first: Use, second: Use) -> tuple[str, int | None]:
    """What two maps are as one, and the parameters that this saves."""
    moved = any(use.of(*ARRANGING) for use in _between(second, first))
    if moved or not (_plain(first) and _plain(second)) or first.of("Dense") != second.of("Dense"):
        return "one linear map", None
    (inputs, _), (_, outputs) = _sizes(first), _sizes(second)
    sides = [] if first.of("Dense") else _window(first, second)
    name = "x".join(map(str, sides)) + " convolution" if sides else "dense layer"
    bias = outputs if first.layer.use_bias or second.layer.use_bias else 0
    saved = sum(use.layer.count_params() for use in (first, second)) - math.prod(sides) * inputs * outputs - bias
    return f"one {name} from {inputs} to {outputs} channels", saved if saved > 0 else None


def _plain(use: Use) -> bool:
    unlike = use.of(*_sides("Conv{}DTranspose", "DepthwiseConv{}D", "SeparableConv{}D"))
    return use.of("Dense", *_sides("Conv{}D")) and not unlike and getattr(use.layer, "groups", 1) == 1


def _window(first: Use, second: Use) -> list[int]:
    """Of two convolutions as one: the second's entries lie as far apart as the first strides."""
    reach = lambda layer: map(extent, layer.kernel_size, layer.dilation_rate)  # noqa: E731
    sides = zip(reach(first.layer), reach(second.layer), first.layer.strides, strict=True)
    return [n + (m - 1) * stride for n, m, stride in sides]


def _between(use: Use, end: Use) -> Iterator[Use]:
    for earlier in upwards(use):
        if earlier is end:
            return
        yield earlier


def linear_linear(use: Use) -> Told | None:
    first = _below(use) if _weighs(use) and len(use.twins) == 1 else None
    if first is None or not _map(first) or _on_purpose(first, use):
        return None
    both, saved = _together(first, use)
    told = f"follows {first.name} with nothing between, and both are {both}: put an activation there, or leave one out."
    return told, saved


def missing_activation(use: Use) -> Told | None:
    norm = _below(use) if _weighs(use) and len(use.twins) == 1 else None
    first = _below(norm) if norm is not None and norm.of("BatchNormalization") else None
    if norm is None or first is None or not _map(first) or _on_purpose(first, use):
        return None
    told = f"follows {first.name} and {norm.name} with no activation, and all are one linear map at prediction: "
    return f"{told}put one behind {norm.name}.", None


# --- norms ----------------------------------------------------------------------------------------------------------


def _users(use: Use) -> Iterator[Use]:
    """What takes the output of a use, whatever is linear without weights passed over."""
    for user in use.behind:
        yield from _users(user) if _weightless(user) and not user.ends else [user]


def affine_norm(use: Use) -> Told | None:
    """Behind a linear map the missing activation is what there is to tell; in a bottleneck there is none on purpose."""
    if not use.of(*NORMS) or use.ends or len(use.twins) > 1:
        return None
    users, first = list(_users(use)), _below(use)
    if not all(_weighs(user) and len(user.twins) == 1 for user in users) or (first is not None and _map(first)):
        return None
    shifts = all(user.layer.use_bias and not _padded_with_zeros(user, use) for user in users)
    could = {"scale": getattr(use.layer, "gamma", None), "center": use.layer.beta if shifts else None}
    held = {option: weight for option, weight in could.items() if weight is not None}
    if not users or not held:
        return None
    names, options = ", ".join(user.name for user in users), " and ".join(f"{option}=False" for option in held)
    told = f"goes to {names} alone, whose weights can do the same: give {options}."
    return told, sum(math.prod(weight.shape) for weight in held.values())


def _padded_with_zeros(user: Use, norm: Use) -> bool:
    """Whether a map sees zeros at a border, where what the norm adds is none of its biases."""
    itself = getattr(user.layer, "padding", "valid") != "valid" and not _pointwise(user)
    return itself or any(earlier.of(*PADDINGS) for earlier in _between(user, norm))


def bias_before_norm(use: Use) -> Told | None:
    bias = getattr(use.layer, "bias", None)
    if not _map(use) or bias is None or not all(map(_subtracted, use.twins)):
        return None
    return "has a bias that the norms behind it subtract again: give use_bias=False.", math.prod(bias.shape)


def _subtracted(bias: Use) -> bool:
    """Whether a constant for each channel in a use's output is gone behind the next norms, wherever it goes."""
    open_, seen = [bias], {bias}
    while open_:
        use = open_.pop()
        if use.ends or not use.behind:
            return False
        for user in {*use.behind} - seen:
            seen.add(user)
            if _passes_constants(user):
                open_.append(user)
            elif not _takes_away(user, bias):
                return False
    return True


def _passes_constants(use: Use) -> bool:
    whole = use.of("Add", "Identity", *_sides("MaxPooling{}D", "AveragePooling{}D", "UpSampling{}D", "Cropping{}D"))
    return whole or (use.of("Activation") and _is_linear(use.layer.activation))


def _takes_away(norm: Use, bias: Use) -> bool:
    if norm.of("BatchNormalization"):  # one whose statistics stay subtracts what it always did
        return norm.training is not False and (norm.layer.trainable or not bias.layer.trainable)
    return norm.of("GroupNormalization") and norm.layer.groups in (-1, norm.output.shape[-1])


def untrained_norm(use: Use) -> Told | None:
    if not use.of("BatchNormalization") or (use.layer.trainable and use.training is not False):
        return None
    import keras

    stored = (use.layer.moving_mean, use.layer.moving_variance)
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(v)) for v in stored)
    if mean.any() or (variance != 1).any():
        return None
    why = "training=False" if use.layer.trainable else "trainable=False"
    told = f"has {why} and statistics that were never trained, mean 0 and variance 1, so that it normalises nothing: "
    return f"{told}load weights, or let it learn.", None


def dropout_before_norm(use: Use) -> Told | None:
    if not use.of("BatchNormalization"):
        return None
    for earlier in upwards(use):
        if _drops(earlier):
            told = f"stores the variance of what {earlier.name} leaves in training, which at prediction is another: "
            return f"{told}put the dropout behind the last norm.", None
        if not (_weighs(earlier) or earlier.of(*BY_POSITION) or _weightless(earlier)):
            return None
    return None


def _drops(use: Use) -> bool:
    """Of single values or channels; a whole branch dropped is another thing, stochastic depth."""
    whole = (getattr(use.layer, "noise_shape", None) or (None,))[1:]
    depth = bool(whole) and all(n == 1 for n in whole)
    return use.of("Dropout", "GaussianDropout") and use.layer.rate > 0 and not depth


# --- what runs otherwise than it was meant --------------------------------------------------------------------------


def stride_of_one(use: Use) -> Told | None:
    strides = getattr(use.layer, "strides", None)
    if strides is None or use.of(*_sides("Conv{}DTranspose")):
        return None
    source = next((earlier for earlier in upwards(use) if not earlier.of(*PADDINGS)), None)
    sides = (source.output if source else use.inputs[0]).shape[1:-1]
    strides = (strides,) * len(sides) if isinstance(strides, int) else tuple(strides)
    if not any(n == 1 and stride > 1 for n, stride in zip(sides, strides, strict=True)):
        return None
    told = f"strides by {max(strides)} over a map of {'x'.join(map(str, sides))}, where there is nowhere to go: "
    return f"{told}give larger images, or fewer strides.", None


def half_output(use: Use) -> Told | None:
    dtype = str(use.output.dtype)
    if not use.ends or dtype not in HALVES:
        return None
    return f"gives the model's output in {dtype}, too few digits for scores and losses: give it dtype='float32'.", None


def lambda_layer(use: Use) -> Told | None:
    if not use.of("Lambda"):
        return None
    told = "holds Python code, which keras.saving.load_model refuses to read: make it a registered layer, or keras.ops."
    return told, None


def no_xla(use: Use) -> Told | None:
    if getattr(use.layer, "supports_jit", True):
        return None
    told = "cannot be compiled by XLA, so that Keras compiles none of the model: do its work in the data."
    return told, None


RULES: dict[str, Callable[[Use], Told | None]] = {
    "linear-linear": linear_linear,
    "missing-activation": missing_activation,
    "affine-norm": affine_norm,
    "bias-before-norm": bias_before_norm,
    "untrained-norm": untrained_norm,
    "dropout-before-norm": dropout_before_norm,
    "stride-of-one": stride_of_one,
    "half-output": half_output,
    "lambda-layer": lambda_layer,
    "no-xla": no_xla,
}
