"""Temporal convolutional networks: dilated convolutions along time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import (
    LONGEST_SEQUENCE,
    MOST_BLOCKS,
    MOST_CHANNELS,
    Backbone,
    Variant,
    check_norm,
    drop_path_rates,
)
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.fields import known_options, within


@known_options
@dataclass(frozen=True, kw_only=True)
class TCN(Backbone):
    """Bai et al. 2018 (1803.01271, section 3): residual blocks of two dilated convolutions, as long as the sequence.

    Sequences are (batch, time, channels); every stage is one block, and keeps their length. The stem brings each
    channel to mean 0 and spread 1 with statistics of the training data, which it holds as weights.

    widths: channels of each block; a single number is that of all. kernel: steps of a window. dilations: steps between
        two entries of a block's window; a list that repeats, (1, 2, 4, 1, 2, 4), is a stack of networks. The defaults
        are those of keras-tcn; an output sees `receptive_field` steps, which should be as many as the sequence has.
    causal: an output depends on no later step. False centres the windows, for sequences that are there as a whole; a
        window of an even kernel has no centre, so that one is refused. With causal=True it is exact and usual
        (WaveNet, 1609.03499, has 2).
    skips: the output is the sum of all blocks' convolutions, as in WaveNet and by default in keras-tcn; else, as in the
        paper, what the last block gives.
    spatial_dropout: rate of channels that are dropped behind each convolution, for all steps at once (section 3.3).
    norm: "layer" (over the channels of each step), "batch" or "none"; "instance" and "group:N" take statistics over
        time, and so only causal=False has them. The paper normalises weights instead; "layer" is the default since it
        learnt best where sequences are few, classified or forecast. norm_eps, norm_momentum: of it.
    weight_standardised: filters brought to mean 0 and variance 1 before use (1903.10520); for a norm.
    act: any Keras activation. merge: how a block's input joins its output, "add", or "concat", which starts as the sum,
        or "none", not at all.
    drop_path_rate: stochastic depth, growing linearly to this rate.
    output_stride, pad, pool_pad, avg_pad: of networks for images; here they stay as they are.
    """

    SIDES = 1
    BOUNDS = Backbone.BOUNDS | {
        "widths": (1, MOST_CHANNELS),
        "kernel": (1, LONGEST_SEQUENCE),
        "dilations": (1, LONGEST_SEQUENCE),
    }

    norm: str = "layer"
    widths: tuple[int, ...] = (64,)
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    causal: bool = True
    skips: bool = False
    spatial_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = len(self.dilations)
        within("blocks, the entries of dilations", blocks, 1, MOST_BLOCKS)
        if len(self.widths) not in (1, blocks):
            raise BadSpec(
                f"widths has {len(self.widths)} entries and dilations {blocks}: give a width for each block, or one "
                "that is that of all."
            )
        if self.skips and len(set(self.widths)) > 1:
            raise BadSpec(f"skips=True adds up all blocks, whose widths differ: {self.widths}: give one width.")
        if not self.causal and self.kernel % 2 == 0:
            raise BadSpec(
                f"kernel={self.kernel} with causal=False: a window of an even number of steps has no centre, and its "
                f"outputs would lie half a step aside; give kernel={self.kernel + 1}, or causal=True."
            )
        if self.causal and self.norm not in ("layer", "none") and check_norm(self.norm) is not None:
            raise BadSpec(
                f"norm={self.norm!r} with causal=True takes its statistics over all steps, later ones too: give "
                "norm='batch' or 'layer', or causal=False."
            )
        if self.output_stride != 32:
            raise BadSpec("output_stride: a TCN has no strides; its outputs are as many as the steps.")
        if not 0 <= self.spatial_dropout < 1:
            raise BadSpec(f"spatial_dropout={self.spatial_dropout!r}: give a probability from 0 up to 1.")

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{s}" for s in range(1, len(self.dilations) + 1)))

    @property
    def receptive_field(self) -> int:
        """Steps that an output sees: itself and those before, or, centred, as many on both sides."""
        return reach(self.kernel, self.dilations)

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = g.at("stem").emit("standardise", "standardise", x)
        yield "stem", x
        rates = drop_path_rates(self.drop_path_rate, (len(self.dilations),))
        branches: list[Tensor] = []
        for stage, dilation, width in zip(self.stages[1:], self.dilations, self._widths, strict=True):
            at = g.at(stage)
            branches.append(at.drop_path(self._branch(at, x, width, dilation), next(rates)))
            if self.skips and stage == self.stages[-1]:  # nothing follows that would take its residual sum
                x = at.emit("add", "skips", branches) if branches[1:] else branches[0]
            else:
                x = at.act(at.merge(branches[-1], self._shortcut(at, x, width)))
            yield stage, x

    @property
    def _widths(self) -> tuple[int, ...]:
        return self.widths if len(self.widths) > 1 else self.widths * len(self.dilations)

    def _branch(self, g: Builder, x: Tensor, width: int, dilation: int) -> Tensor:
        """The paper's figure 1b: twice convolution, norm, activation, dropout."""
        window: dict[str, Any] = {"dilation": dilation, "padding": "causal" if self.causal else "same"}
        bias = self.norm != "batch"  # which subtracts it again; statistics of a step do not
        for i in (1, 2):
            x = g.conv(x, width, self.kernel, **window, bias=bias, token=f"conv{i}")
            x = g.norm_act(x, i)
            x = g.emit("spatialdropout", f"drop{i}", x, rate=self.spatial_dropout) if self.spatial_dropout else x
        return x

    def _shortcut(self, g: Builder, x: Tensor, width: int) -> Tensor:
        fits = x.shape[-1] == width or not self.residual
        return x if fits else g.at("shortcut").conv(x, width, 1, bias=True, plain=True)


def reach(kernel: int, dilations: tuple[int, ...]) -> int:
    """Steps that an output of a TCN sees: two convolutions a block add kernel - 1 steps, each times its dilation."""
    return 1 + 2 * (kernel - 1) * sum(dilations)


def doubling(kernel: int, steps: int) -> tuple[int, ...]:
    """The shortest 1, 2, 4, ... with which an output sees so many steps.

    >>> doubling(3, 512)
    (1, 2, 4, 8, 16, 32, 64, 128)
    """
    powers = [2**i for i in range(64)]
    short = takewhile(lambda n: reach(kernel, tuple(powers[:n])) < steps, count(1))
    return tuple(powers[: sum(1 for _ in short) + 1])


VARIANTS: dict[str, TCN | Variant] = {"tcn": Variant(TCN(), size=128, classes=10)}
