"""What a run tells other programs as it goes, by the Keras callbacks that they have themselves.

A row of `TOLD` is such a program. `train` and `fine_tune` hand their epochs on to it: one axis of epochs, as `log.csv`
has it, through all phases and processes of a run. `logs.json` in its directory notes how many epochs are told, so that
one that is repeated after a kill is not told again, and under which name each program knows the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnn import files, tasks
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data.training_set import TrainingSet
from keras_cnn.errors import BadSpec
from keras_cnn.insight import plots
from keras_cnn.tasks.base import scores
from keras_cnn.training import loop, state

Notes = dict[str, Any]
NOTES, BOARD = "logs.json", "tensorboard"
PROJECT = "keras_cnn"  # of Weights & Biases, unless WANDB_PROJECT names another
PICTURED = 12  # validation images


@contextlib.contextmanager
def opened(
    names: tuple[str, ...], run: state.Run, network: Any, given: TrainingSet
) -> Iterator[list[keras.callbacks.Callback]]:
    """The callbacks that tell these programs of a run, for as long as it lasts; none of one that is complete."""
    notes = _notes(run) if run.here.chief and not run.end else None
    if not names or notes is None:
        yield []
        return
    with contextlib.ExitStack() as stack:
        tell = Tell(network, run, notes, [])
        tell.others = [stack.enter_context(TOLD[name](run, notes, network, given)) for name in names]
        yield [tell]


class Tell(keras.callbacks.Callback):
    """Tells each epoch to other callbacks, with the learning rates, unless it was told before.

    They have one beginning, however often `fit` begins; what opened them ends them.
    """

    def __init__(self, network: Any, run: state.Run, notes: Notes, others: list[Any]) -> None:
        super().__init__()
        self.network, self.run, self.notes, self.others, self.begun = network, run, notes, others, False

    def on_train_begin(self, logs: Notes | None = None) -> None:
        for other in self.others:
            if self.begun:
                keras.callbacks.Callback.set_model(other, self.model)
            else:
                other.set_model(self.model)
                other.on_train_begin()
        self.begun = True

    def on_epoch_end(self, epoch: int, logs: Notes | None = None) -> None:
        if epoch < self.notes.get("epochs", 0):
            return
        figures = loop.of_head(self.network, logs or {}) | rates(self.model)
        for other in self.others:
            other.on_epoch_end(epoch, dict(figures))
        self.notes["epochs"] = epoch + 1
        if self.run.out is not None:
            files.write_text(self.run.out / NOTES, json.dumps(self.notes) + "\n")


def rates(model: Any) -> dict[str, float]:
    """The learning rate of a model's optimiser; where each stage has its own, by their names."""
    now: Any = lambda optimizer: float(np.asarray(keras.ops.convert_to_numpy(optimizer.learning_rate)))  # noqa: E731
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return {f"learning_rate_{one.name}": now(one) for one in optimizer.optimizers}
    return {"learning_rate": now(optimizer)}


def _notes(run: state.Run) -> Notes:
    """What an earlier part of this run noted; without one, what another run left is removed."""
    if run.out is None:
        return {}
    if run.state:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((run.out / NOTES).read_text(encoding="utf-8")))
    (run.out / NOTES).unlink(missing_ok=True)
    if not run.state:
        for old in (run.out / BOARD).glob("*/events.out.tfevents.*"):
            old.unlink()
    return {}


# --- TensorBoard -----------------------------------------------------------------------------------------------------


