"""Compound scaling: depth, width and resolution grown together (Tan & Le 2019, 1905.11946, section 3)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_cnn import files
from keras_cnn.errors import BadSpec
from keras_cnn.models import registry, shapes
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import Config
from keras_cnn.models.fields import known_options
from keras_cnn.terminal import progress

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15  # depth, width, resolution: what the paper's grid search found on B0


@known_options
def compound_scale(
    network: str | Config | Backbone,
    phi: float,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
) -> Config:
    """The Config of a network whose depth, width and resolution grow together: by alpha, beta and gamma to the phi.

    network: an architecture, a Config or a backbone, of a family that scales: EfficientNet, ResNet. Where
    alpha * beta**2 * gamma**2 is about 2, as by default, multiply-accumulates grow about as 2**phi: widths are rounded
    to multiples of 8, depths to whole blocks. Raises BadSpec for a family without a rule.

    >>> import keras_cnn as kc
    >>> config = kc.compound_scale("resnet50", phi=1)
    >>> config.backbone.depths, config.backbone.widths, config.input_shape
    ((4, 5, 7, 4), (72, 144, 280, 560), (258, 258, 3))
    """
    return scaled(config_of(network), alpha**phi, beta**phi, gamma**phi)


def config_of(network: str | Config | Backbone) -> Config:
    """The configuration that a caller means."""
    return registry.get(network) if isinstance(network, str) else registry.config_of(network)


def scaled(config: Config, depth: float, width: float, resolution: float) -> Config:
    """A network with its depth, width and resolution multiplied; a side that may be any stays so."""
    *sides, channels = config.input_shape
    height, tall = (None if n is None else round(n * resolution) for n in sides)
    return config.with_(backbone=config.backbone.scaled(depth, width)).at((height, tall, channels))


def scales(config: Config) -> bool:
    """Whether the family has a rule for scaling."""
    return type(config.backbone).scaled is not Backbone.scaled


# Ways to spend a multiple of the multiply-accumulates: they grow with the depth, and with the square of the width and
# of the resolution (section 3.3).
WAYS: dict[str, Callable[[Config, float], Config]] = {
    "depth": lambda config, budget: scaled(config, budget, 1.0, 1.0),
    "width": lambda config, budget: scaled(config, 1.0, budget**0.5, 1.0),
    "resolution": lambda config, budget: scaled(config, 1.0, 1.0, budget**0.5),
    "together": lambda config, budget: compound_scale(config, math.log(budget) / math.log(ALPHA * BETA**2 * GAMMA**2)),
}


def spend(network: str | Config | Backbone, budget: float) -> list[dict[str, Any]]:
    """What `budget` times the multiply-accumulates buy by depth, width or resolution alone, and together.

    A row a way: way, layers (convolutions and dense layers), side (pixels), parameters, macs, activations (bytes for
    one image in float32), all of the scaled network whose measured cost is nearest to the budget.
    """
    rows = []
    for way, scale in WAYS.items():
        grown, layers = _afford(config_of(network), scale, budget)
        rows.append(
            {
                "way": way,
                "layers": sum("kernel" in row.variables for row in layers),
                "side": grown.input_shape[0],
                "parameters": shapes.parameters(layers),
                "macs": shapes.macs(layers),
                "activations": shapes.activations(layers),
            }
        )
    return rows


def _afford(
    config: Config, scale: Callable[[Config, float], Config], budget: float
) -> tuple[Config, tuple[shapes.Row, ...]]:
    """The scaled network nearest to the budget: rounding makes the cost leap, so it is sought by bisection."""
    wanted, low, high = budget * shapes.macs(shapes.tally(config)), 0.5 * budget, 2 * budget
    found = []
    for _ in range(8):
        middle = math.sqrt(low * high)
        grown = scale(config, middle)
        layers = shapes.tally(grown)
        cost = shapes.macs(layers)
        found.append((abs(cost - wanted), len(found), grown, layers))
        low, high = (low, middle) if cost > wanted else (middle, high)
    *_, grown, layers = min(found, key=lambda one: one[:2])
    return grown, layers


@dataclass(frozen=True)
class Trial:
    """One point of the grid: multipliers of depth, width and resolution; the cost, measured, as a multiple of the
    unscaled network's multiply-accumulates; what `evaluate` said."""

    alpha: float
    beta: float
    gamma: float
    cost: float
    score: float


@known_options
def search_coefficients(
    network: str | Config | Backbone,
    evaluate: Callable[[Config], float],
    *,
    budget: float = 2.0,
    step: float = 0.1,
    tolerance: float = 0.1,
    out: str | os.PathLike[str] | None = None,
) -> list[Trial]:
    """The paper's grid search for alpha, beta and gamma at phi = 1 (section 3.3): trials, the best score first.

    evaluate: the score of a scaled configuration, higher is better: train it for as long as you can afford,
        `kc.build(config)`.
    budget: of multiply-accumulates, as a multiple of the unscaled network's; trials are those points of the grid,
    1 and multiples of `step` above, whose measured cost is within `tolerance` (a share) of it.
    out: a JSON file that gets every trial as soon as it is scored; the same search goes on from it after a crash.
    Raises BadSpec where the file is of another search, CorruptFile where it is damaged.
    """
    config = config_of(network)
    search = {"network": config.to_dict(), "budget": budget, "step": step, "tolerance": tolerance}
    journal = files.Journal(out, search)
    done = {(trial.alpha, trial.beta, trial.gamma): trial for trial in (Trial(**row) for row in journal.rows)}
    base = shapes.macs(shapes.tally(config))
    trials, seen = [], set()  # rounding makes one network of neighbouring points
    for point in progress(grid(budget, step, tolerance), "searching coefficients"):
        alpha, beta, gamma = point
        grown = scaled(config, alpha, beta, gamma)
        cost = shapes.macs(shapes.tally(grown)) / base
        if abs(cost / budget - 1) > tolerance or (grown.backbone, grown.input_shape) in seen:
            continue
        seen.add((grown.backbone, grown.input_shape))
        if point not in done:
            done[point] = Trial(alpha, beta, gamma, round(cost, 4), float(evaluate(grown)))
            journal.add([dataclasses.asdict(done[point])])
        trials.append(done[point])
    if not trials:
        raise BadSpec(f"no point of the grid costs {budget:g} times {config.backbone.family}'s: take a smaller step.")
    return sorted(trials, key=lambda trial: -trial.score)


def grid(budget: float, step: float, tolerance: float) -> list[tuple[float, float, float]]:
    """Points (alpha, beta, gamma) from 1 upwards whose alpha * beta**2 * gamma**2 is near the budget; twice the
    tolerance, since rounding moves the cost that is measured."""
    axis = [round(1 + i * step, 6) for i in range(int((budget - 1) / step + 1e-9) + 1)]
    points = itertools.product(axis, axis, axis)
    return [(a, b, c) for a, b, c in points if abs(a * b * b * c * c / budget - 1) <= 2 * tolerance]
