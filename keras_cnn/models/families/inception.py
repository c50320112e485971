"""Inception v3 and v4: modules as tables, and one short interpreter that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import Backbone, Variant
from keras_cnn.models.builder import Builder, Tensor

# An operation: "avg" and "max" pool over 3x3 (the maximum strides by 2); (filters, size) convolves; with a third
# entry, the stride, it does so without padding; a list of branches forks. A branch is a list of operations, a module
# one of branches, concatenated. A stage is a branch, then modules.
Operation = Any
Branch = list[Operation]
Module = list[Branch]
Stage = tuple[Branch, list[Module]]


def branch(g: Builder, x: Tensor, operations: Branch) -> Tensor:
    """Write operations one after the other."""
    for i, operation in enumerate(operations, 1):
        if operation == "avg":
            x = g.pool(x, "avg", 3, 1)
        elif operation == "max":
            x = g.pool(x, "max", 3, 2, padding="valid")
        elif isinstance(operation, list):
            x = module(g.at(f"fork{i}"), x, operation)
        else:
            filters, size, *stride = operation
            padding = {"stride": stride[0], "padding": "valid"} if stride else {}
            x = g.conv_norm_act(x, filters, size, number=i, **padding)
    return x


def module(g: Builder, x: Tensor, branches: Module) -> Tensor:
    """Write branches side by side and concatenate them (1409.4842, figure 2)."""
    outputs = [branch(g.at(f"branch{i}"), x, operations) for i, operations in enumerate(branches, 1)]
    return g.emit("concat", "concat", outputs)


@dataclass(frozen=True, kw_only=True)
class Inception(Backbone):
    """Szegedy et al. 2015 (1512.00567, v3) and 2016 (1602.07261, v4): factorised convolutions, grids reduced by
    stride and pool side by side.

    version: "v3" or "v4". aux: a second classifier on stage 3, whose loss helps training (1512.00567, section 4);
    the network then has two outputs, the auxiliary one last.
    """

    CHOICES = Backbone.CHOICES | {"version": ("v3", "v4")}
    RESIDUAL: ClassVar[bool] = False

    version: str = "v3"
    aux: bool = False
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride != 32:
            raise BadSpec(
                f"{self.family} reduces its grids by max-pools, of which Keras has no dilated ones: it takes "
                "output_stride=32 only."
            )
        if self.drop_path_rate and not self.RESIDUAL:
            raise BadSpec(f"{self.family} has no residual branches to drop: leave drop_path_rate at 0.")
        if self.merge != "add" and not self.RESIDUAL:
            raise BadSpec(f"{self.family} has no shortcuts, so that merge changes nothing: leave it at 'add'.")

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", "stage1", "stage2", "stage3", "stage4")

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for stage, (operations, modules) in zip(self.stages, STAGES[self.version], strict=True):
            x = branch(g.at(stage), x, operations)
            for b, table in enumerate(modules, 1):
                x = module(g.at(stage, f"block{b}"), x, table)
            yield stage, x

    def auxiliary(self, g: Builder, maps: Mapping[str, Tensor], head: Any) -> Tensor | None:
        if not self.aux or not head.classes:
            return None
        x = g.pool(maps["stage3"], "avg", 5, 3, padding="valid")
        x = g.conv_norm_act(x, 128, 1, number=1)
        x = g.conv_norm_act(x, 768, 5, number=2, padding="valid")
        return head.classify(g, g.emit("globalavg", "global", x))


STEM: Branch = [(32, 3, 2), (32, 3, 1), (64, 3)]
STAGE1: Branch = ["max", (80, 1), (192, 3, 1)]
ACROSS, DOWN = (1, 7), (7, 1)


def _v3_a(pool: int) -> Module:
    return [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (pool, 1)]]


def _v3_c(w: int) -> Module:
    return [
        [(192, 1)],
        [(w, 1), (w, ACROSS), (192, DOWN)],
        [(w, 1), (w, DOWN), (w, ACROSS), (w, DOWN), (192, ACROSS)],
        ["avg", (192, 1)],
    ]


V3_B: Module = [[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)], ["max"]]
V3_D: Module = [[(192, 1), (320, 3, 2)], [(192, 1), (192, ACROSS), (192, DOWN), (192, 3, 2)], ["max"]]
V3_FORK: Module = [[(384, (1, 3))], [(384, (3, 1))]]
V3_E: Module = [[(320, 1)], [(384, 1), V3_FORK], [(448, 1), (384, 3), V3_FORK], ["avg", (192, 1)]]

# Figures 3 to 8 of 1602.07261.
V4_STEM: list[Module] = [
    [["max"], [(96, 3, 2)]],
    [[(64, 1), (96, 3, 1)], [(64, 1), (64, ACROSS), (64, DOWN), (96, 3, 1)]],
    [[(192, 3, 2)], ["max"]],
]
V4_A: Module = [[(96, 1)], [(64, 1), (96, 3)], [(64, 1), (96, 3), (96, 3)], ["avg", (96, 1)]]
V4_REDUCTION_A: Module = [[(384, 3, 2)], [(192, 1), (224, 3), (256, 3, 2)], ["max"]]
V4_B: Module = [
    [(384, 1)],
    [(192, 1), (224, ACROSS), (256, DOWN)],
    [(192, 1), (192, DOWN), (224, ACROSS), (224, DOWN), (256, ACROSS)],
    ["avg", (128, 1)],
]
V4_REDUCTION_B: Module = [[(192, 1), (192, 3, 2)], [(256, 1), (256, ACROSS), (320, DOWN), (320, 3, 2)], ["max"]]
V4_FORK: Module = [[(256, (1, 3))], [(256, (3, 1))]]
V4_C: Module = [
    [(256, 1)],
    [(384, 1), V4_FORK],
    [(384, 1), (448, (3, 1)), (512, (1, 3)), V4_FORK],
    ["avg", (256, 1)],
]

# The stem and four stages of each version.
STAGES: dict[str, list[Stage]] = {
    "v3": [
        (STEM, []),
        (STAGE1, []),
        (["max"], [_v3_a(32), _v3_a(64), _v3_a(64)]),
        ([], [V3_B, _v3_c(128), _v3_c(160), _v3_c(160), _v3_c(192)]),
        ([], [V3_D, V3_E, V3_E]),
    ],
    "v4": [
        (STEM, []),
        ([], V4_STEM[:2]),
        ([], [V4_STEM[2], *[V4_A] * 4]),
        ([], [V4_REDUCTION_A, *[V4_B] * 7]),
        ([], [V4_REDUCTION_B, *[V4_C] * 3]),
    ],
}

VARIANTS: dict[str, Variant] = {
    # torchvision and timm count the padding in average pools of v3; TensorFlow and v4 do not.
    "inception_v3": Variant(Inception(avg_pad="include"), size=299),
    "inception_v4": Variant(Inception(version="v4"), size=299),
}