class _Board(keras.callbacks.TensorBoard):
    """Keras' own, which has each epoch on disk as it ends; learning rates are among the figures already."""

    def on_epoch_end(self, epoch: int, logs: Notes | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        for writer in self._writers.values():
            writer.flush()

    def _collect_learning_rate(self, logs: Notes) -> Notes:
        return logs


@contextlib.contextmanager
def _tensorboard(run: state.Run, notes: Notes, network: Any, given: TrainingSet) -> Iterator[Any]:
    """Scalars of each epoch, and at the end some validation images with the answers of the best one."""
    board = _Board(str(Path(str(run.out)) / BOARD), write_graph=False)
    board.set_model(network)  # also of a run in which no epoch is left
    try:
        yield board
        writer = board.summary.create_file_writer(str(Path(str(run.out)) / BOARD / "validation"))
        with writer.as_default():
            for name, picture in pictures(network, given).items():
                board.summary.image(name, picture[None], step=notes.get("epochs", 0))
        writer.close()
    finally:
        board.on_train_end()


def pictures(network: Any, given: TrainingSet, most: int = PICTURED) -> dict[str, np.ndarray]:
    """By title, pictures of some validation images and of what a network answers: uint8 (height, width, 3 or 4).

    The true label is beside answers that are wrong. None for sequences, and without validation images.
    """
    task, config, held_out = tasks.of(network), config_of(network), given.held_out()
    if held_out is None or len(network.input_shape) != 4:
        return {}
    images, labels = next(iter(held_out))
    images, labels = np.asarray(images[:most]), np.asarray(labels[:most])
    found = task.gather(network.outputs[0].shape[1:], config.class_names)
    rows = task.finish(scores(network, images), task.logits(network)[0])
    numbers = task.numbers(labels, "validation")
    for i, (image, label, row) in enumerate(zip(images, numbers, rows, strict=True)):
        found.add(f"images[{i}]", image, label, row)
    result = found.result()
    with tempfile.TemporaryDirectory() as folder:
        if config.head.EVERYWHERE:
            return {title: _read(Path(folder) / name) for name, title in result.pictures(folder).items()}
        worst = getattr(result, "worst", lambda most: [])(most)
        true = {row["image"]: f"true: {row['true']}" for row in worst if "true" in row}
        told = [
            [*islice(task.answer("", row, config, 1, None).lines(), 2), true.get(f"images[{i}]", "")]
            for i, row in enumerate(rows)
        ]
        return {
            "validation images": _read(
                plots.answered(images[..., : 3 if images.shape[-1] > 2 else 1], told, Path(folder) / "answers.png")
            )
        }


def _read(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# --- Weights & Biases, MLflow ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _wandb(run: state.Run, notes: Notes, network: Any, given: TrainingSet) -> Iterator[Any]:
    """A run of Weights & Biases, unless one is under way; WANDB_PROJECT, WANDB_MODE and so on say where."""
    import wandb  # pyright: ignore[reportMissingImports]
    from wandb.integration.keras import WandbMetricsLogger  # pyright: ignore[reportMissingImports]

    class Metrics(WandbMetricsLogger):
        def _get_lr(self) -> None:
            """Rates are among the figures, and optimisers by stage have no single one."""

    own = wandb.run is None
    if own:
        told = {"name": run.out and run.out.name, "id": notes.get("wandb"), "config": run.options}
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        try:
            notes["wandb"] = wandb.init(project=project, resume="allow", **told).id
        except wandb.Error as error:
            raise BadSpec(f"log='wandb': {error}") from error
    done = False
    try:
        yield Metrics()
        done = True
    finally:
        if own:
            wandb.finish(exit_code=int(not done))


@contextlib.contextmanager
def _mlflow(run: state.Run, notes: Notes, network: Any, given: TrainingSet) -> Iterator[Any]:
    """A run of MLflow, unless one is active; MLFLOW_TRACKING_URI and so on say where."""
    import mlflow  # pyright: ignore[reportMissingImports]
    from mlflow.keras import MlflowCallback  # pyright: ignore[reportMissingImports]

    class Metrics(MlflowCallback):
        def on_epoch_end(self, epoch: int, logs: Notes | None = None) -> None:
            super().on_epoch_end(epoch, logs)
            mlflow.flush_async_logging()

        def on_train_begin(self, logs: Notes | None = None) -> None:
            """The options of the run say more than the configuration of its first optimiser."""

    own = mlflow.active_run() is None
    if own:
        try:
            active = mlflow.start_run(notes.get("mlflow"), run_name=run.out and run.out.name)
            if "mlflow" not in notes:
                plain = {key: value for key, value in run.options.items() if isinstance(value, str | int | float)}
                mlflow.log_params(plain)
            notes["mlflow"] = active.info.run_id
        except mlflow.MlflowException as error:
            raise BadSpec(f"log='mlflow': {error}") from error
    status = "FAILED"
    try:
        yield Metrics()
        status = "FINISHED"
    finally:
        if own:
            mlflow.end_run(status)


TOLD: dict[str, Callable[..., contextlib.AbstractContextManager[Any]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
