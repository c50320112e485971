"""Which stages learn when, and how fast: the schedules of fine-tuning as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from keras_cnn.errors import BadSpec
from keras_cnn.models.naming import on_top
from keras_cnn.training.options import FineTuneOptions
from keras_cnn.transfer.freeze import frozen_stages, pretrained, stages

MANY, WIDE = 500, 16  # training images, and images a batch, whose statistics are worth learning, see `settled`
RATES = {"frozen": 5e-4, "train": 1e-3, "recalibrate": 1e-3}  # peak learning rates by what becomes of batch norm


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


def check_plan(names: Sequence[str], options: FineTuneOptions) -> None:
    """BadSpec where a network whose stages are `names` cannot learn so: told before data is read."""
    backbone = [name for name in names if not on_top(name)]
    if options.above is not None and options.above not in backbone:
        raise BadSpec(f"there is no stage {options.above!r} below the head: this network has {', '.join(backbone)}.")
    if not (options.schedule != "all" and options.head_epochs) and not (options.schedule != "head" and options.epochs):
        raise BadSpec("there is no epoch to learn in: give head_epochs or epochs.")


def plan(names: Sequence[str], options: FineTuneOptions) -> tuple[Phase, ...]:
    """The phases of a schedule for a network whose stages are `names`, from the stem to the head; options: `settled`.

    A decoder is of the head: it learns when the head does, and as fast.
    "head": the head alone. "two-phase": the head, then all stages above `above`. "all": these from the start.
    "gradual": the head, then one stage more at a time from the top, an epoch each, then all for the epochs that are
    left (Howard and Ruder 2018, 1801.06146, section 3.3, there a stage an epoch too).
    """
    heads = [name for name in names if on_top(name)]
    backbone = [name for name in names if not on_top(name)]
    schedule, above, rate = options.schedule, options.above, cast(float, options.learning_rate)
    learning = backbone[backbone.index(above) + 1 :] if above else backbone
    layerwise = {name: rate * options.layer_decay ** (i + 1) for i, name in enumerate(reversed(learning))}
    every = dict.fromkeys(heads, rate) | layerwise
    first = Phase("head", options.head_epochs, dict.fromkeys(heads, options.head_learning_rate))
    phases = [first] if schedule != "all" else []
    steps = list(layerwise)[:-1] if schedule == "gradual" else []
    for i, name in enumerate(steps[: max(options.epochs - 1, 0)]):
        phases.append(Phase(name, 1, {stage: r for stage, r in every.items() if stage not in learning[: -i - 1]}))
    if schedule != "head":
        phases.append(Phase("all", options.epochs - len(phases[1:]), every))
    return tuple(phase for phase in phases if phase.epochs)


def settled(options: FineTuneOptions, model: Any, images: int, batch_size: int) -> FineTuneOptions:
    """The same with what follows from the number of training images, where nothing is said: batch norm and the rate.

    Statistics of few images are worse than those that came with the weights: on five flowers at 64 pixels, networks
    that kept these had 4.2 points more with 10 images a class, the same with 50 (250 in all), and 3 fewer with 2,828.
    What learns with statistics of its own bears twice the rate: there, with all images, it has about 1.5 points more.
    """
    few = images < MANY or batch_size < WIDE
    bn = options.bn or ("frozen" if few and pretrained(model) else "train")
    rate = RATES[bn] if options.learning_rate is None else options.learning_rate
    return replace(options, bn=bn, learning_rate=rate)


def kept_frozen(model: Any, schedule: str, verbose: int | str) -> str | None:
    """The last of the stages that are frozen from the stem upwards, where stages above them learn; says so."""
    still = frozen_stages(model)
    backbone = [name for name in stages(model) if not on_top(name)]
    kept = still[-1] if still and still != backbone else None
    if verbose and kept:
        print(f"{kept} and what is below stay frozen, as they were: above={kept!r}")
    elif verbose and still and schedule != "head":
        print(f"the backbone was frozen; schedule={schedule!r} decides when it learns: 'head' keeps it frozen")
    return kept
