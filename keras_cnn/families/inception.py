"""Inception v3 and the Inception-ResNets: modules as tables, and one short interpreter that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_cnn.builder import Builder, Tensor
from keras_cnn.errors import BadSpec
from keras_cnn.spec import Spec

# An operation: "avg" and "max" pool over 3x3 (the maximum strides by 2); (filters, size) convolves; with a third
# entry, 2, it strides without padding; a list of branches forks. A branch is a list of operations, a module one of
# branches, concatenated.
Operation = Any
Branch = list[Operation]
Module = list[Branch]


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
class Inception(Spec):
    """Szegedy et al. 2015 (1512.00567): factorised convolutions, grids reduced by stride and pool side by side."""

    input_shape: tuple[int | None, int | None, int] = (299, 299, 3)
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride != 32:
            raise BadSpec(f"{self.family} reduces its grids without padding: it takes output_stride=32 only.")

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", "stage1", "stage2", "stage3", "stage4")

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = branch(g.at("stem"), x, STEM)
        yield "stem", x
        x = branch(g.at("stage1"), x, STAGE1)
        yield "stage1", x
        x = g.at("stage2").pool(x, "max", 3, 2, padding="valid")
        for s, modules in enumerate((STAGE2, STAGE3, STAGE4), 2):
            for b, table in enumerate(modules, 1):
                x = module(g.at(f"stage{s}", f"block{b}"), x, table)
            yield f"stage{s}", x


@dataclass(frozen=True, kw_only=True)
class InceptionResNet(Inception):
    """Szegedy et al. 2016 (1602.07261), v2: inception modules as residuals, scaled down so that the sum stays stable.

    The residual's last 1x1 convolution has a bias and no normalisation; the very last residual is neither scaled nor
    activated. drop_path_rate is not part of the paper and not used.
    """

    @property
    def stages(self) -> tuple[str, ...]:
        return (*super().stages, "top")

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = branch(g.at("stem"), x, STEM)
        yield "stem", x
        x = branch(g.at("stage1"), x, STAGE1)
        yield "stage1", x
        x = g.at("stage2").pool(x, "max", 3, 2, padding="valid")
        for s, (first, table, blocks, scale) in enumerate(RESIDUAL_STAGES, 2):
            x = module(g.at(f"stage{s}", "reduction"), x, first)
            for b in range(1, blocks + 1):
                x = self._block(g.at(f"stage{s}", f"block{b}"), x, table, scale)
            if s == 4:
                x = self._block(g.at("stage4", f"block{blocks + 1}"), x, table, 1.0, act=False)
            yield f"stage{s}", x
        yield "top", g.at("top").conv_norm_act(x, 1536, 1)

    def _block(self, g: Builder, x: Tensor, table: Module, scale: float, act: bool = True) -> Tensor:
        y = module(g, x, table)
        y = g.conv(y, x.shape[-1], 1, bias=True, token="up")
        y = g.emit("scale", "scale", y, scale=scale) if scale != 1.0 else y
        x = g.merge(y, x)
        return g.act(x) if act else x


STEM: Branch = [(32, 3, 2), (32, 3, 1), (64, 3)]
STAGE1: Branch = ["max", (80, 1), (192, 3, 1)]


def _a(pool: int) -> Module:
    return [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (pool, 1)]]


def _c(width: int) -> Module:
    w, across, down = width, (1, 7), (7, 1)
    return [
        [(192, 1)],
        [(w, 1), (w, across), (192, down)],
        [(w, 1), (w, down), (w, across), (w, down), (192, across)],
        ["avg", (192, 1)],
    ]


FORK: Module = [[(384, (1, 3))], [(384, (3, 1))]]
E: Module = [[(320, 1)], [(384, 1), FORK], [(448, 1), (384, 3), FORK], ["avg", (192, 1)]]
STAGE2 = [_a(32), _a(64), _a(64)]
STAGE3 = [[[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)], ["max"]], _c(128), _c(160), _c(160), _c(192)]
STAGE4 = [[[(192, 1), (320, 3, 2)], [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)], ["max"]], E, E]

# (module before the residual blocks, residual branches, blocks, scale) of stages 2 to 4.
RESIDUAL_STAGES: list[tuple[Module, Module, int, float]] = [
    (
        [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (64, 1)]],
        [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]],
        10,
        0.17,
    ),
    (
        [[(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], ["max"]],
        [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]],
        20,
        0.1,
    ),
    (
        [[(256, 1), (384, 3, 2)], [(256, 1), (288, 3, 2)], [(256, 1), (288, 3), (320, 3, 2)], ["max"]],
        [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]],
        9,
        0.2,
    ),
]

VARIANTS: dict[str, Inception] = {
    # torchvision and timm count the padding in average pools; TensorFlow and Inception-ResNet do not.
    "inception_v3": Inception(avg_pad="include"),
    "inception_resnet_v2": InceptionResNet(),
}
