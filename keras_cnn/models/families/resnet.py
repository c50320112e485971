"""Residual networks, as every public source of weights has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import (
    LONGEST_STRIDE,
    MOST_BLOCKS,
    MOST_CHANNELS,
    Backbone,
    Variant,
    drop_path_rates,
    rounded_width,
    stage_plan,
)
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.fields import within


@dataclass(frozen=True, kw_only=True)
class ResNet(Backbone):
    """He et al. 2015 (1512.03385) and what grew from it.

    `preact`: He et al. 2016 (1603.05027). `groups`: ResNeXt (1611.05431). `base`: channels of a group's 3x3, or of a
    basic block's first, at width 64; doubled it is the wide ResNet (1605.07146). `stem="deep"` with
    `shortcut="avgpool"`: variant D of "Bag of Tricks" (1812.01187, section 4). `stem="small"` with `shortcut="pad"`:
    the CIFAR nets (1512.03385, 4.2). `stride_at`: the convolution of a bottleneck that strides, 2 ("v1.5") or 1 (the
    paper, keras.applications); `stride_last`: the last block of a stage strides, not the first (keras.applications'
    v2). With `preact`, group norm and `weight_standardised` it is BiT (1912.11370), whose pool sees zeros at its
    border.
    """

    CHOICES = Backbone.CHOICES | {
        "stem": ("conv7", "deep", "small"),
        "shortcut": ("conv", "avgpool", "pad"),
        "stride_at": (1, 2),
    }
    BOUNDS = Backbone.BOUNDS | {
        "depths": (1, MOST_BLOCKS),
        "strides": (1, LONGEST_STRIDE),
        "stem_width": (2, MOST_CHANNELS),
        **dict.fromkeys(("widths", "groups", "base"), (1, MOST_CHANNELS)),
    }

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    bottleneck: bool = True
    preact: bool = False
    groups: int = 1
    base: int = 64
    stem: str = "conv7"
    stem_width: int = 64
    shortcut: str = "conv"
    stride_at: int = 2
    stride_last: bool = False
    conv_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({len(entries) for entries in (self.depths, self.widths, self.strides)}) > 1:
            told = ", ".join(f"{name} has {len(getattr(self, name))}" for name in ("depths", "widths", "strides"))
            raise BadSpec(f"every stage takes one entry of each, but {told}: give as many of each.")
        within("blocks of all depths", sum(self.depths), 1, MOST_BLOCKS)
        within("widths * base // 64 * groups", tuple(map(self._middle, self.widths)), 1, MOST_CHANNELS)
        for name, plain in (("groups", 1), ("stride_at", 2)):
            if not self.bottleneck and getattr(self, name) != plain:
                raise BadSpec(f"{name} is for bottlenecks: leave it at {plain}, or give bottleneck=True.")
        if self.stride_last and self.output_stride != 32:
            raise BadSpec("output_stride works where the first block of a stage strides: use resnetv2_50 and its kin.")

    @property
    def grouped(self) -> bool:
        return self.groups > 1

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{s}" for s in range(1, len(self.depths) + 1)), *(["top"] if self.preact else []))

    def scaled(self, depth: float, width: float) -> ResNet:
        """Blocks of a stage to the nearest number, widths to the nearest multiple of 8."""
        return self.with_(
            depths=tuple(max(1, math.floor(n * depth + 0.5)) for n in self.depths),
            widths=tuple(rounded_width(n * width) for n in self.widths),
            stem_width=None if self.stem == "small" else rounded_width(self.stem_width * width),
        )

    def with_(self, **changes: Any) -> Self:
        """As of every backbone; a small stem has the width of the first stage, and refuses another."""
        changed = super().with_(**changes)
        if changed.stem == "small" and changes.get("stem_width") not in (None, changed.widths[0]):
            raise BadSpec("a small stem is as wide as the first stage: give widths, and leave out stem_width.")
        return changed

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = self._stem(g.at("stem"), x)
        yield "stem", x
        block = self._preact_block if self.preact else self._block
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        plan = stage_plan(self.strides, 1 if self.stem == "small" else 4, self.output_stride)
        for s, (depth, width, (stride, first, dilation)) in enumerate(
            zip(self.depths, self.widths, plan, strict=True), 1
        ):
            if s == 1 and self.stem != "small":
                x = g.at("stage1").pool(x, "max", 3, 2)
            for b in range(1, depth + 1):
                strided = b == (depth if self.stride_last else 1)
                convs = self._convs(width, stride if strided else 1, first if b == 1 else dilation, dilation)
                x = block(g.at(f"stage{s}", f"block{b}"), x, convs, next(rates), new_stage=b == 1)
            yield f"stage{s}", x
        if self.preact:
            x = g.at("top").norm_act(x)
            yield "top", x

    def _stem(self, g: Builder, x: Tensor) -> Tensor:
        if self.stem == "deep":
            x = g.conv_norm_act(x, self.stem_width // 2, 3, stride=2, number=1)
            x = g.conv_norm_act(x, self.stem_width // 2, 3, number=2)
            return self._stem_conv(g, x, self.stem_width, 3, number=3)
        if self.stem == "small":
            return self._stem_conv(g, x, self.widths[0], 3)
        return self._stem_conv(g, x, self.stem_width, 7, stride=2)

    def _stem_conv(self, g: Builder, x: Tensor, *args: Any, number: int | str = "", **kwargs: Any) -> Tensor:
        """The stem's last convolution: pre-activation blocks bring their own norm."""
        if self.preact:
            return g.conv(x, *args, bias=self.conv_bias or None, token=f"conv{number}", **kwargs)
        return g.conv_norm_act(x, *args, number=number, bias=self.conv_bias or None, **kwargs)

    def _convs(self, width: int, stride: int, first: int, dilation: int) -> list[dict[str, Any]]:
        """The convolutions of a block's residual branch, as arguments."""
        middle = self._middle(width)
        if not self.bottleneck:
            return [
                {"filters": middle, "size": 3, "stride": stride, "dilation": first},
                {"filters": width, "size": 3, "dilation": dilation},
            ]
        convs = [
            {"filters": middle, "size": 1},
            # Behind the stride its neighbours lie as far apart as in the rest of the stage.
            {"filters": middle, "size": 3, "dilation": (dilation, first)[self.stride_at - 1], "groups": self.groups},
            {"filters": 4 * width, "size": 1},
        ]
        convs[self.stride_at - 1]["stride"] = stride
        return convs

    def _middle(self, width: int) -> int:
        """Channels within a block."""
        return width * self.base // 64 * self.groups

    def _block(self, g: Builder, x: Tensor, convs: list[dict], rate: float, new_stage: bool) -> Tensor:
        y = x
        for i, conv in enumerate(convs, 1):
            last = i == len(convs)
            y = g.conv(y, **conv, bias=self.conv_bias or None, token=f"conv{i}")
            y = g.norm(y, f"norm{i}", zero=last)
            y = y if last else g.act(y, f"act{i}")
        if self.residual and self._reshapes(x, convs):
            x = self._shortcut(g.at("shortcut"), x, convs)
        return g.act(g.merge(g.drop_path(y, rate), x))

    def _preact_block(self, g: Builder, x: Tensor, convs: list[dict], rate: float, new_stage: bool) -> Tensor:
        y = g.norm_act(x, 1)
        # A bottleneck stage starts with a projection even where the shapes agree; both sources do so.
        if self.residual and new_stage and (self.bottleneck or self._reshapes(x, convs)):
            x = self._shortcut(g.at("shortcut"), y, convs)
        elif self.residual and self._reshapes(x, convs):  # the strided last block of keras.applications' v2
            x = g.at("shortcut").pool(x, "max", 1, _stride(convs))
        for i, conv in enumerate(convs, 1):
            y = y if i == 1 else g.norm_act(y, i)
            # keras.applications has no bias where a normalisation follows in the same block, and one after the stride.
            bias = self.conv_bias and i == len(convs)
            y = g.conv(y, **conv, bias=bias or None, token=f"conv{i}")
        return g.merge(g.drop_path(y, rate), x)

    def _reshapes(self, x: Tensor, convs: list[dict]) -> bool:
        return _stride(convs) > 1 or x.shape[-1] != convs[-1]["filters"]

    def _shortcut(self, g: Builder, x: Tensor, convs: list[dict]) -> Tensor:
        filters, stride = convs[-1]["filters"], _stride(convs)
        if self.shortcut == "pad":  # option A of 1512.03385, section 4.2: subsample, and zeros for the new channels
            x = g.pool(x, "max", 1, stride) if stride > 1 else x
            new = filters - x.shape[-1]
            if new < 0:
                raise BadSpec(
                    f"shortcut='pad' adds channels: give widths that do not fall, as {g.name('pad')} has them."
                )
            return g.emit("pad", "pad", x, paddings=((0, 0), (0, 0), (new // 2, new - new // 2)), value="zero")
        if self.shortcut == "avgpool":
            # "same" here is torch's ceil_mode without the padding in the mean; a dilated stage averages at stride 1.
            dilated = convs[-2].get("dilation", 1) > 1 or convs[-1].get("dilation", 1) > 1
            if stride > 1 or dilated:
                x = g.pool(x, "avg", 2, stride, padding="same")
            stride = 1
        x = g.conv(x, filters, 1, stride, bias=self.conv_bias or None, token="conv")
        return x if self.preact else g.norm(x)


def _stride(convs: list[dict]) -> int:
    return max(conv.get("stride", 1) for conv in convs)


D: dict[str, Any] = {"stem": "deep", "shortcut": "avgpool"}
V2: dict[str, Any] = {"preact": True}
BIT: dict[str, Any] = V2 | {"norm": "group:32", "weight_standardised": True, "pool_pad": "zero"}
KERAS: dict[str, Any] = {"conv_bias": True, "norm_eps": 1.001e-5, "norm_momentum": 0.99}
KERAS_V1: dict[str, Any] = KERAS | {"stride_at": 1, "pool_pad": "zero"}
KERAS_V2: dict[str, Any] = KERAS | {"preact": True, "stride_last": True, "strides": (2, 2, 2, 1), "pool_pad": "zero"}
# For images of 64 pixels: half of the channels on maps of twice the side, as many multiply-accumulates as resnet18.
HALF: dict[str, Any] = {"widths": (32, 64, 128, 256), "stem": "small", "stem_width": 32, "strides": (2, 2, 2, 2)}
CIFAR: dict[str, Any] = {
    "widths": (16, 32, 64),
    "strides": (1, 2, 2),
    "bottleneck": False,
    "stem": "small",
    "shortcut": "pad",
}
D18, D26, D34 = (2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3)
D50, D101, D152, D200 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3)

VARIANTS: dict[str, ResNet | Variant] = {
    "resnet18": ResNet(depths=D18, bottleneck=False),
    "resnet18_half": Variant(ResNet(depths=D18, bottleneck=False, **HALF), size=64, classes=200),
    "resnet34": ResNet(depths=D34, bottleneck=False),
    "resnet50": ResNet(depths=D50),
    "resnet101": ResNet(depths=D101),
    "resnet152": ResNet(depths=D152),
    "resnet200": ResNet(depths=D200),
    "resnet18d": ResNet(depths=D18, bottleneck=False, **D),
    "resnet26d": ResNet(depths=D26, **D),
    "resnet34d": ResNet(depths=D34, bottleneck=False, **D),
    "resnet50d": ResNet(depths=D50, **D),
    "resnet101d": ResNet(depths=D101, **D),
    "resnet152d": ResNet(depths=D152, **D),
    "resnet200d": ResNet(depths=D200, **D),
    "resnext50_32x4d": ResNet(depths=D50, groups=32, base=4),
    "resnext101_32x8d": ResNet(depths=D101, groups=32, base=8),
    "wide_resnet50_2": ResNet(depths=D50, base=128),
    "wide_resnet101_2": ResNet(depths=D101, base=128),
    "resnet50_gn": ResNet(depths=D50, norm="group:32"),
    "resnetv2_18": ResNet(depths=D18, bottleneck=False, **V2),
    "resnetv2_34": ResNet(depths=D34, bottleneck=False, **V2),
    "resnetv2_50": ResNet(depths=D50, **V2),
    "resnetv2_101": ResNet(depths=D101, **V2),
    "resnetv2_152": ResNet(depths=D152, **V2),
    "resnetv2_50x1_bit": ResNet(depths=D50, **BIT),
    "resnetv2_50x3_bit": ResNet(depths=D50, widths=(192, 384, 768, 1536), stem_width=192, **BIT),
    "resnetv2_101x1_bit": ResNet(depths=D101, **BIT),
    "resnetv2_101x3_bit": ResNet(depths=D101, widths=(192, 384, 768, 1536), stem_width=192, **BIT),
    "resnetv2_152x2_bit": ResNet(depths=D152, widths=(128, 256, 512, 1024), stem_width=128, **BIT),
    "keras_resnet50": ResNet(depths=D50, **KERAS_V1),
    "keras_resnet101": ResNet(depths=D101, **KERAS_V1),
    "keras_resnet152": ResNet(depths=D152, **KERAS_V1),
    "keras_resnet50v2": ResNet(depths=D50, **KERAS_V2),
    "keras_resnet101v2": ResNet(depths=D101, **KERAS_V2),
    "keras_resnet152v2": ResNet(depths=D152, **KERAS_V2),
    **{
        f"resnet{6 * n + 2}": Variant(ResNet(depths=(n, n, n), **CIFAR), size=32, classes=10)
        for n in (3, 5, 7, 9, 18, 200)
    },
}
