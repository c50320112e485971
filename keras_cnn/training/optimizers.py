"""Optimisers: what decays, what is clipped, and one for each stage."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import keras
from keras import ops

from keras_cnn.errors import BadSpec, RunWarning
from keras_cnn.models.naming import on_top
from keras_cnn.training import distribution
from keras_cnn.training.options import TrainOptions
from keras_cnn.training.phases import Phase
from keras_cnn.training.schedules import OneCycle, WarmUp
from keras_cnn.transfer.freeze import stages

CLIPNORM = 1.0  # of all gradients together: with batch norm in inference mode nothing else tames a large step
SPARED = ["gamma", "beta", "bias"]  # variables that do not decay


# What Keras' optimisers are called, and which of our options each has. Keras' decay is decoupled: for SGD with momentum
# 0.9, ten times torch's pulls as hard.
KINDS = {
    "sgd": ("SGD", ("momentum",)),
    "adamw": ("AdamW", ("epsilon",)),
    "lamb": ("Lamb", ("epsilon",)),
    "lion": ("Lion", ()),
    "muon": ("Muon", ("momentum", "epsilon")),
    "rmsprop": ("RMSprop", ("momentum", "epsilon")),
}


def of(options: TrainOptions, steps: int) -> keras.optimizers.Optimizer:
    """The optimiser of a training that takes so many batches an epoch."""
    name, own = KINDS[options.optimizer]
    told: dict[str, Any] = {option: getattr(options, option) for option in own}
    told |= {"weight_decay": options.weight_decay or None}
    if options.optimizer == "sgd":
        told |= {"nesterov": True}
    if options.optimizer == "muon":
        told |= {"adam_weight_decay": options.weight_decay}  # of biases, norms and all that is no matrix
    check_ema(options.ema, math.ceil(options.epochs * steps / options.accumulate))
    if options.ema:
        told |= {"use_ema": True, "ema_momentum": options.ema}
    if options.accumulate > 1:
        told |= {"gradient_accumulation_steps": options.accumulate}
    several = distribution.place().replicas > 1
    if several and options.accumulate > 1:
        raise BadSpec("accumulate and several devices do not go together: raise batch_size, which they share.")
    if options.clipnorm and not several:
        told |= {"global_clipnorm": options.clipnorm}
    optimizer = getattr(keras.optimizers, name)(rate(options, math.ceil(steps / options.accumulate)), **told)
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=SPARED)
    if options.clipnorm and several:
        return ClippedOptimizers(keras.optimizers.OptimizerMap(optimizer, {}), options.clipnorm)
    return optimizer


def check_ema(ema: float, steps: int) -> None:
    """Warn where a running mean of the weights would still hold those of the beginning when a training ends."""
    reach = 1 / (1 - ema)
    if ema and reach > steps / 2:
        best = max(0.0, 1 - 5 / max(steps, 5))
        warnings.warn(
            f"ema={ema:g} is a mean over about {reach:,.0f} steps, and the training has {steps:,}: for the most part "
            f"its weights are those of the beginning. Take about ema={best:.2g}, or 0 for none.",
            RunWarning,
            stacklevel=4,
        )


def rate(options: TrainOptions, steps: int) -> Any:
    """The course of the learning rate, of a training with so many steps an epoch."""
    peak, whole = cast(float, options.learning_rate), options.epochs * steps
    rise = round(options.warmup * whole)
    rest = max(whole - rise, 1)
    if options.annealing == "cosine":
        return OneCycle(peak, whole, options.warmup)
    after: Any = {
        "linear": lambda: keras.optimizers.schedules.PolynomialDecay(peak, rest, 0.0),
        "exponential": lambda: keras.optimizers.schedules.ExponentialDecay(
            peak, round(options.decay_epochs * steps) or 1, options.decay_rate, staircase=True
        ),
        "constant": lambda: peak,
    }[options.annealing]()
    return WarmUp(after, peak, rise) if rise else after


def adamw(
    learning_rate: Any,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    clipnorm: float | None = CLIPNORM,
    name: str | None = None,
) -> keras.optimizers.Optimizer:
    """AdamW with the gradient's norm held to `clipnorm`, where there is one.

    ema: momentum of a running mean of the weights; 0 for none.
    """
    told: Any = {"use_ema": True, "ema_momentum": ema} if ema else {}
    told |= {"name": name} if name else {}
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay, global_clipnorm=clipnorm, **told)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=SPARED)
    return optimizer


def clipped(gradients: Sequence[Any], norm: float = CLIPNORM) -> list[Any]:
    """Gradients, or None in their place, scaled so that the norm of all together is at most `norm` (1211.5063, 3.2)."""
    squares: Any = sum(cast(Any, ops.sum(ops.square(one))) for one in gradients if one is not None)
    scale = norm / cast(Any, ops.maximum(ops.sqrt(squares), norm))
    return [one if one is None else one * scale for one in gradients]


@keras.saving.register_keras_serializable("keras_cnn")
class ClippedOptimizers(keras.optimizers.MultiOptimizer):
    """Optimisers by variable; the norm of all their gradients together is held to `norm`.

    Clipped by each of them for itself, the gradient would change its direction; and so it would by each device. All
    gradients are summed over the devices before, and divided by their number, since each optimiser sums them again.
    """

    def __init__(self, optimizer_map: Any, norm: float = CLIPNORM, **options: Any) -> None:
        super().__init__(optimizer_map, **options)
        self.norm = norm

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "norm": self.norm}

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        whole, replicas = clipped(distribution.summed(grads), self.norm), distribution.place().replicas
        super().apply([one if one is None else one / replicas for one in whole], trainable_variables)


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
        self.learn: dict[str, list[Any]] = {}  # the variables of each
        self.starts: dict[str, int] = {}
        self.policy = ""  # of the network's precision
        self._scale, self._scaled = 2.0**15, cast(Any, None)  # Keras' own start

    def build(self, model: Any, names: Iterable[str]) -> None:
        """Make what is missing for the stages of these names of which some variables learn."""
        self.policy, groups = model.dtype_policy.name, stages(model)
        for name in names:
            variables = [v for layer in groups[name] for v in layer.trainable_variables]
            if variables and name not in self.optimizers:
                # On torch Keras cannot decay an empty list, which a stage of nothing but a norm would leave.
                spared = all(variable.name in SPARED for variable in variables)
                decay = 0.0 if spared or (self.spare_backbone and not on_top(name)) else self.weight_decay
                self.optimizers[name] = adamw(OneCycle(0.0, 1), decay, self.ema, None, name)
                self.optimizers[name].build(variables)
                self.learn[name] = variables

    def enter(self, model: Any, phase: Phase) -> None:
        """Begin a phase where the optimisers are now; mean weights begin with those of the best epoch."""
        self.build(model, phase.rates)
        for name, optimizer in self.optimizers.items() if self.ema else ():
            means = [v for v in optimizer.variables if v.name.endswith("_average")]
            for variable, mean in zip(self.learn[name], means, strict=True):
                mean.assign(variable)
        self.starts = {name: int(optimizer.iterations.numpy()) for name, optimizer in self.optimizers.items()}

    def of_phase(self, phase: Phase, steps: int, warmup: float) -> keras.optimizers.Optimizer:
        """The optimiser of a phase of so many steps, which began at `starts`."""
        used = {name: self.optimizers[name] for name in phase.rates if name in self.optimizers}
        for name, optimizer in used.items():
            optimizer.learning_rate = OneCycle(phase.rates[name], steps, warmup, self.starts[name])
        by_path = {f"{name}_.*": optimizer for name, optimizer in used.items()}
        default = next(iter(used.values()))  # for nothing: the map is complete
        optimizer = ClippedOptimizers(keras.optimizers.OptimizerMap(default, by_path))
        if self.policy != "mixed_float16":
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
