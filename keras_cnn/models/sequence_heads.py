"""What stands on a backbone for sequences: one answer for all steps, one for each, or a forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import LONGEST_SEQUENCE
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.families.tcn import TCN, doubling
from keras_cnn.models.fields import known_options, one_of, within
from keras_cnn.models.heads import Head
from keras_cnn.models.meaning import MEANINGS

if TYPE_CHECKING:
    from keras_cnn.models.config import Config


@known_options
@dataclass(frozen=True, kw_only=True)
class SequenceHead(Head):
    """The dense layers behind a backbone for sequences.

    The output is (batch, classes) for the sequence as a whole; with task="segmentation" it is (batch, time, classes),
    an answer for every step; with a horizon (batch, horizon, targets), a forecast.

    pooling: "last", the features of the last step, which a causal network has filled with all that came before
        (1803.01271, and keras-tcn); "avg" or "max" over the steps, which see less each and are told apart more easily
        when what matters may lie anywhere. A class for every step needs none.
    classes, task, hidden, hidden_activation, dropout, embedding, activation: as of a `Head`.
    horizon: steps that are forecast, each with as many numbers as `classes`, which are targets here: for
        task="regression". 0 for none.
    """

    SIDES = 1
    POOLINGS = ("last", "avg", "max", None)

    pooling: str | None = "last"
    horizon: int = 0

    def __post_init__(self) -> None:
        one_of("task", self.task, tuple(filter(self.can, MEANINGS)))
        super().__post_init__()
        within("horizon", self.horizon, 0, LONGEST_SEQUENCE)
        if self.horizon and (not self.meaning.in_units or not self.classes):
            raise BadSpec(
                f"horizon={self.horizon} with task={self.task!r} and {self.classes} targets: a forecast is a "
                "regression; give task='regression', and classes, the number of targets of a step."
            )

    @classmethod
    def can(cls, task: str) -> bool:
        """Whether such a head answers for a task: for every step too, but it gives no sequences back."""
        return MEANINGS[task].labels is not None

    @property
    def everywhere(self) -> bool:
        """Whether every step has an answer of its own."""
        return self.meaning.whole

    def for_task(self, task: str) -> Head:
        """The same for another task; a forecast alone has a horizon."""
        return super(SequenceHead, self if task == self.task else replace(self, horizon=0)).for_task(task)

    def pooled(self, g: Builder, x: Tensor) -> Tensor:
        return x if self.everywhere else super().pooled(g, x)

    def classify(self, g: Builder, x: Tensor) -> Tensor:
        if not self.horizon:
            return super().classify(g, x)
        x = g.emit("dense", "logits", x, units=self.horizon * self.classes, dtype="float32")
        return self.answer(g, g.emit("reshape", "steps", x, shape=(self.horizon, self.classes), dtype="float32"))


def short_sighted(config: Config) -> str | None:
    """What is to be said of a network whose answer for a whole sequence rests on features that see a part of it."""
    head, backbone, steps = config.head, config.backbone, config.input_shape[0]
    if not isinstance(head, SequenceHead) or not isinstance(backbone, TCN) or head.everywhere or steps is None:
        return None
    seen = backbone.receptive_field
    if seen >= steps or head.pooling is None:
        return None
    what = (
        f"the answer is that of the last step, and rests on the last {seen if backbone.causal else (seen + 1) // 2}"
        if head.pooling == "last"
        else f"each step's features, which are pooled, see {seen}"
    )
    return (
        f"the receptive field is shorter than the sequences: {what} of {steps} steps. Give dilations="
        f"{doubling(backbone.kernel, steps)}, a longer kernel, or shorter sequences."
    )
