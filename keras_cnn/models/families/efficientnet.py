"""EfficientNet, its Lite form and V2: one recipe, and stages as data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from keras_cnn.models.backbone import (
    LONGEST_STRIDE,
    MOST_BLOCKS,
    MOST_CHANNELS,
    Backbone,
    Variant,
    rounded_width,
    stage_plan,
)
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.fields import one_of, within

# (kind, repeats, kernel size, stride, expansion, filters, squeeze-excite ratio); kinds, in timm's words:
# "ds" depthwise separable, "ir" inverted residual (MBConv), "er" edge residual (fused MBConv), "cn" one convolution.
Stage = tuple[str, int, int, int, int, int, float]
KINDS = ("ds", "ir", "er", "cn")
# The least and the most of each number of a stage.
STAGE_BOUNDS = {
    "repeats": (1, MOST_BLOCKS),
    "kernel size": (1, 99),
    "stride": (1, LONGEST_STRIDE),
    "expansion": (1, 99),
    "filters": (1, MOST_CHANNELS),
    "squeeze-excite ratio": (0, 1),
}


class Window(TypedDict):
    """Stride and dilation of a block's spatial convolution."""

    stride: int
    dilation: int


@dataclass(frozen=True, kw_only=True)
class EfficientNet(Backbone):
    """Tan & Le 2019 (1905.11946) and 2021 (2104.00298); squeeze-excite as in 1709.01507.

    blocks: the unscaled stages. width, depth: the compound coefficients; filters are rounded to multiples of 8,
    repeats up. round_limit: a width may not fall under this share by rounding (0 lets it, as V2's base nets do).
    fixed_ends: stem, top and the depth of the first and last stage are not scaled (Lite).
    drop_path_rate grows as rate * i / N over all N blocks, so that the last block has less than the full rate.
    """

    BOUNDS = Backbone.BOUNDS | {
        **dict.fromkeys(("width", "depth"), (0.01, 1000)),
        **dict.fromkeys(("stem", "top"), (1, MOST_CHANNELS)),
        "round_limit": (0, 1),
    }

    blocks: tuple[Stage, ...]
    act: str = "silu"
    width: float = 1.0
    depth: float = 1.0
    stem: int = 32
    top: int = 1280
    fixed_top: bool = False
    round_limit: float = 0.9
    fixed_ends: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, *numbers in self.blocks:
            one_of("kind in blocks", kind, KINDS)
            for number, (name, bounds) in zip(numbers, STAGE_BOUNDS.items(), strict=True):
                within(f"{name} in blocks", number, *bounds)
        within("blocks times depth", sum(map(self.scaled_depth, range(len(self.blocks)))), 1, MOST_BLOCKS)

    @property
    def grouped(self) -> bool:
        return True

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{s}" for s in range(1, len(self.blocks) + 1)), "top")

    def scaled_width(self, filters: int) -> int:
        """Width of a layer: the nearest multiple of 8, never less than `round_limit` of the exact product."""
        return filters if self.width == 1.0 else rounded_width(filters * self.width, self.round_limit)

    def scaled(self, depth: float, width: float) -> EfficientNet:
        return self.with_(depth=self.depth * depth, width=self.width * width)

    def scaled_depth(self, stage: int) -> int:
        """Blocks of a stage, counted from 0."""
        repeats, ends = self.blocks[stage][1], (0, len(self.blocks) - 1)
        return repeats if self.fixed_ends and stage in ends else math.ceil(repeats * self.depth)

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = g.at("stem").conv_norm_act(x, self.stem if self.fixed_ends else self.scaled_width(self.stem), 3, stride=2)
        yield "stem", x
        depths = [self.scaled_depth(s) for s in range(len(self.blocks))]
        rates = (self.drop_path_rate * i / sum(depths) for i in range(sum(depths)))
        plan = stage_plan(tuple(stage[3] for stage in self.blocks), 2, self.output_stride)
        for s, (stage, depth, (stride, first, dilation)) in enumerate(zip(self.blocks, depths, plan, strict=True), 1):
            for b in range(1, depth + 1):
                window = Window(stride=stride, dilation=first) if b == 1 else Window(stride=1, dilation=dilation)
                x = self._block(g.at(f"stage{s}", f"block{b}"), x, stage, window, next(rates))
            yield f"stage{s}", x
        top = self.top if self.fixed_ends or self.fixed_top else self.scaled_width(self.top)
        yield "top", g.at("top").conv_norm_act(x, top, 1)

    def _block(self, g: Builder, x: Tensor, stage: Stage, window: Window, rate: float) -> Tensor:
        kind, _, size, _, expansion, filters, ratio = stage
        inputs, filters = x.shape[-1], self.scaled_width(filters)
        y = x
        if kind == "ir":
            y = g.at("expand").conv_norm_act(y, expansion * inputs, 1)
        if kind == "er":
            y = g.at("expand").conv_norm_act(y, expansion * inputs, size, **window)
        if kind in ("ir", "ds"):
            y = g.at("depthwise").conv_norm_act(y, y.shape[-1], size, **window, groups=y.shape[-1])
        if ratio:
            y = g.at("se").squeeze_excite(y, max(1, round(inputs * ratio)))
        project = g.at("project")
        y = project.conv(y, filters, size, **window) if kind == "cn" else project.conv(y, filters, 1)
        y = project.norm_act(y) if kind == "cn" else project.norm(y)
        if window["stride"] == 1 and inputs == filters:
            y = g.merge(g.drop_path(y, rate), x)
        return y


