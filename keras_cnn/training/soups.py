"""Model soups: one network with the mean of the weights of several runs."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnn import files, tasks
from keras_cnn.building import build
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.data import Data, seen
from keras_cnn.data.seen import Known
from keras_cnn.deploy import trained_on
from keras_cnn.errors import BadData, BadSpec, RunExists, RunWarning, WeightsMismatch
from keras_cnn.models.config import record_of
from keras_cnn.models.fields import known_options
from keras_cnn.training.state import left_in
from keras_cnn.transfer.batchnorm import recalibrate_batchnorm

OF_ONE_RUN = ("metrics", "command")  # facts that are not true of a mean


@known_options
def average(
    runs: Sequence[str | os.PathLike[str]],
    data: Data | None = None,
    *,
    greedy: bool = False,
    out: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> Any:
    """One network whose weights are the mean of those of several runs: as fast as one of them, and often better.

    Fine-tunings of the same pretrained weights lie close enough together for their mean to be good ("Model soups",
    2203.05482); networks that began from different random weights do not.

    ```python
    soup = kc.average(["runs/a", "runs/b", "runs/c"], data, greedy=True, out="runs/soup")
    ```

    runs: two weights directories or more, of one architecture and the same classes. data: its training images give the
    statistics of batch norm where those of the runs differ (a mean of statistics fits no weights), without which a
    RunWarning says so.
    greedy: begin with the run that is best on the validation images of data; add one after the other, from the best
    down, and keep each that makes the mean no worse (section 2, recipe 1): never worse than the best run there.
    out: a new weights directory for it. Beside the weights it holds, in `seen.txt`, the hashes of all images that a run
    in it was trained on, so that `evaluate` tells them apart; a RunWarning says so where one of the runs does not tell.
    Returns the network; its provenance names the runs that are in it. Raises WeightsMismatch for runs that differ in
    more than weights, BadData where `greedy` has no validation images, RunExists where out holds weights
    or a run, CannotWrite where it cannot be written to.
    """
    if len(runs) < 2:
        raise BadSpec("give two runs or more: the mean of one is itself.")
    if out is not None:
        files.check_writable(Path(out))
        if left := left_in(Path(out)):
            raise RunExists(f"{out} already holds weights or a run ({left[0]}): name another directory.")
    found = [_read(run) for run in runs]
    (config, first), *others = found
    for run, (other, values) in zip(runs[1:], others, strict=True):
        if _plain(other) != _plain(config):
            raise WeightsMismatch(
                f"{run} is another network than {runs[0]}, or has other classes: only runs of one architecture, "
                "size and classes have a mean."
            )
        arrays.check({key: value.shape for key, value in first.items()}, values)
    model = build(config)
    every = [values for _, values in found]
    if not greedy:
        kept = list(range(len(runs)))
        _pour(model, every, data)
    else:
        kept = _greedy(model, every, data, list(map(str, runs)), verbose)
    names = [os.path.basename(os.path.normpath(str(runs[i]))) for i in kept]
    facts = {key: value for key, value in config.provenance.items() if key not in OF_ONE_RUN}
    record_of(model)["provenance"] = {**facts, "source": f"the mean of {len(names)} runs: {', '.join(names)}"}
    if out is not None:
        directory.save_pretrained(model, out)
        known = _known([runs[i] for i in kept])
        seen.write(Path(out) / seen.FILE, known.hashes, known.preprocess)
    return model


def _known(runs: Sequence[str | os.PathLike[str]]) -> Known:
    """What any of some runs was trained on; nothing where that is not known of all, or images would pass for new."""
    every = {run: trained_on.of(run) for run in runs}
    told = [known for known in every.values() if known is not None]
    silent = [run for run, known in every.items() if known is None]
    if silent:
        why = f"{silent[0]} does not tell which images it was trained on"
    elif any(not told[0].looked(known.preprocess) for known in told if known.preprocess is not None):
        why = "the runs saw their images at different sizes or in other cuts"
    else:
        return Known(frozenset().union(*(known.hashes for known in told)), told[0].preprocess)
    warnings.warn(f"{why}, so that nothing tells it of their mean either.", RunWarning, stacklevel=3)
    return Known(frozenset())


def _greedy(model: Any, every: list[arrays.Arrays], data: Data | None, names: list[str], verbose: bool) -> list[int]:
    """The numbers of the runs whose mean is in the model in the end."""
    if data is None or data.val is None:
        raise BadData("greedy needs data with validation images, to judge each mean by.")
    task = tasks.of(model)

    def score(some: list[int]) -> float:
        _pour(model, [every[i] for i in some], data)
        return task.score(model, data.val)

    alone = [score([i]) for i in range(len(every))]
    order = sorted(range(len(every)), key=alone.__getitem__, reverse=task.mode == "max")
    kept, best = order[:1], alone[order[0]]
    for i in order[1:]:
        figure = score([*kept, i])
        if not task.better(best, figure):
            kept, best = [*kept, i], figure
        if verbose:
            end = "" if i in kept else ", so that it is left out"
            print(f"{names[i]}: {alone[i]:.4f} alone; with it the mean has {figure:.4f}{end}")
    _pour(model, [every[i] for i in kept], data)
    return kept


def _pour(model: Any, some: list[arrays.Arrays], data: Data | None) -> None:
    """Give a model the mean of some arrays, and statistics of batch norm that fit it."""
    mean = {key: np.mean([values[key] for values in some], axis=0, dtype="float64") for key in some[0]}
    arrays.assign(model, {key: value.astype("float32") for key, value in mean.items()})
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    differ = [
        key
        for key in some[0]
        if key.endswith(("moving_mean", "moving_variance"))
        and any((values[key] != some[0][key]).any() for values in some[1:])
    ]
    if not norms or not differ:
        return
    if data is None:
        warnings.warn(
            "the runs differ in their statistics of batch norm, and a mean of statistics fits no weights: give data, "
            "whose training images set them, or call recalibrate_batchnorm.",
            RunWarning,
            stacklevel=3,
        )
    else:
        recalibrate_batchnorm(model, data)


def _read(run: str | os.PathLike[str]) -> tuple[Any, arrays.Arrays]:
    source = directory.read(os.fspath(run))
    if source.load is None:
        raise BadSpec(f"{run} has no weights.")
    return source.load()


def _plain(config: Any) -> dict[str, Any]:
    """What has to be the same: all but where the weights come from."""
    return {**dataclasses.asdict(config), "provenance": None}
