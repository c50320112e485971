"""What to expect of transfer learning, measured: the same data learnt from scratch and from pretrained weights."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_cnn import tasks
from keras_cnn.checkpoints import arrays
from keras_cnn.data import Data
from keras_cnn.errors import BadSpec
from keras_cnn.files import Journal, holding, write_beside
from keras_cnn.models.fields import known_options
from keras_cnn.tasks import Task
from keras_cnn.training import scratch
from keras_cnn.training.finetune import fine_tune
from keras_cnn.transfer.probing import probe

SIZES = (10, 50, 0)
SEEDS = (0, 1, 2)
JOURNAL, FILE, SUMMARY, GAINS = "study.json", "study.csv", "summary.csv", "gains.csv"

# What each method asks of `fine_tune`; the default is what a single call does. Two have no such call.
METHODS: dict[str, Mapping[str, Any] | None] = {
    "scratch": None,
    "linear probe": None,
    "frozen head": {"schedule": "head", "head_epochs": 20, "probe": False},
    "two-phase": {"schedule": "two-phase", "layer_decay": 1.0, "probe": False},
    "gradual": {"schedule": "gradual", "layer_decay": 0.7, "probe": False},
    "default": {},
}


class Row(NamedTuple):
    """One epoch of one run. size: training images of each class, 0 for all of them; images: in all; score: the figure
    on validation images by which the task judges."""

    size: int
    images: int
    seed: int
    method: str
    epoch: int
    score: float


@known_options
def study(
    build: Callable[[bool], Any],
    data: Data,
    out: str | Path,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    methods: Iterable[str] = tuple(METHODS),
    epochs: int = 15,
    scratch_epochs: int = 30,
    scratch_rate: float = 0.05,
    verbose: int | str = 0,
) -> list[Row]:
    """Learn subsets of a data set by each of some methods, with several seeds, and write the learning curves.

    build: from whether it is to be pretrained to a network for the data's classes. sizes: training images of each
    class, 0 for all. A seed draws the subset, the head, the order and the augmentation; validation images are the
    same in all runs. epochs: those in which a pretrained backbone learns. scratch_epochs, scratch_rate: of `train` on
    random weights, in the data's batches. Curves are those of training: what `fine_tune` returns is never worse than
    the linear probe either.
    out: a directory that gets study.csv (a line an epoch), summary.csv (mean and spread of the best epochs), gains.csv
    (what fine-tuning has over random weights) and study.png, anew after every run; the same call goes on where it was,
    from study.json. Raises BadSpec where it began otherwise, CorruptFile where study.json is damaged.
    """
    out = Path(out)
    methods = list(methods)
    if unknown := [name for name in methods if name not in METHODS]:
        raise BadSpec(f"there is no method {unknown[0]!r}: choose among {', '.join(METHODS)}.")
    net = build(True)
    task = tasks.of(net)
    options = {
        "network": arrays.fingerprint(net),
        "classes": list(data.class_names),
        "images": data.sizes,
        "augment": data.augment,
        "batch_size": data.batch_size,
        "epochs": epochs,
        "scratch_epochs": scratch_epochs,
        "scratch_rate": scratch_rate,
    }
    with holding(out):
        journal = Journal(out / JOURNAL, options)
        rows = [Row(*row) for row in journal.rows]
        done = {(row.size, row.seed, row.method) for row in rows}
        number, all_runs = 0, len(sizes) * len(seeds) * len(methods)
        for size, seed in itertools.product(sizes, seeds):
            subset = replace(data.subset(size or data.sizes["train"], seed), seed=seed)
            for method in methods:
                number += 1
                if (size, seed, method) in done:
                    continue
                if verbose:
                    what = f"{size or 'all'} images a class, seed {seed}: {method}"
                    print(f"run {number} of {all_runs}: {what}", flush=True)
                keras.utils.set_random_seed(seed)
                curve = _curve(method, build, subset, epochs, scratch_epochs, scratch_rate)
                images = subset.sizes["train"]
                found = [Row(size, images, seed, method, epoch, score) for epoch, score in enumerate(curve, 1)]
                journal.add(found)
                rows += found
                _write(out, rows, task)
                keras.backend.clear_session()  # graphs of networks that are gone
    return rows


def _curve(
    method: str,
    build: Callable[[bool], Any],
    subset: Data,
    epochs: int,
    scratch_epochs: int,
    scratch_rate: float,
) -> list[float]:
    """The score after each epoch of one run."""
    net = build(method != "scratch")
    if method == "linear probe":
        return [float(probe(net, subset).linear)]
    if method == "scratch":
        told = {"epochs": scratch_epochs, "learning_rate": scratch_rate, "verbose": 0}
        history = scratch.train(net, subset.train, subset.val, **told)
    else:
        history = fine_tune(net, subset, seed=subset.seed, epochs=epochs, verbose=0, **(METHODS[method] or {}))
    return [float(score) for score in history.history[tasks.of(net).monitor]]


class Summary(NamedTuple):
    """A method at a size: how it starts, rises and ends, over the seeds; in what the task judges by.

    first: after one epoch. slope: gain an epoch up to half of the run. best, spread: mean and standard deviation of
    the best epochs.
    """

    size: int
    images: int
    method: str
    runs: int
    first: float
    slope: float
    best: float
    spread: float


def summarise(rows: Iterable[Row], best_of: Callable[[Iterable[float]], float] = max) -> list[Summary]:
    """A line for each size and method, in the order in which they were run. best_of: max or min, as the task has it."""
    curves: dict[tuple[int, int, str], dict[int, list[float]]] = {}
    for row in rows:
        curves.setdefault((row.size, row.images, row.method), {}).setdefault(row.seed, []).append(row.score)
    found = []
    for (size, images, method), runs in curves.items():
        values = list(runs.values())
        best = [best_of(curve) for curve in values]
        slope = [(curve[len(curve) // 2] - curve[0]) / max(len(curve) // 2, 1) for curve in values]
        first = [curve[0] for curve in values]
        spread = float(np.std(best, ddof=1)) if len(best) > 1 else 0.0
        start, gain, end = (round(float(np.mean(part)), 4) for part in (first, slope, best))
        found.append(Summary(size, images, method, len(runs), start, gain, end, round(spread, 4)))
    return found


class Gain(NamedTuple):
    """What fine-tuning by default has over random weights at a size, as differences of their summaries: a better
    start, a better slope, a better asymptote. A promise that is not above 0 does not hold at that size."""

    size: int
    images: int
    start: float
    slope: float
    asymptote: float


def gains(lines: Iterable[Summary], best_of: Callable[[Iterable[float]], float] = max) -> list[Gain]:
    """A line for each size at which both were run. best_of: min where less is better."""
    sign = best_of((-1, 1))
    by_size: dict[tuple[int, int], dict[str, Summary]] = {}
    for line in lines:
        by_size.setdefault((line.size, line.images), {})[line.method] = line
    found = []
    for size, methods in by_size.items():
        if {"default", "scratch"} <= methods.keys():
            one, other = methods["default"], methods["scratch"]
            changes = (one.first - other.first, one.slope - other.slope, one.best - other.best)
            found.append(Gain(*size, *(round(sign * change, 4) for change in changes)))
    return found


def _write(out: Path, rows: Sequence[Row], task: Task) -> None:
    from keras_cnn.insight import plots

    summary = summarise(rows, task.best)
    tables = ((FILE, Row, rows), (SUMMARY, Summary, summary), (GAINS, Gain, gains(summary, task.best)))
    for name, kind, lines in tables:
        write_beside(out / name, lambda path, kind=kind, lines=lines: _csv(path, kind, lines))
    plots.expectations(rows, out / "study.png", task.judged_by, task.best)


def _csv(path: str, kind: type[Any], lines: Sequence[Any]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(kind._fields)
        writer.writerows(lines)
