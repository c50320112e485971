"""What a network is, as data: frozen dataclasses, and the arithmetic that they need.

Nothing here imports Keras, so that listing and describing networks costs no framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from keras_cnn.errors import BadSpec
from keras_cnn.models.fields import conform, held_to, known_options, one_of, within, written

NORMS = ("batch", "layer", "instance", "group:N", "none")
NUMERICS = ("norm_eps", "norm_momentum", "pad", "pool_pad", "avg_pad")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A Spec may come from a stranger's file, and is counted before anything else is known of it. These bounds are far above
# every network: resnet1202 has 600 blocks, efficientnet_l2 8,256 channels, and compound scaling multiplies neither by
# more than 7 with phi=10.
MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES = 5_000, 2**20, 2**31 - 1
LONGEST_SIDE, LONGEST_STRIDE = 2**14, 32  # pixels
LEAST_EPSILON = 1e-12  # float32 still tells it from 0
LONGEST_NAME = 1_000  # characters of a class's name
WIDEST_WINDOW = 2**32  # values of pixels

# Keras' activations that keep a tensor's shape and take nothing else; one that somebody registered is "package>name".
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The numbers that define a network; `features` writes it with a builder.

    Subclasses add their own fields, with what these may be, and implement `features`. The fields here are those that
    every family understands; the last group are numerics, which weights bring with them.
    """

    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "merge": ("add", "concat"),
        "output_stride": (8, 16, 32),
        "pad": ("torch", "same"),
        "pool_pad": ("lowest", "zero"),
        "avg_pad": ("include", "exclude"),
    }
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {"classes": (0, MOST_CLASSES), "norm_momentum": (0, 1)}

    input_shape: tuple[int | None, int | None, int] = (224, 224, 3)
    classes: int = 1000
    norm: str = "batch"
    act: str = "relu"
    merge: str = "add"
    output_stride: int = 32
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    # NUMERICS, borne by the weights. Keras' momentum is 1 - torch's.
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    pad: str = "torch"  # strided windows: "torch" pads both sides alike, "same" as TensorFlow does
    pool_pad: str = "lowest"  # border of a padded max-pool: "lowest" (torch) or "zero" (keras.applications)
    avg_pad: str = "exclude"  # whether a padded average-pool counts its border as zeros: "include", or "exclude" it

    def __post_init__(self) -> None:
        _check_shape(self.input_shape)
        conform(self)
        check_norm(self.norm)
        check_activation("act", self.act)
        for name, choices in self.CHOICES.items():
            one_of(name, getattr(self, name), choices)
        for name, bounds in self.BOUNDS.items():
            within(name, getattr(self, name), *bounds)
        for name in ("drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)!r}: give a probability from 0 up to, not including, 1.")
        if not LEAST_EPSILON <= self.norm_eps <= 1:
            raise BadSpec(f"norm_eps={self.norm_eps!r}: give a number from {LEAST_EPSILON} to 1.")

    @property
    def family(self) -> str:
        """Name under which the configuration file stores this kind of Spec."""
        return type(self).__name__

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names from the input to the output, without the head."""
        raise NotImplementedError

    def features(self, g: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """Write the backbone with builder `g`; yields (stage, its output) from `stem` upwards."""
        raise NotImplementedError

    def scaled(self, depth: float, width: float, resolution: float) -> Self:
        """This network with its depth, width and resolution multiplied (1905.11946); BadSpec where it has no rule."""
        raise BadSpec(f"{self.family} has no rule for scaling: EfficientNet and ResNet have one.")

    def resized(self, resolution: float) -> tuple[int | None, int | None, int]:
        """The input shape with height and width multiplied; unknown ones stay so."""
        *sides, channels = self.input_shape
        height, width = (None if n is None else round(n * resolution) for n in sides)
        return height, width, channels

    def auxiliary(self, g: Any, maps: Mapping[str, Any], head: Head) -> Any:
        """Write an auxiliary classifier on the feature maps, or nothing: None."""
        return None

    def with_(self, **changes: Any) -> Self:
        """A copy with the given fields changed; `None` leaves a field as it is."""
        changes = {k: v for k, v in changes.items() if v is not None}
        if unknown := changes.keys() - {f.name for f in dataclasses.fields(self)}:
            raise BadSpec(f"{self.family} has no {', '.join(sorted(unknown))}.")
        return dataclasses.replace(self, **changes)

    def with_numerics_of(self, other: Spec) -> Self:
        """A copy with the fields that weights bring."""
        return dataclasses.replace(self, **{name: getattr(other, name) for name in NUMERICS})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `catalog.spec_from_dict` reads them back."""
        return {"family": self.family, **dataclasses.asdict(self)}


