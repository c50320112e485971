"""Compound scaling: depth, width and resolution grown together (Tan & Le 2019, 1905.11946, section 3)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cnn import files
from keras_cnn.errors import BadSpec, CorruptFile
from keras_cnn.models import registry, shapes
from keras_cnn.models.config import Spec
from keras_cnn.models.fields import known_options
from keras_cnn.terminal import progress

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15  # depth, width, resolution: what the paper's grid search found on B0


@known_options
def compound_scale(
    network: str | Spec, phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> Spec:
    """The Spec of a network whose depth, width and resolution grow together: by alpha, beta and gamma to the phi.

    network: an architecture or a Spec of a family that scales: EfficientNet, ResNet. Where alpha * beta**2 * gamma**2
    is about 2, as by default, multiply-accumulates grow about as 2**phi: widths are rounded to multiples of 8, depths
    to whole blocks. Raises BadSpec for a family without a rule.

    >>> import keras_cnn as kc
    >>> spec = kc.compound_scale("resnet50", phi=1)
    >>> spec.depths, spec.widths, spec.input_shape
    ((4, 5, 7, 4), (72, 144, 280, 560), (258, 258, 3))
    """
    return spec_of(network).scaled(alpha**phi, beta**phi, gamma**phi)


def spec_of(network: str | Spec) -> Spec:
    return network if isinstance(network, Spec) else registry.get(network)


def scales(spec: Spec) -> bool:
    """Whether the family has a rule for scaling."""
    return type(spec).scaled is not Spec.scaled


# Ways to spend a multiple of the multiply-accumulates: they grow with the depth, and with the square of the width and
# of the resolution (section 3.3).
WAYS: dict[str, Callable[[Spec, float], Spec]] = {
    "depth": lambda spec, budget: spec.scaled(budget, 1.0, 1.0),
    "width": lambda spec, budget: spec.scaled(1.0, budget**0.5, 1.0),
    "resolution": lambda spec, budget: spec.scaled(1.0, 1.0, budget**0.5),
    "together": lambda spec, budget: compound_scale(spec, math.log(budget) / math.log(ALPHA * BETA**2 * GAMMA**2)),
}


def spend(network: str | Spec, budget: float) -> list[dict[str, Any]]:
    """What `budget` times the multiply-accumulates buy by depth, width or resolution alone, and together.

    A row a way: way, layers (convolutions and dense layers), side (pixels), parameters, macs, activations (bytes for
    one image in float32), all of the scaled network whose measured cost is nearest to the budget.
    """
    rows = []
    for way, scale in WAYS.items():
        scaled, layers = _afford(spec_of(network), scale, budget)
        rows.append(
            {
                "way": way,
                "layers": sum("kernel" in row.variables for row in layers),
                "side": scaled.input_shape[0],
                "parameters": shapes.parameters(layers),
                "macs": shapes.macs(layers),
                "activations": shapes.activations(layers),
            }
        )
    return rows


def _afford(spec: Spec, scale: Callable[[Spec, float], Spec], budget: float) -> tuple[Spec, tuple[shapes.Row, ...]]:
    """The scaled network nearest to the budget: rounding makes the cost leap, so it is sought by bisection."""
    wanted, low, high = budget * shapes.macs(_tally(spec)), 0.5 * budget, 2 * budget
    found = []
    for _ in range(8):
        middle = math.sqrt(low * high)
        scaled = scale(spec, middle)
        layers = _tally(scaled)
        cost = shapes.macs(layers)
        found.append((abs(cost - wanted), len(found), scaled, layers))
        low, high = (low, middle) if cost > wanted else (middle, high)
    *_, scaled, layers = min(found, key=lambda one: one[:2])
    return scaled, layers


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
    network: str | Spec,
    evaluate: Callable[[Spec], float],
    *,
    budget: float = 2.0,
    step: float = 0.1,
    tolerance: float = 0.1,
    out: str | os.PathLike[str] | None = None,
) -> list[Trial]:
    """The paper's grid search for alpha, beta and gamma at phi = 1 (section 3.3): trials, the best score first.

    evaluate: the score of a scaled Spec, higher is better: train it for as long as you can afford, `kc.build(spec)`.
    budget: of multiply-accumulates, as a multiple of the unscaled network's; trials are those points of the grid,
    1 and multiples of `step` above, whose measured cost is within `tolerance` (a share) of it.
    out: a JSON file that gets every trial as soon as it is scored; the same search goes on from it after a crash.
    Raises CorruptFile where the file is of another search.
    """
    spec = spec_of(network)
    search = {"spec": json.loads(json.dumps(spec.to_dict())), "budget": budget, "step": step, "tolerance": tolerance}
    done = {(t.alpha, t.beta, t.gamma): t for t in _read(out, search)}
    base = shapes.macs(_tally(spec))
    trials, seen = [], set()  # rounding makes one network of neighbouring points
    for point in progress(grid(budget, step, tolerance), "searching coefficients"):
        alpha, beta, gamma = point
        scaled = spec.scaled(alpha, beta, gamma)
        cost = shapes.macs(_tally(scaled)) / base
        if abs(cost / budget - 1) > tolerance or scaled in seen:
            continue
        seen.add(scaled)
        trials.append(done.get(point) or Trial(alpha, beta, gamma, round(cost, 4), float(evaluate(scaled))))
        if out is not None and point not in done:
            text = json.dumps({**search, "trials": [dataclasses.asdict(trial) for trial in trials]}, indent=1)
            files.write_text(out, text + "\n")
    if not trials:
        raise BadSpec(f"no point of the grid costs {budget:g} times {spec.family}'s: take a smaller step.")
    return sorted(trials, key=lambda trial: -trial.score)


def grid(budget: float, step: float, tolerance: float) -> list[tuple[float, float, float]]:
    """Points (alpha, beta, gamma) from 1 upwards whose alpha * beta**2 * gamma**2 is near the budget; twice the
    tolerance, since rounding moves the cost that is measured."""
    axis = [round(1 + i * step, 6) for i in range(int((budget - 1) / step + 1e-9) + 1)]
    points = itertools.product(axis, axis, axis)
    return [(a, b, c) for a, b, c in points if abs(a * b * b * c * c / budget - 1) <= 2 * tolerance]


def _tally(spec: Spec) -> tuple[shapes.Row, ...]:
    return shapes.tally(registry.default_config(spec.family.lower(), spec))


def _read(path: str | os.PathLike[str] | None, search: dict[str, Any]) -> list[Trial]:
    if path is None or not Path(path).exists():
        return []
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        trials = [Trial(**trial) for trial in stored.pop("trials")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is not the file of a search ({error}): give another name, or delete it.") from None
    if stored != search:
        raise CorruptFile(f"{path} holds a search with another network or budget: give another name, or delete it.")
    return trials
