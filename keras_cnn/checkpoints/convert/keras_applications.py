"""Checkpoints of keras.applications: the legacy `.h5` files that it publishes.

Its v1 ResNets take BGR; the file's first kernel is turned to RGB here, so that every network of ours
takes RGB and no channel order has to be remembered.

The layers of its Inceptions have the names that Keras happened to give them, and Keras reads such files by the order
of their layers alone. So do we: `by_order` numbers a file's layers, `inception` the layers of our network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_cnn.checkpoints.convert.rename import Format, Rules
from keras_cnn.errors import WeightsMismatch
from keras_cnn.models import naming
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import IMAGENET_STD, Preprocess
from keras_cnn.models.shapes import Row, Shape, Tally

if TYPE_CHECKING:
    import numpy as np

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
NORMALIZATION = r"^normalization(_\d+)?/(mean|variance|count)$"  # an EfficientNet V1's layer, which has no counterpart
KERAS_LEAST_STD = 1e-7  # by which its layer divides at least


def resnet(backbone: Any) -> Rules:
    """keras.applications `resnet.py` and `resnet_v2.py`: stage1 is `conv2`, the shortcut is convolution 0."""
    preact = [
        (r"stage(\d)_block(\d+)_norm1", lambda s, b: f"conv{s + 1}_block{b}_preact_bn"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n - 1}_bn"),
        ("top_norm", "post_bn"),
    ]
    postact = [
        ("stem_norm", "conv1_bn"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n}_bn"),
        (r"stage(\d)_block(\d+)_shortcut_norm", lambda s, b: f"conv{s + 1}_block{b}_0_bn"),
    ]
    return [
        *(preact if backbone.preact else postact),
        ("stem_conv", "conv1_conv"),
        (r"stage(\d)_block(\d+)_conv(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n}_conv"),
        (r"stage(\d)_block(\d+)_shortcut_conv", lambda s, b: f"conv{s + 1}_block{b}_0_conv"),
        ("head_logits", "predictions"),
    ]


# Their names of an EfficientNet block's layers, by our names; V2 has another for its depthwise convolution.
BLOCK = {
    "expand_conv": "expand_conv",
    "expand_norm": "expand_bn",
    "depthwise_conv": "dwconv",
    "depthwise_norm": "bn",
    "se_reduce": "se_reduce",
    "se_expand": "se_expand",
    "project_conv": "project_conv",
    "project_norm": "project_bn",
}
V2_BLOCK = BLOCK | {"depthwise_conv": "dwconv2"}


def efficientnet(backbone: Any) -> Rules:
    """keras.applications `efficientnet.py` and `efficientnet_v2.py`: the blocks of stage 1 are block1a, block1b, ..."""
    ends = [(f"{end}_{ours}", f"{end}_{theirs}") for end in ("stem", "top") for ours, theirs in (CONV, NORM)]
    blocks = [
        (rf"stage(\d)_block(\d+)_{ours}", lambda s, b, theirs=theirs: f"block{s}{chr(ord('a') + b - 1)}_{theirs}")
        for ours, theirs in (V2_BLOCK if _is_v2(backbone) else BLOCK).items()
    ]
    return [*ends, *blocks, ("head_logits", "predictions")]


CONV, NORM = ("conv", "conv"), ("norm", "bn")


def _is_v2(backbone: Any) -> bool:
    return any(kind in ("er", "cn") for kind, *_ in backbone.blocks)


def inception(backbone: Any) -> Rules:
    """keras.applications `inception_v3.py` and `inception_resnet_v2.py`: the place of a layer among its kind."""
    numbers = {kind: count(1) for kind in ("conv", "batchnorm")}
    rows = [row for row in _in_keras_order(backbone) if row.kind in numbers]
    return [*((row.layer, f"{row.kind}:{next(numbers[row.kind])}") for row in rows), ("head_logits", "dense:1")]


def by_order(state: Mapping[str, Any], backbone: Any) -> Mapping[str, Any]:
    """An Inception's arrays under the place of their layer among its kind, in the order of the file.

    What `to_theirs` gives has these names already and stays.
    """
    if not backbone.family.startswith("Inception") or any(key.startswith("conv:") for key in state):
        return state
    layers: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        layer, _, variable = key.rpartition("/")
        layers.setdefault(layer, {})[variable] = value
    numbers = {kind: count(1) for kind in ("conv", "batchnorm", "dense")}
    kinds = {layer: _kind(variables) for layer, variables in layers.items()}
    names = {layer: f"{kind}:{next(numbers[kind])}" if kind else layer for layer, kind in kinds.items()}
    return {
        f"{names[layer]}/{variable}" if layer else variable: value
        for layer, variables in layers.items()
        for variable, value in variables.items()
    }


def _kind(variables: Mapping[str, Any]) -> str:
    if "kernel" in variables:
        return "conv" if len(variables["kernel"].shape) == 4 else "dense"
    return "batchnorm" if "moving_mean" in variables else ""


class _Output(NamedTuple):
    """Stands in for a tensor, as `Shape` does, and knows its row."""

    shape: tuple[int | None, ...]
    row: int


class _Wires(Tally):
    """Also notes which rows read the output of each."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.readers: list[list[int]] = []

    def emit(self, kind: str, token: str, x: Any, **args: Any) -> Any:
        row = len(self.rows)
        for tensor in x if isinstance(x, list) else [x]:
            if isinstance(tensor, _Output):
                self.readers[tensor.row].append(row)
        self.readers.append([])
        return _Output(super().emit(kind, token, x, **args).shape, row)