@known_options
@dataclass(frozen=True, kw_only=True)
class Head:
    """The dense layers behind the backbone.

    classes: number of outputs; 0 ends the network at the pooled features.
    hidden: widths of dense layers before the classifier, each with hidden_activation and dropout.
    embedding: width of a linear, batch-normalised layer; with classes=0 its output, at length 1, is the network's
        (FaceNet, 1503.03832, uses 512 behind inception_resnet_v1).
    dropout: rate before every dense layer.
    pooling: "avg", "max", or None for none (then classes must be 0: the output is a feature map).
    activation: of the output; None gives logits.
    """

    classes: int
    hidden: tuple[int, ...] = ()
    embedding: int = 0
    dropout: float = 0.0
    pooling: str | None = "avg"
    hidden_activation: str = "relu"
    activation: str | None = "softmax"

    def __post_init__(self) -> None:
        conform(self)
        if not 0 <= self.classes <= MOST_CLASSES:
            raise BadSpec(f"classes={self.classes}: give the number of classes, or 0 for no classifier.")
        within("hidden", self.hidden, 1, MOST_CHANNELS)
        within("layers in hidden", len(self.hidden), 0, MOST_BLOCKS)
        within("embedding", self.embedding, 0, MOST_CHANNELS)
        if not 0 <= self.dropout < 1:
            raise BadSpec(f"dropout={self.dropout!r}: give a probability from 0 up to, not including, 1.")
        check_activation("hidden_activation", self.hidden_activation)
        if self.activation is not None:
            check_activation("activation", self.activation)
        one_of("pooling", self.pooling, ("avg", "max", None))
        if self.pooling is None and (self.classes or self.hidden or self.embedding):
            raise BadSpec("a classifier needs pooled features: give pooling='avg' or 'max', or classes=0.")
        if self.hidden and not self.classes:
            raise BadSpec("hidden layers without a classifier: give classes, or leave hidden empty.")

    def for_classes(self, classes: int) -> Head:
        """The same for another number of classes; hidden layers, which were of the old ones, are left out."""
        hidden = self.hidden if classes == self.classes else ()
        pooling = self.pooling or ("avg" if classes else None)
        return dataclasses.replace(self, classes=classes, hidden=hidden, pooling=pooling)


