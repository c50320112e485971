"""Which stages learn when, and how fast: the schedules of fine-tuning as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras

from keras_cnn.errors import BadSpec
from keras_cnn.models.naming import CLASSIFIERS
from keras_cnn.training import recipe
from keras_cnn.transfer.freeze import stages

SCHEDULES = ("two-phase", "gradual", "all", "head")
WARMUPS = {"one-cycle": 0.2, "cosine": 0.05}  # share of a phase's steps in which the rate rises


@dataclass(frozen=True)
class Phase:
    """Epochs in which the stages named in `rates` learn, each at its own peak rate.

    name: "head", "all", or the lowest stage that learns.
    """

    name: str
    epochs: int
    rates: dict[str, float]

    def __str__(self) -> str:
        return f"{', '.join(self.rates)} {'learns' if len(self.rates) == 1 else 'learn'}"


def plan(
    schedule: str,
    names: Sequence[str],
    *,
    head_epochs: int,
    epochs: int,
    head_rate: float,
    rate: float,
    decay: float,
    above: str | None = None,
) -> tuple[Phase, ...]:
    """The phases of a schedule for a network whose stages are `names`, from the stem to the head.

    "head": the head alone. "two-phase": the head, then all stages above `above`. "all": these from the start.
    "gradual": the head, then one stage more at a time from the top, an epoch each, then all for the epochs that are
    left (Howard and Ruder 2018, 1801.06146, section 3.3, there a stage an epoch too).
    rate: of the head once the backbone learns; each stage learns `decay` times as fast as the one above it.
    """
    if schedule not in SCHEDULES:
        raise BadSpec(f"schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}.")
    heads = [name for name in names if name in CLASSIFIERS]
    backbone = [name for name in names if name not in CLASSIFIERS]
    if above is not None and above not in backbone:
        raise BadSpec(f"there is no stage {above!r} below the head: this network has {', '.join(backbone)}.")
    learning = backbone[backbone.index(above) + 1 :] if above else backbone
    layerwise = {name: rate * decay ** (i + 1) for i, name in enumerate(reversed(learning))}
    every = dict.fromkeys(heads, rate) | layerwise
    phases = [Phase("head", head_epochs, dict.fromkeys(heads, head_rate))] if schedule != "all" else []
    steps = list(layerwise)[:-1] if schedule == "gradual" else []
    for i, name in enumerate(steps[: max(epochs - 1, 0)]):
        phases.append(Phase(name, 1, {stage: r for stage, r in every.items() if stage not in learning[: -i - 1]}))
    if schedule != "head":
        phases.append(Phase("all", epochs - len(phases[1:]), every))
    return tuple(phase for phase in phases if phase.epochs)


@keras.saving.register_keras_serializable("keras_cnn")
class ClippedOptimizers(keras.optimizers.MultiOptimizer):
    """Optimisers by variable; the norm of all their gradients together is held to 1.

    Clipped by each of them for itself, the gradient would change its direction.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply(recipe.clipped(grads), trainable_variables)


class StageOptimizers:
    """An AdamW for each stage, kept from phase to phase, so that its moments survive a change of freezing.

    Gradients are clipped over all stages at once. Rates by stage need optimisers by stage: Adam divides a gradient by
    its own size, so that scaling gradients would change nothing. ema: momentum of a running mean of the weights.
    spare_backbone: decay the classifiers only.
    starts: the step of each optimiser at which the phase began.
    """

    def __init__(self, weight_decay: float, ema: float = 0.0, spare_backbone: bool = False) -> None:
        self.weight_decay, self.ema, self.spare_backbone = weight_decay, ema, spare_backbone
        self.optimizers: dict[str, Any] = {}
        self.starts: dict[str, int] = {}
        self._scale, self._scaled = 2.0**15, cast(Any, None)  # Keras' own start

    def build(self, model: Any, names: Iterable[str]) -> None:
        """Make what is missing for the stages of these names of which some variables learn."""
        groups = stages(model)
        for name in names:
            variables = [v for layer in groups[name] for v in layer.trainable_variables]
            if variables and name not in self.optimizers:
                decay = 0.0 if self.spare_backbone and name not in CLASSIFIERS else self.weight_decay
                self.optimizers[name] = recipe.adamw(recipe.OneCycle(0.0, 1), decay, self.ema, clipnorm=None)
                self.optimizers[name].build(variables)

    def enter(self, model: Any, phase: Phase) -> None:
        """Begin a phase where the optimisers are now; mean weights begin with those of the best epoch."""
        self.build(model, phase.rates)
        for optimizer in self.optimizers.values() if self.ema else ():
            for variable, mean in zip(
                optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
            ):
                mean.assign(variable)
        self.starts = {name: int(optimizer.iterations) for name, optimizer in self.optimizers.items()}

    def of_phase(self, phase: Phase, steps: int, warmup: float) -> keras.optimizers.Optimizer:
        """The optimiser of a phase of so many steps, which began at `starts`."""
        used = {name: self.optimizers[name] for name in phase.rates if name in self.optimizers}
        for name, optimizer in used.items():
            optimizer.learning_rate = recipe.OneCycle(phase.rates[name], steps, warmup, self.starts[name])
        by_path = {f"{name}_.*": optimizer for name, optimizer in used.items()}
        default = next(iter(used.values()))  # for nothing: the map is complete
        optimizer = ClippedOptimizers(keras.optimizers.OptimizerMap(default, by_path))
        if keras.config.dtype_policy().name != "mixed_float16":
            return optimizer
        # Keras would wrap it as well, but begin each phase, and a run that goes on, at its first scale.
        self._scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=self.scale)
        return self._scaled

    @property
    def scale(self) -> float:
        """What the loss is multiplied by under mixed_float16, where small gradients would vanish."""
        if self._scaled is not None and self._scaled.built:
            self._scale = float(self._scaled.dynamic_scale)
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = value

    @property
    def variables(self) -> dict[str, Any]:
        return {f"{name}/{i}": v for name, opt in self.optimizers.items() for i, v in enumerate(opt.variables)}
