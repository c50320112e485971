"""The course of the learning rate."""

from __future__ import annotations

import math
from typing import Any, cast

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnn")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then a cosine to zero (Smith 2018, 1803.09820, with the usual cosine descent).

    peak: the highest rate. steps: of the whole run. warmup: share of the steps spent rising.
    start: the optimiser's step at which the cycle begins: more than 0 for an optimiser that has trained before.
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.2, start: int = 0) -> None:
        self.peak, self.steps, self.warmup, self.start = peak, steps, warmup, start

    def __call__(self, step: Any) -> Any:
        step = cast(Any, ops.cast(step, "float32")) - self.start
        rise = max(round(self.warmup * self.steps), 1)  # whole steps, so that the peak is met and not passed
        fall = max(self.steps - rise, 1.0)
        turn = cast(Any, ops.cos(math.pi * cast(Any, ops.clip((step - rise) / fall, 0.0, 1.0))))
        return self.peak * cast(Any, ops.where(step < rise, (step + 1) / rise, 0.5 * (1 + turn)))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "start": self.start}


@keras.saving.register_keras_serializable("keras_cnn")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak` (1706.02677, section 2.2), then another schedule from its beginning, or one rate.

    after: what follows. steps: of the rise.
    """

    def __init__(self, after: Any, peak: float, steps: int) -> None:
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        step = cast(Any, ops.cast(step, "float32"))
        later = self.after(ops.maximum(step - self.steps, 0.0)) if callable(self.after) else self.after
        return ops.where(step < self.steps, self.peak * (step + 1) / self.steps, later)

    def get_config(self) -> dict[str, Any]:
        return {"after": self.after, "peak": self.peak, "steps": self.steps}