@known_options
@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What weights expect of an image, from the file to the first convolution.

    mean, std: in units of 0..1, one a channel; the network applies them itself to raw 0..255 values.
    size: (height, width) of evaluation; `crop`: share of the resized short side that the centre crop keeps.
    interpolation: of the resize: bicubic, bilinear, nearest or lanczos.
    mode: "center" resizes the short side to floor(size / crop) and crops; "squash" ignores the aspect ratio.
    window: the values of images of more than 8 bits that become 0 and 255, such as (0, 4095) for X-rays of 12 bits;
        None where the network has seen none. `load_data` finds it, `fine_tune` keeps it with the weights.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    interpolation: str = "bicubic"
    mode: str = "center"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        conform(self)
        check_window(self.window)
        if not self.mean or len(self.mean) != len(self.std):
            raise BadSpec(f"mean has {len(self.mean)} and std {len(self.std)} numbers: give both one for each channel.")
        if min(self.std) <= 0:
            raise BadSpec(f"std={reprlib.repr(self.std)}: give numbers above 0, since pixels are divided by them.")
        within("std", self.std, 1e-7, 1000)  # with these, float32 holds every pixel
        within("mean", self.mean, -1000, 1000)
        within("size", self.size, 1, LONGEST_SIDE)
        one_of("interpolation", self.interpolation, ("bicubic", "bilinear", "nearest", "lanczos"))
        one_of("mode", self.mode, ("center", "squash"))
        if not 0.01 <= self.crop <= 1:
            raise BadSpec(f"crop={self.crop!r}: give the share of the image that is kept, from 0.01 to 1.")

    @classmethod
    def of(cls, model: Any) -> Preprocess:
        """What the weights of a network of ours expect; a Preprocess is given back."""
        return model if isinstance(model, Preprocess) else cls(**record_of(model)["preprocess"])

    def for_channels(self, channels: int) -> Preprocess:
        """The same for another number of channels: each takes the mean of the given statistics."""
        if channels == len(self.mean):
            return self
        average = lambda values: (sum(values) / len(values),) * channels  # noqa: E731
        return dataclasses.replace(self, mean=average(self.mean), std=average(self.std))

    def at_size(self, size: tuple[int | None, int | None]) -> Preprocess:
        """The same at another evaluation size; an unknown height or width (None) changes nothing."""
        if None in size or size == self.size:
            return self
        return dataclasses.replace(self, size=size)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that a network must remember beside its arrays: `config.json`, and the record inside the model.

    architecture: catalogue name, such as "resnet50". provenance: where the arrays come from, how they
    were trained, what they scored: free-form JSON, shown by `info` and on the model card.
    """

    architecture: str
    spec: Spec
    head: Head
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.architecture, re.ASCII):  # it names the Keras model, too
            raise BadSpec(f"architecture={reprlib.repr(self.architecture)}: give letters, digits, '_', '-' and '.'.")
        if self.class_names and len(self.class_names) != self.head.classes:
            raise BadSpec(f"{len(self.class_names)} class names for {self.head.classes} classes: give each its name.")
        check_class_names(self.class_names)
        written("provenance", self.provenance)
        for name, kind in FACTS.items():
            if name in self.provenance:
                held_to(f"provenance: {name}", self.provenance[name], kind)
        if not all(isinstance(key, str) and key.strip() for key in self.provenance.get("metrics", {})):
            raise BadSpec("provenance: a metric has no name: give each one.")
        if not all(isinstance(text, str) for text in self.provenance.get("class_descriptions", {}).values()):
            raise BadSpec("provenance: class_descriptions: give each class a text.")

    def with_(self, **changes: Any) -> Config:
        return dataclasses.replace(self, **changes)

    def as_base(self, tag: str | None = None) -> Config:
        """The same for a network with a new head: what was measured, and on what, held for the old classes.

        The licence holds on, and the limits do as those of the base. tag: the name of the weights, where they have one.
        """
        if not self.provenance:
            return self
        facts = self.provenance.get
        known = {
            "base": tag or facts("source", self.architecture),
            "base_source": facts("source"),
            "base_license": facts("license"),
            "base_limits": "\n".join(filter(None, (facts("limits"), facts("base_limits")))),
            "license": facts("license"),
        }
        return self.with_(provenance={key: value for key, value in known.items() if value})

    def to_dict(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "spec": self.spec.to_dict(),
            "head": dataclasses.asdict(self.head),
            "preprocess": dataclasses.asdict(self.preprocess),
            "class_names": list(self.class_names),
            "provenance": dict(self.provenance),
        }


# The kinds of those facts in a provenance that the package reads itself.
FACTS: dict[str, Any] = {
    **dict.fromkeys(
        ("source", "license", "data", "command", "limits", "base", "base_source", "base_license", "base_limits"),
        str | None,
    ),
    **dict.fromkeys(("metrics", "class_descriptions"), Mapping[str, Any]),
}


def record_of(model: Any) -> dict[str, Any]:
    """The record inside a network of ours, which a saved `.keras` file keeps; BadSpec for other models."""
    for layer in getattr(model, "layers", ()):
        if record := getattr(layer, "record", None):
            return record
    raise BadSpec(f"{getattr(model, 'name', model)!r} was not made by keras_cnn.build: it carries no record.")


def check_class_names(names: tuple[str, ...]) -> None:
    """BadSpec unless each class has a name of its own; whatever it is made of is shown as text."""
    written("class_names", names)
    if blank := [i for i, name in enumerate(names) if not name.strip()]:
        raise BadSpec(f"class_names: the name of class {blank[0]} is empty: give each a name.")
    if long := [name for name in names if len(name) > LONGEST_NAME]:
        raise BadSpec(
            f"class_names: {reprlib.repr(long[0])} has {len(long[0])} characters: give names of at most {LONGEST_NAME}."
        )
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise BadSpec(f"class_names: {reprlib.repr(twice)} is the name of two classes: give each a name of its own.")


def check_activation(name: str, activation: str) -> None:
    """BadSpec unless Keras has the activation, or it is the name of a registered one, which Keras will look up."""
    if ">" not in activation and activation not in ACTIVATIONS:
        near = difflib.get_close_matches(activation[:40], ACTIVATIONS, 3, 0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise BadSpec(f"{name}={reprlib.repr(activation)}: Keras has no such activation that serves here.{hint}")


def keep_window(model: Any, window: tuple[float, float] | None) -> None:
    """Let a network remember how images of more than 8 bits were seen when it learnt; one of another make cannot."""
    with contextlib.suppress(BadSpec):
        record_of(model)["preprocess"]["window"] = window


def check_window(window: Any) -> None:
    """BadSpec for a window that is no pair of numbers, the lower one first."""
    low, high = held_to("window", window, tuple[float, float] | None) or (0, 1)
    if not -WIDEST_WINDOW <= low < high <= WIDEST_WINDOW:
        raise BadSpec(f"window={window!r}: give the values that become 0 and 255, the lower one first.")


def check_norm(norm: str) -> int | None:
    """Number of groups of a group-normalisation name (None for the other kinds); raises BadSpec."""
    if norm in ("batch", "none"):
        return None
    if norm in ("layer", "instance"):
        return {"layer": 1, "instance": -1}[norm]
    if found := re.fullmatch(r"group:([1-9][0-9]{0,6})", norm):
        return int(found[1])
    raise BadSpec(f"norm={norm!r}: choose {', '.join(NORMS)} (N groups, such as group:32).")


def rounded_width(exact: float, least: float = 0.9) -> int:
    """The nearest multiple of 8, but never less than `least` of the exact width (1905.11946, its code)."""
    width = max(8, int(exact + 4) // 8 * 8)
    return width + 8 if width < least * exact else width


def stage_plan(strides: tuple[int, ...], stem_stride: int, output_stride: int) -> list[tuple[int, int, int]]:
    """(stride, dilation of the first block, dilation of the rest) for each stage.

    Once the output stride is reached, further strides turn into dilation, and the first block of a
    dilated stage keeps the dilation of the stage before (DeepLab, 1606.00915; as timm has it).
    """
    plan, reached, dilation = [], stem_stride, 1
    for stride in strides:
        first = dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        plan.append((stride, first, dilation))
    return plan


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> Iterator[float]:
    """Stochastic depth: rates that grow linearly from 0 to `rate` over all blocks (1603.09382, eq. 4)."""
    blocks = sum(depths)
    return (rate * i / max(blocks - 1, 1) for i in range(blocks))


def out_size(size: int | None, window: int, stride: int, padding: str, dilation: int = 1) -> int | None:
    """Length of a convolution's or pool's output along one axis; None stays None."""
    if size is None:
        return None
    if padding == "same":
        return math.ceil(size / stride)
    return (size - dilation * (window - 1) - 1) // stride + 1


def _check_shape(shape: tuple[int | None, int | None, int]) -> None:
    good = isinstance(shape, tuple | list) and len(shape) == 3 and shape[-1] is not None
    if not good or not all(n is None or (isinstance(n, int) and n > 0) for n in shape):
        raise BadSpec(
            f"input_shape={reprlib.repr(shape)}: give (height, width, channels); height and width may be None."
        )
    within("sides of input_shape", tuple(n for n in shape[:2] if n), 1, LONGEST_SIDE)
    within("channels of input_shape", shape[-1], 1, MOST_CHANNELS)