def _stages(rows: list[tuple[Any, ...]], ratio: float = 0.25) -> tuple[Stage, ...]:
    """Stages with their squeeze-excite ratio: V2 squeezes only "ir"."""
    return tuple((*row, ratio if row[0] in ("ir", "ds") else 0.0) for row in rows)  # type: ignore[return-value]


# kind, repeats, kernel size, stride, expansion, filters
V1_ROWS = [
    ("ds", 1, 3, 1, 1, 16),
    ("ir", 2, 3, 2, 6, 24),
    ("ir", 2, 5, 2, 6, 40),
    ("ir", 3, 3, 2, 6, 80),
    ("ir", 3, 5, 1, 6, 112),
    ("ir", 4, 5, 2, 6, 192),
    ("ir", 1, 3, 1, 6, 320),
]
V2_BASE = [
    ("cn", 1, 3, 1, 1, 16),
    ("er", 2, 3, 2, 4, 32),
    ("er", 2, 3, 2, 4, 48),
    ("ir", 3, 3, 2, 4, 96),
    ("ir", 5, 3, 1, 6, 112),
    ("ir", 8, 3, 2, 6, 192),
]
V2_S = [
    ("cn", 2, 3, 1, 1, 24),
    ("er", 4, 3, 2, 4, 48),
    ("er", 4, 3, 2, 4, 64),
    ("ir", 6, 3, 2, 4, 128),
    ("ir", 9, 3, 1, 6, 160),
    ("ir", 15, 3, 2, 6, 256),
]
V2_M = [
    ("cn", 3, 3, 1, 1, 24),
    ("er", 5, 3, 2, 4, 48),
    ("er", 5, 3, 2, 4, 80),
    ("ir", 7, 3, 2, 4, 160),
    ("ir", 14, 3, 1, 6, 176),
    ("ir", 18, 3, 2, 6, 304),
    ("ir", 5, 3, 1, 6, 512),
]
V2_L = [
    ("cn", 4, 3, 1, 1, 32),
    ("er", 7, 3, 2, 4, 64),
    ("er", 7, 3, 2, 4, 96),
    ("ir", 10, 3, 2, 4, 192),
    ("ir", 19, 3, 1, 6, 224),
    ("ir", 25, 3, 2, 6, 384),
    ("ir", 7, 3, 1, 6, 640),
]

# name: (width, depth, resolution, dropout), the published coefficients (1905.11946 and its code).
SCALES = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
    "b8": (2.2, 3.6, 672, 0.5),
    "l2": (4.3, 5.3, 800, 0.5),
}
LITE_SCALES = {
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}
V2_SCALES = {
    "b0": (1.0, 1.0, 192, 0.2),
    "b1": (1.0, 1.1, 192, 0.2),
    "b2": (1.1, 1.2, 208, 0.3),
    "b3": (1.2, 1.4, 240, 0.3),
}
TF: dict[str, Any] = {"pad": "same", "norm_eps": 1e-3}


def _scaled(blocks: tuple[Stage, ...], scale: tuple[float, float, int, float], **more: Any) -> Variant:
    width, depth, size, dropout = scale
    return Variant(EfficientNet(blocks=blocks, width=width, depth=depth, **more), size, dropout=dropout)


def _v2(rows: list[tuple[Any, ...]], stem: int, size: int) -> Variant:
    return Variant(EfficientNet(blocks=_stages(rows), stem=stem, fixed_top=True, **TF), size)


LITE: dict[str, Any] = {"act": "relu6", "fixed_ends": True}
VARIANTS: dict[str, Variant] = {
    **{f"efficientnet_{n}": _scaled(_stages(V1_ROWS), scale) for n, scale in SCALES.items()},
    **{f"tf_efficientnet_{n}": _scaled(_stages(V1_ROWS), scale, **TF) for n, scale in SCALES.items()},
    **{f"efficientnet_{n}": _scaled(_stages(V1_ROWS, 0.0), scale, **LITE) for n, scale in LITE_SCALES.items()},
    **{f"tf_efficientnet_{n}": _scaled(_stages(V1_ROWS, 0.0), s, **LITE, **TF) for n, s in LITE_SCALES.items()},
    **{f"tf_efficientnetv2_{n}": _scaled(_stages(V2_BASE), s, round_limit=0.0, **TF) for n, s in V2_SCALES.items()},
    "tf_efficientnetv2_s": _v2(V2_S, 24, 300),
    "tf_efficientnetv2_m": _v2(V2_M, 24, 384),
    "tf_efficientnetv2_l": _v2(V2_L, 32, 384),
}
