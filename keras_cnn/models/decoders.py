"""Heads whose output is an image: a decoder that leads back from a backbone's maps to the size of the image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import MOST_BLOCKS, MOST_CHANNELS, check_norm
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.fields import known_options, one_of, within
from keras_cnn.models.heads import MOST_CLASSES, Head
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.models.shapes import feature_maps

TASKS = tuple(name for name, meaning in MEANINGS.items() if meaning.whole)  # those whose output is an image
BLOCKS = 2  # 3x3 convolutions of a stage (1505.04597, section 2)


@known_options
@dataclass(frozen=True, kw_only=True)
class UNet(Head):
    """The expanding half of a U-Net, on the maps of any backbone (Ronneberger et al. 2015, 1505.04597, section 2).

    A stage of the decoder enlarges what comes from below to the size of the backbone's next larger map, joins that map,
    and convolves twice with a 3x3 window; convolutions are padded, so that the output has the height and width of the
    image, odd ones too. Of backbone stages of one stride the last is joined. Norm and activation are the backbone's.
    Output: (batch, height, width, classes), float32. Its layers are the stages decoder1, decoder2 ... and head_logits.

    classes: outputs at each pixel, 1 or more, or their names: classes, or the channels of an image.
    decoder: channels of the decoder's stages, the deepest first; the last is of the image's size. A backbone of fewer
        strides, such as a CIFAR net or one with output_stride=8, takes the last ones. The default halves from 256, as
        segmentation_models.pytorch has it.
    skip: "concat" joins as the paper does; "add" sums, with less memory and fewer parameters, the backbone's map
        projected by a 1x1 convolution where its channels are others; None leaves the backbone's maps out, so that all
        has to pass through the last of them: an autoencoder.
    upsample: "nearest", which is cheap and has no pattern of its own (the default); "bilinear"; or "transposed", a
        learnt 2x2 convolution to the stage's channels, as in the paper.
    dropout: rate before the last convolution, which has a 3x3 window.
    activation: of the output, as of `Head`; "auto" is the task's: probabilities of classes, none else.
    task: "segmentation", a class for each pixel; or "reconstruction", an image, in the unit of its pixels.
    Raises BadSpec for what cannot be; as it is built, also for fewer widths than the backbone has strides.

    >>> import keras_cnn as kc
    >>> kc.build("resnet20", head=kc.UNet(classes=("sky", "road")), input_shape=(33, 50, 3)).output_shape
    (None, 33, 50, 2)
    """

    suffix: ClassVar[str] = "_unet"
    EVERYWHERE: ClassVar[bool] = True
    # What a classifier has in their place is none of a decoder's options.
    hidden: ClassVar[tuple[int, ...]] = ()  # pyright: ignore[reportIncompatibleVariableOverride]
    embedding: ClassVar[int] = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    pooling: ClassVar[str | None] = "avg"  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden_activation: ClassVar[str] = "relu"  # pyright: ignore[reportIncompatibleVariableOverride]

    decoder: tuple[int, ...] = (256, 128, 64, 32, 16)
    skip: str | None = "concat"
    upsample: str = "nearest"
    task: str = "segmentation"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task", self.task, TASKS)
        within("classes", self.classes, 1, MOST_CLASSES)
        within("decoder", self.decoder, 1, MOST_CHANNELS)
        within("stages in decoder", len(self.decoder), 1, MOST_BLOCKS)
        one_of("skip", self.skip, ("concat", "add", None))
        one_of("upsample", self.upsample, ("nearest", "bilinear", "transposed"))

    def for_classes(self, classes: int) -> UNet:
        """The same for another number of classes; the decoder stays."""
        return dataclasses.replace(self, classes=classes)

    def for_task(self, task: str) -> UNet:
        """The same for another task whose output is an image; BadSpec for the others."""
        one_of("task", task, TASKS)
        return self if task == self.task else dataclasses.replace(self, task=task, activation="auto")

    def write(self, g: Builder, maps: Mapping[str, Tensor]) -> Tensor:
        """Write the decoder and the last convolution; returns scores (batch, height, width, classes)."""
        if getattr(g.backbone, "aux", False):
            raise BadSpec("an auxiliary classifier tells the class of a whole image: leave aux out beside a U-Net.")
        strides = {"image": 1} | {stage: found.stride for stage, found in feature_maps(g.backbone).items()}
        by_stride = {strides[stage]: x for stage, x in maps.items()}  # the last of each stride
        *larger, (stride, x) = by_stride.items()
        if not larger or len(larger) > len(self.decoder):
            raise BadSpec(
                f"decoder={self.decoder!r} has {len(self.decoder)} stages, and {g.backbone.family} makes an image "
                f"smaller {len(larger)} times: " + ("give as many." if larger else "a U-Net has nothing to enlarge.")
            )
        widths = self.decoder[-len(larger) :]
        for i, (width, (finer, like)) in enumerate(zip(widths, reversed(larger), strict=True), 1):
            scope = g.beside(f"decoder{i}")
            x = fitted(scope, self._enlarged(scope, x, stride // finer, width), like)
            if self.skip and like is not maps["image"]:
                x = self._joined(scope, x, like)
            scope, stride = _with_groups(scope, width), finer
            for b in range(1, BLOCKS + 1):
                x = scope.at(f"block{b}").conv_norm_act(x, width, 3)
        return self.classify(g, self._dropped(g, x, "drop"))

    def classify(self, g: Builder, x: Tensor) -> Tensor:
        """Scores of each pixel, of maps (batch, height, width, channels): float32 under every dtype policy."""
        window = {"size": 3, "stride": 1, "dilation": 1, "groups": 1, "bias": True, "padding": "same", "start": "he"}
        return self.answer(g, g.emit("conv", "logits", x, filters=self.classes, **window, dtype="float32"))

    def _enlarged(self, g: Builder, x: Tensor, factor: int, width: int) -> Tensor:
        if self.upsample == "transposed":
            return g.emit("transposed", "up", x, filters=width, factor=factor)
        return g.emit("upsample", "up", x, factor=factor, interpolation=self.upsample)

    def _joined(self, g: Builder, x: Tensor, skip: Tensor) -> Tensor:
        if self.skip == "concat":
            return g.emit("concat", "concat", [x, skip])
        if skip.shape[-1] != x.shape[-1]:
            skip = g.at("skip").conv(skip, x.shape[-1], 1, bias=True, plain=True)
        return g.emit("add", "add", [x, skip])


def fitted(g: Builder, x: Tensor, like: Tensor) -> Tensor:
    """A map in another's height and width; where these are known, nothing hangs on the other one."""
    size = tuple(like.shape[1:3])
    return g.emit("fit", "fit", [x, like]) if None in size else g.emit("fit", "fit", x, size=size)


def _with_groups(g: Builder, width: int) -> Builder:
    """The builder with as many groups in its norms as divide a width, which may be less than the backbone's."""
    groups = check_norm(g.backbone.norm) or 0
    if groups <= 0 or width % groups == 0:
        return g
    return g.on(g.backbone.with_(norm=f"group:{math.gcd(groups, width)}"))
