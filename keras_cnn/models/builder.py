"""The small language that recipes are written in.

A recipe sees a builder `g` and tensors; it never sees Keras. `assemble.Graph` turns the same calls into
Keras layers, `shapes.Tally` into shapes and counts, so that `info` and the parity fixtures need no
framework and a network is described once.

Names: `g.at("stage2", "block3").conv(x, 64, 3, token="conv1")` is the layer `stage2_block3_conv1`.
"""

from __future__ import annotations

from typing import Any, Self

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import Backbone, check_norm

Tensor = Any


class Builder:
    """Naming, padding, normalisation and activation; a back end implements `emit`."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.scope: tuple[str, ...] = ()

    def at(self, *tokens: str) -> Self:
        """The same builder, one scope deeper."""
        deeper = object.__new__(type(self))  # a shallow copy; copy.copy takes three times as long
        deeper.__dict__ = {**self.__dict__, "scope": (*self.scope, *tokens)}
        return deeper

    def beside(self, *tokens: str) -> Self:
        """The same builder in another scope: for a head, whose decoder stands beside it."""
        other = self.at()
        other.scope = tokens
        return other

    def on(self, backbone: Backbone) -> Self:
        """The same builder with another backbone's norm, activation and padding."""
        other = self.at()
        other.backbone = backbone
        return other

    def name(self, token: str) -> str:
        return "_".join((*self.scope, token))

    def emit(self, kind: str, token: str, x: Tensor, **args: Any) -> Tensor:
        """Add one layer of `kind` named `token` in the present scope."""
        raise NotImplementedError

    def conv(
        self,
        x: Tensor,
        filters: int,
        size: int | tuple[int, int],
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        padding: str = "",
        bias: bool | None = None,
        start: str = "he",
        plain: bool = False,
        token: str = "conv",
    ) -> Tensor:
        """Convolution over an image, or over time. Has a bias unless a norm follows, or as `bias` says; `start` names
        its initial kernel.

        size: of the window, or (height, width). padding: "valid" or "same", of sequences also "causal", instead of the
        backbone's flavour. plain: no norm follows, so that the kernel is not standardised whatever the backbone says.
        """
        standardised = self.backbone.weight_standardised and not plain
        if standardised and x.shape[-1] == groups and {*_pair(size)} == {1}:
            raise BadSpec(
                f"weight_standardised=True: a filter of {self.name(token)} has one weight, which less its own mean "
                "is 0: give a larger window, fewer groups or more channels."
            )
        kind = "standardised" if standardised else ""
        if not padding:
            x, padding = self._pad_window(x, size, stride, dilation, "zero", token.replace("conv", "pad"))
        if groups == filters == x.shape[-1] > 1:
            bias = self.backbone.norm == "none" if bias is None else bias
            window = {"size": size, "stride": stride, "dilation": dilation}
            return self.emit(f"{kind}depthwise", token, x, **window, bias=bias, padding=padding)
        return self.emit(
            f"{kind}conv",
            token,
            x,
            filters=filters,
            size=size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=self.backbone.norm == "none" if bias is None else bias,
            padding=padding,
            start=start,
        )

    def norm(self, x: Tensor, token: str = "norm", *, zero: bool = False) -> Tensor:
        """The backbone's normalisation; `zero` starts gamma at 0, so that a residual block starts as the identity
        (1706.02677, section 5.1); without a shortcut it would let nothing through."""
        zero = zero and self.backbone.residual
        if self.backbone.norm == "none":
            return x
        if self.backbone.norm == "layer" and self.backbone.SIDES == 1:  # other steps may lie in the future
            return self.emit("layernorm", token, x, eps=self.backbone.norm_eps)
        groups = check_norm(self.backbone.norm)
        if groups is None:
            return self.batchnorm(x, token, zero=zero)
        if groups > 0 and x.shape[-1] % groups:
            raise BadSpec(
                f"norm={self.backbone.norm!r}: {groups} does not divide the {x.shape[-1]} channels of "
                f"{self.name(token)}."
            )
        return self.emit("groupnorm", token, x, groups=groups, eps=self.backbone.norm_eps, zero=zero)

    def act(self, x: Tensor, token: str = "act", fn: str | None = None) -> Tensor:
        return self.emit("act", token, x, fn=fn or self.backbone.act)

    def norm_act(self, x: Tensor, number: int | str = "") -> Tensor:
        return self.act(self.norm(x, f"norm{number}"), f"act{number}")

    def conv_norm_act(self, x: Tensor, *args: Any, number: int | str = "", **kwargs: Any) -> Tensor:
        return self.norm_act(self.conv(x, *args, token=f"conv{number}", **kwargs), number)

    def pool(self, x: Tensor, kind: str, size: int, stride: int, *, padding: str = "", token: str = "pool") -> Tensor:
        """ "max" or "avg" over windows; `padding`: "valid" or "same", instead of the backbone's flavour."""
        if not padding and kind == "avg" and self.backbone.avg_pad == "include":
            sides = (size // 2, size // 2)
            zeros = {"paddings": (sides, sides, (0, 0)), "value": "zero"}
            x, padding = self.emit("pad", token.replace("pool", "pad"), x, **zeros), "valid"
        if not padding:
            x, padding = self._pad_window(x, size, stride, 1, self.backbone.pool_pad, token.replace("pool", "pad"))
        return self.emit(f"{kind}pool", token, x, size=size, stride=stride, padding=padding)

    def drop_path(self, x: Tensor, rate: float, token: str = "droppath") -> Tensor:
        """Stochastic depth: drops the whole branch of a sample (1603.09382)."""
        return self.emit("droppath", token, x, rate=rate) if rate else x

    def merge(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Residual learning by sum, or by concatenation and a 1x1 convolution back to the width; or none: x as it is.

        That convolution starts as two identities stacked, which is the sum: a network by concatenation starts as the
        one by sum, with the same weights, and may then learn better.
        """
        if not self.backbone.residual:
            return x
        if self.backbone.merge == "add":
            return self.emit("add", "add", [x, shortcut])
        both = self.emit("concat", "both", [x, shortcut])  # "concat" is that of an Inception-ResNet's branches
        return self.conv(both, x.shape[-1], 1, bias=True, start="sum", plain=True, token="fuse")

    def squeeze_excite(self, x: Tensor, width: int) -> Tensor:
        """Channels weighted by what the whole image shows (1709.01507): pool, two 1x1 convolutions, product."""
        y = self.emit("globalavg", "pool", x, keepdims=True)
        y = self.act(self.conv(y, width, 1, bias=True, plain=True, token="reduce"))
        y = self.act(self.conv(y, x.shape[-1], 1, bias=True, plain=True, token="expand"), "gate", "sigmoid")
        return self.emit("multiply", "multiply", [x, y])

    def batchnorm(self, x: Tensor, token: str, *, zero: bool = False) -> Tensor:
        """Batch normalisation, whichever norm the backbone has."""
        return self.emit(
            "batchnorm", token, x, eps=self.backbone.norm_eps, momentum=self.backbone.norm_momentum, zero=zero
        )

    def network(self, x: Tensor, head: Any) -> list[Tensor]:
        """Write a whole network: its outputs, the head's first, then an auxiliary classifier's where there is one."""
        maps = {"image": x, **dict(self.backbone.features(self, x))}
        output, aux = head.write(self.at("head"), maps), self.backbone.auxiliary(self.at("aux"), maps, head)
        return [output] if aux is None else [output, aux]

    def _pad_window(
        self, x: Tensor, size: int | tuple[int, int], stride: int, dilation: int, value: str, token: str
    ) -> tuple[Tensor, str]:
        """Padding of a window, as the weights want it. At stride 1 the two flavours agree."""
        reach = [dilation * (n - 1) for n in _pair(size)]
        if not any(reach) or stride == 1 or self.backbone.pad == "same":
            return x, "same"
        rows, columns = ((n // 2, n - n // 2) for n in reach)
        return self.emit("pad", token, x, paddings=(rows, columns, (0, 0)), value=value), "valid"


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
