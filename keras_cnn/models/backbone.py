"""What stands below the head of a network, as data, and the arithmetic that families share.

Nothing here imports Keras, so that listing and describing networks costs no framework.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from keras_cnn.errors import BadSpec
from keras_cnn.models.fields import conform, one_of, within

NORMS = ("batch", "layer", "instance", "group:N", "none")
NUMERICS = ("norm_eps", "norm_momentum", "pad", "pool_pad", "avg_pad")

# A configuration may come from a stranger's file, and is counted before anything else is known of it. These bounds are
# far above every network: resnet1202 has 600 blocks, efficientnet_l2 8,256 channels, and compound scaling multiplies
# neither by more than 7 with phi=10.
MOST_BLOCKS, MOST_CHANNELS = 5_000, 2**20
LONGEST_STRIDE = 32
LONGEST_SEQUENCE = 2**24  # steps; six minutes of sound at 44.1 kHz
LEAST_EPSILON = 1e-12  # float32 still tells it from 0

# Keras' activations that keep a tensor's shape and take nothing else; one that somebody registered is "package>name".
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The numbers that define a network below its head; `features` writes it with a builder.

    A family is a subclass: it adds its own fields, with what these may be, and implements `stages` and `features`. The
    fields here are those that every family understands; the last group are numerics, which weights bring with them.

    weight_standardised: kernels are brought to mean 0 and variance 1, each filter by itself, whenever they are used
        (Qiao et al. 2019, 1903.10520, section 3.1). With norm="group:32" networks then learn in batches of any size as
        well as with batch norm in large ones (BiT, 1912.11370). Convolutions that no norm follows stay plain: those of
        squeeze-excite, projections straight into a sum of activated maps, and the head's.
    """

    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "merge": ("add", "concat", "none"),
        "output_stride": (8, 16, 32),
        "pad": ("torch", "same"),
        "pool_pad": ("lowest", "zero"),
        "avg_pad": ("include", "exclude"),
    }
    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {"norm_momentum": (0, 1)}

    SIDES: ClassVar[int] = 2  # axes of its input beside batch and channels: height and width; of a sequence time alone

    norm: str = "batch"
    weight_standardised: bool = False
    act: str = "relu"
    merge: str = "add"
    output_stride: int = 32
    drop_path_rate: float = 0.0
    # NUMERICS, borne by the weights. Keras' momentum is 1 - torch's.
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    pad: str = "torch"  # strided windows: "torch" pads both sides alike, "same" as TensorFlow does
    pool_pad: str = "lowest"  # border of a padded max-pool: "lowest" (torch) or "zero" (keras.applications)
    avg_pad: str = "exclude"  # whether a padded average-pool counts its border as zeros: "include", or "exclude" it

    def __post_init__(self) -> None:
        conform(self)
        check_norm(self.norm)
        if self.weight_standardised and self.norm == "none":
            raise BadSpec(
                "weight_standardised=True with norm='none': kernels of variance 1 make maps larger from layer to layer "
                "where no norm brings them back: give a norm, such as norm='group:32'."
            )
        check_activation("act", self.act)
        for name, choices in self.CHOICES.items():
            one_of(name, getattr(self, name), choices)
        for name, bounds in self.BOUNDS.items():
            within(name, getattr(self, name), *bounds)
        if not 0 <= self.drop_path_rate < 1:
            raise BadSpec(f"drop_path_rate={self.drop_path_rate!r}: give a probability from 0 up to, not including, 1.")
        if self.drop_path_rate and not self.residual:
            raise BadSpec(
                "drop_path_rate drops a block and keeps its shortcut, which merge='none' leaves out: leave it at 0."
            )
        if not LEAST_EPSILON <= self.norm_eps <= 1:
            raise BadSpec(f"norm_eps={self.norm_eps!r}: give a number from {LEAST_EPSILON} to 1.")

    @property
    def family(self) -> str:
        """Name under which the configuration file stores this kind of backbone."""
        return type(self).__name__

    @property
    def residual(self) -> bool:
        """Whether blocks have shortcuts; without them it is a "plain" network (1512.03385, section 3.3)."""
        return self.merge != "none"

    @property
    def grouped(self) -> bool:
        """Whether its larger convolutions see channels in groups, or each by itself."""
        return False

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names from the input to the output, without the head."""
        raise NotImplementedError

    @property
    def receptive_field(self) -> int | None:
        """Steps that an output of a network for sequences sees; None for others, whose images say less."""
        return None

    def features(self, g: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """Write the backbone with builder `g`; yields (stage, its output) from `stem` upwards."""
        raise NotImplementedError

    def scaled(self, depth: float, width: float) -> Self:
        """This backbone with its depth and width multiplied (1905.11946); BadSpec where the family has no rule."""
        raise BadSpec(f"{self.family} has no rule for scaling: EfficientNet and ResNet have one.")

    def auxiliary(self, g: Any, maps: Mapping[str, Any], head: Any) -> Any:
        """Write an auxiliary classifier on the feature maps, or nothing: None."""
        return None

    def with_(self, **changes: Any) -> Self:
        """A copy with the given fields changed; `None` leaves a field as it is."""
        changes = {k: v for k, v in changes.items() if v is not None}
        if unknown := changes.keys() - {f.name for f in dataclasses.fields(self)}:
            raise BadSpec(f"{self.family} has no {', '.join(sorted(unknown))}.")
        return dataclasses.replace(self, **changes)

    def with_numerics_of(self, other: Backbone) -> Self:
        """A copy with the fields that weights bring."""
        return dataclasses.replace(self, **{name: getattr(other, name) for name in NUMERICS})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `registry.backbone_from_dict` reads them back."""
        return {"family": self.family, **dataclasses.asdict(self)}


class Variant(NamedTuple):
    """A network as it was published: its backbone, and what it was published with.

    size: of the images, in pixels; of sequences, in steps. dropout: before the classifier.
    """

    backbone: Backbone
    size: int = 224
    classes: int = 1000
    dropout: float = 0.0


def check_activation(name: str, activation: str) -> None:
    """BadSpec unless Keras has the activation, or it is the name of a registered one, which Keras will look up."""
    if ">" not in activation and activation not in ACTIVATIONS:
        near = difflib.get_close_matches(activation[:40], ACTIVATIONS, 3, 0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise BadSpec(f"{name}={reprlib.repr(activation)}: Keras has no such activation that serves here.{hint}")


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
    if padding in ("same", "causal"):
        return math.ceil(size / stride)
    return (size - dilation * (window - 1) - 1) // stride + 1
