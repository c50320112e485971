"""What stands on a backbone: heads write themselves onto its feature maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import MOST_BLOCKS, MOST_CHANNELS, check_activation
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.fields import conform, known_options, one_of, within
from keras_cnn.models.meaning import MEANINGS, Meaning

MOST_CLASSES = 2**31 - 1
EMBEDDING = 128  # the length of a direction, as in FaceNet (1503.03832, table 5)


@known_options
@dataclass(frozen=True, kw_only=True)
class Head:
    """The dense layers behind the backbone.

    classes: number of outputs, or their names, which the network's configuration then keeps; 0 ends the network at the
        pooled features.
    hidden: widths of dense layers before the classifier, each with hidden_activation and dropout.
    embedding: width of a linear, batch-normalised layer; with classes=0 its output, at length 1, is the network's
        (FaceNet, 1503.03832, uses 512 behind inception_resnet_v1).
    dropout: rate before every dense layer.
    pooling: "avg", "max", or None for none (then classes must be 0: the output is a feature map).
    task: what the output means: "classification", one class an image; "multilabel", any number of them; "binary", one
        output for two classes; "regression", numbers in the unit of the data; "embedding", a direction.
        "segmentation", a class a pixel, and "reconstruction", the image itself, are tasks of a `UNet`.
    activation: of the output; None gives logits; "auto" is the task's.
    """

    SIDES: ClassVar[int] = 2  # of the backbones that it stands on
    POOLINGS: ClassVar[tuple[str | None, ...]] = ("avg", "max", None)
    suffix: ClassVar[str] = ""  # behind the name of a network with such a head
    EVERYWHERE: ClassVar[bool] = False  # whether it answers every pixel, as some tasks need
    given_names: ClassVar[tuple[str, ...]] = ()  # of classes: on their way to the configuration, and no fact of a head

    classes: int
    hidden: tuple[int, ...] = ()
    embedding: int = 0
    dropout: float = 0.0
    pooling: str | None = "avg"
    hidden_activation: str = "relu"
    activation: str | None = "auto"
    task: str = "classification"

    def __post_init__(self) -> None:
        if isinstance(self.classes, list | tuple) and self.classes:
            object.__setattr__(self, "given_names", tuple(self.classes))
            object.__setattr__(self, "classes", len(self.classes))
        conform(self)
        one_of("task", self.task, tuple(MEANINGS))
        if self.meaning.whole and not self.can(self.task):
            raise BadSpec(
                f"task={self.task!r} says something of every pixel, and a {type(self).__name__} of the image as a "
                "whole: give head=kc.UNet(classes=...), or a name that ends in _unet, such as 'resnet50_unet'."
            )
        if self.given_names:
            object.__setattr__(self, "classes", self.meaning.outputs(len(self.given_names)))
        if self.activation == "auto":
            object.__setattr__(self, "activation", self.meaning.activation)
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
        one_of("pooling", self.pooling, self.POOLINGS)
        if self.pooling is None and (self.classes or self.hidden or self.embedding):
            raise BadSpec("a classifier needs pooled features: give pooling='avg' or 'max', or classes=0.")
        if self.hidden and not self.classes:
            raise BadSpec("hidden layers without a classifier: give classes, or leave hidden empty.")

    @property
    def meaning(self) -> Meaning:
        """What the output means, as far as a network must know it."""
        return MEANINGS[self.task]

    @property
    def names(self) -> int:
        """How many names of classes, or of targets, the outputs have."""
        return self.classes * self.meaning.names

    @classmethod
    def can(cls, task: str) -> bool:
        """Whether such a head answers for a task."""
        return MEANINGS[task].whole == cls.EVERYWHERE

    def for_classes(self, classes: int) -> Head:
        """The same for another number of classes; hidden layers, which were of the old ones, are left out."""
        hidden = self.hidden if classes == self.classes else ()
        pooling = self.pooling or ("avg" if classes else None)
        return dataclasses.replace(self, classes=classes, hidden=hidden, pooling=pooling)

    def for_task(self, task: str) -> Head:
        """The same for another task, and so with another output."""
        if task == self.task:
            return self
        one_of("task", task, tuple(MEANINGS))
        fresh = dataclasses.replace(self, task=task, activation="auto")
        if MEANINGS[task].direction:
            return dataclasses.replace(fresh, classes=0, hidden=(), embedding=self.embedding or EMBEDDING)
        return fresh.for_classes(MEANINGS[task].outputs(self.names))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `registry.head_from_dict` reads them back."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}

    def write(self, g: Builder, maps: Mapping[str, Tensor]) -> Tensor:
        """Write the head with builder `g` on a backbone's feature maps; returns its output.

        maps: by stage, from the stem upwards; before them all, under "image", the image itself.
        """
        *_, x = maps.values()
        x = self.pooled(g, x)
        for i, width in enumerate(self.hidden, 1):
            x = self._dropped(g, x, f"drop{i}")
            x = g.act(g.emit("dense", f"dense{i}", x, units=width), f"act{i}", self.hidden_activation)
        if self.embedding:
            x = self._dropped(g, x, "embeddingdrop")
            x = g.emit("dense", "embedding", x, units=self.embedding, bias=False)
            x = g.batchnorm(x, "norm")
            return self.classify(g, x) if self.classes else g.emit("unit", "unit", x)
        return self.classify(g, self._dropped(g, x, "drop")) if self.classes else x

    def pooled(self, g: Builder, x: Tensor) -> Tensor:
        """The features that the dense layers see."""
        return g.emit(f"global{self.pooling}", "pool", x) if self.pooling else x

    def classify(self, g: Builder, x: Tensor) -> Tensor:
        """Class scores, or targets, of features (batch, n): float32 under every dtype policy."""
        return self.answer(g, g.emit("dense", "logits", x, units=self.classes, dtype="float32"))

    def answer(self, g: Builder, x: Tensor) -> Tensor:
        """The output of logits (..., classes): as the task has it."""
        if self.meaning.in_units:
            x = g.emit("standardise", "unit", x, inverse=True)
        return g.emit("act", "probs", x, fn=self.activation, dtype="float32") if self.activation else x

    def _dropped(self, g: Builder, x: Tensor, token: str) -> Tensor:
        return g.emit("dropout", token, x, rate=self.dropout) if self.dropout else x