def _in_keras_order(backbone: Any) -> list[Row]:
    """Layers as Keras lists them: the farthest from the output first, and equally far ones branch by branch."""
    g = _Wires(backbone.with_(**numerics(backbone)))
    list(backbone.features(g, Shape((None, None, None, 3))))  # no size changes the order
    steps = [0] * len(g.rows)
    for i in reversed(range(len(g.rows))):
        steps[i] = 1 + max((steps[reader] for reader in g.readers[i]), default=0)
    return [g.rows[i] for i in sorted(range(len(g.rows)), key=lambda i: -steps[i])]


def preprocess(backbone: Any, state: Mapping[str, Any]) -> Preprocess:
    """ "caffe" of ResNet v1 (BGR, means of 0..255, no scale) in RGB; -1..1 for ResNet v2 and Inception; of an
    EfficientNet V1 what the file holds, of V2 ImageNet statistics, but x / 128 - 1 in S, M and L."""
    if _takes_bgr(backbone):
        return Preprocess(mean=CAFFE_MEAN, std=(1 / 255,) * 3, interpolation="bilinear")
    if backbone.family == "EfficientNet":
        half = (128 / 255,) * 3
        return Preprocess(mean=half, std=half) if _is_v2(backbone) and backbone.fixed_top else _normalization(state)
    return Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")


def _normalization(state: Mapping[str, Any]) -> Preprocess:
    """Mean and variance of the pixels, which are weights of an EfficientNet V1; ImageNet's where the file has none.

    The published files hold the standard deviation where the variance belongs, and Keras divides by its root once
    more (https://github.com/tensorflow/tensorflow/issues/49930). No pixels of 0..1 have a variance as large.
    """
    import numpy as np

    found = {key.partition("/")[2]: value for key, value in state.items() if re.match(NORMALIZATION, key)}
    if not found:
        return Preprocess()
    stem = naming.first_kernel(state)  # called alike there
    channels = np.shape(state[stem])[2] if stem else len(IMAGENET_STD)
    for name in ("mean", "variance"):
        if name not in found or np.shape(found[name]) != (channels,) or np.asarray(found[name]).dtype.kind != "f":
            raise WeightsMismatch(f"normalization/{name} has to hold {channels} numbers, one a channel of the image.")
    # As the shortest decimals that are these float32 numbers, so that ImageNet's are those of every other source.
    mean, variance = (np.array([float(str(n)) for n in found[name]]) for name in ("mean", "variance"))
    published = channels == len(IMAGENET_STD) and np.allclose(variance, IMAGENET_STD, rtol=1e-4, atol=0)
    with np.errstate(invalid="ignore"):  # what is no variance, `Preprocess` refuses
        std = variance if published else np.maximum(np.sqrt(variance), KERAS_LEAST_STD)
    return Preprocess(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def numerics(backbone: Any) -> dict[str, Any]:
    """TensorFlow's padding, and Keras' own norm."""
    if backbone.family == "EfficientNet":
        return {"pad": "same", "norm_eps": 1e-3, "norm_momentum": 0.9 if _is_v2(backbone) else 0.99}
    if backbone.family.startswith("Inception"):
        return {"avg_pad": "exclude", "norm_eps": 1e-3, "norm_momentum": 0.99}
    return {}  # the variants keras_resnet* have them


def _takes_bgr(backbone: Any) -> bool:
    return backbone.family == "ResNet" and not backbone.preact


def _turn_stem(value: np.ndarray, key: str, backbone: Backbone) -> np.ndarray:
    """BGR to RGB in the first kernel, and back."""
    turned = value.ndim == 4 and _takes_bgr(backbone) and naming.first_kernel([key])
    return value[:, :, ::-1] if turned else value


RULES = {"ResNet": resnet, "EfficientNet": efficientnet, "Inception": inception, "InceptionResNet": inception}
FORMAT = Format(
    name="keras.applications",
    rules=lambda backbone: RULES[backbone.family](backbone) if backbone.family in RULES else [],
    names={n: n for n in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
    separator="/",
    to_ours=lambda value, shape, key, backbone: _turn_stem(value, key, backbone),
    to_theirs=_turn_stem,
    preprocess=preprocess,
    ignored=NORMALIZATION,  # `preprocess` reads it
    numerics=numerics,
    constants=lambda backbone: {"gamma": 1.0} if backbone.family.startswith("Inception") else {},
    canonical=by_order,
)
