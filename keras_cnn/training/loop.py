"""What every loop shares: compiling for a task, Keras' `fit` on data of any form, values kept and put back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np

from keras_cnn import tasks
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.data.examples import Batches
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.tasks.base import Task
from keras_cnn.training import distribution, targets

if TYPE_CHECKING:
    from keras_cnn.training.callbacks import KeepState, Seek

AUX_WEIGHT = 0.4  # of an auxiliary classifier's loss, as torchvision trains Inception v3
NUMBERS, EXAMPLES = 2**22, 256  # the most that validation sees at once, where a training batch is smaller: 16 MiB


def compile_(
    model: Any,
    optimizer: keras.optimizers.Optimizer,
    label_smoothing: float | None = None,
    task: Task | None = None,
    *,
    loss: str | None = None,
    weights: dict[int, float] | None = None,
    learner: Any = None,
    share: float = 1.0,
    jit_compile: bool | None = None,
) -> None:
    """Compile for a task; an auxiliary classifier, the second output, adds its weighted loss.

    task: by default the network's; a part of a network does not know it. label_smoothing: by default the task's own.
    loss: one of the task's, by default its first. weights: of the classes, where the loss is what weighs them.
    learner: what is compiled, where that is more than the network; share: of the loss, where it brings another.
    jit_compile: by XLA; None as Keras chooses.
    """
    task = task or tasks.of(model)
    smoothing = (task.label_smoothing if label_smoothing is None else label_smoothing) or 0.0
    in_order = None if weights is None or task.weighs_images else list(weights.values())
    losses, metrics = task.losses(model, loss, smoothing, in_order), task.metrics(model)
    _compile(learner or model, optimizer, losses, metrics, share, jit_compile)


def hand_over(model: Any, optimizer: keras.optimizers.Optimizer | None = None) -> None:
    """Compile a model that has learnt as its user goes on with it: for labels as data has them, without smoothing.

    optimizer: by default its own.
    """
    task = tasks.of(model)
    _compile(model, optimizer or model.optimizer, task.losses_of_labels(model), task.metrics_of_labels(model))


def _compile(
    model: Any,
    optimizer: keras.optimizers.Optimizer,
    losses: list[Any],
    metrics: list[Any],
    share: float = 1.0,
    jit_compile: bool | None = None,
) -> None:
    outputs = len(model.outputs)
    weights, by_xla = [share, share * AUX_WEIGHT][:outputs], "auto" if jit_compile is None else jit_compile
    model.compile(optimizer, losses, loss_weights=weights, metrics=[metrics, []][:outputs], jit_compile=by_xla)


def fit(
    model: Any, data: Any, val: Any = None, *, batch_size: int = 32, task: Task | None = None, **options: Any
) -> keras.callbacks.History:
    """Keras `fit` on images and labels: a data set of batches, or a pair of arrays. task: as of `compile_`."""
    task = task or tasks.of(model)
    options.setdefault("shuffle", isinstance(data, tuple))  # data sets shuffle themselves
    if isinstance(val, tuple):
        options.setdefault("validation_batch_size", at_validation(model, task, batch_size))
    options["validation_data"] = targets.targets(model, val, task)
    data = distribution.spread(targets.targets(model, data, task), batch_size)
    with BadImage.surfacing(), BadData.surfacing():
        if isinstance(data, tuple):
            history = model.fit(*data, batch_size=batch_size, **options)
        else:
            history = model.fit(data, **options)
    history.history = of_head(model, history.history)
    return history


def at_validation(model: Any, task: Task, batch_size: int) -> int:
    """Examples that validation sees at once, where training sees batch_size.

    More than in training, which has to keep what gradients need: small batches are slow, since the kernels of
    convolutions are laid out anew for each.
    """
    sides = model.input_shape[1:]
    if None in sides or not task.one_by_one:
        return batch_size
    return max(batch_size, min(EXAMPLES, NUMBERS // math.prod(sides)))


def fit_from(
    model: Any,
    images: Callable[[int], Any],
    val: Any,
    *,
    at: tuple[int, int],
    epochs: int,
    before: int = 0,
    keep: KeepState,
    seek: Seek,
    callbacks: list[Any],
    variables: dict[str, Any],
    **options: Any,
) -> None:
    """`fit` from a batch of an epoch on: what is left of that epoch, then those that follow.

    images: the data, given the batch that each of its passes begins with. at, epochs: the epoch and its batch; how many
    epochs there are. before: those of earlier phases, by which Keras, and so every callback, counts on.
    keep, seek: two of the callbacks. variables: all that learn, of network and optimiser.
    """
    epoch, step = at
    keep.before = seek.before = before
    if step:  # Keras makes the variables of metrics with the first batch, and their values are to be put back before
        first = next(iter(targets.targets(model, images(0), options.get("task") or tasks.of(model))))
        model.test_on_batch(*first)
        rest = _Rest(variables)
        keep.start, seek.data = step, images(step)
        span = {"epochs": before + epochs, "initial_epoch": before + epoch}
        fit(model, seek.data, val, **span, callbacks=[*callbacks, rest], **options)
        put_back(variables, rest.left)
        epoch = epochs if rest.ended else epoch + 1
    if epoch < epochs:
        keep.start, seek.data = 0, images(0)
        span = {"epochs": before + epochs, "initial_epoch": before + epoch}
        fit(model, seek.data, val, **span, callbacks=callbacks, **options)


class _Rest(keras.callbacks.Callback):
    """Ends `fit` after an epoch, and keeps what that left: Keras puts mean weights, if any, in their place at the end.

    ended: whether the epoch ended the training anyway.
    """

    def __init__(self, variables: dict[str, Any]) -> None:
        super().__init__()
        self.variables, self.left, self.ended = variables, cast(arrays.Arrays, {}), False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model: Any = self.model
        self.left, self.ended, model.stop_training = values(self.variables), model.stop_training, True


class Judge(keras.callbacks.Callback):
    """Adds figures that need all validation images at once to the logs of an epoch. judge: makes them."""

    def __init__(self, judge: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self.judge = judge

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs |= self.judge()


def judges(task: Task, network: Any, val: Any) -> list[keras.callbacks.Callback]:
    """What judges an epoch of a task whose figure Keras' metrics, which see a batch at a time, cannot give."""
    if val is None or any(f"val_{metric.name}" == task.monitor for metric in task.metrics(network)):
        return []
    batches = Batches(*val, size=256) if isinstance(val, tuple) else val
    return [Judge(lambda: task.judge(network, batches))]


def of_head(model: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """Logs with the head's own metrics under their plain names: Keras puts an output's name before them where there
    are two outputs."""
    if len(model.outputs) == 1:
        return logs
    prefix = f"{model.output_names[0]}_"
    return {key if key.endswith("loss") else key.replace(prefix, ""): value for key, value in logs.items()}


@contextlib.contextmanager
def statistics_over(model: Any, ema: float) -> Iterator[None]:
    """Let batch norms take their statistics over as many steps as mean weights do, while the block runs.

    Those of the last steps are of the last weights, and the mean ones, judged and kept with them, would be off by it.
    ema: momentum of the mean weights; 0 for none.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    own = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = max(norm.momentum, ema)
    try:
        yield
    finally:
        for norm, momentum in zip(norms, own, strict=True):
            norm.momentum = momentum


@contextlib.contextmanager
def of_any_size(model: Any, wanted: bool) -> Iterator[None]:
    """Let a network take images of any size while the block runs, where that is wanted.

    Its layers can; what refuses is Keras' record of what it was built for.
    """
    spec = model.input_spec
    if wanted:
        model.input_spec = keras.InputSpec(ndim=len(model.input_shape), axes={-1: model.input_shape[-1]})
    try:
        yield
    finally:
        if wanted:
            model.input_spec = spec


def values(variables: dict[str, Any]) -> arrays.Arrays:
    """The values of Keras variables under their keys."""
    return {key: np.asarray(variable.numpy()) for key, variable in variables.items()}


def put_back(variables: dict[str, Any], kept: arrays.Arrays) -> None:
    """Give Keras variables the values that `values` took of them; BadSpec where another release named others."""
    if missing := [key for key in variables if key not in kept or kept[key].shape != tuple(variables[key].shape)]:
        raise BadSpec(
            f"the state of the run has no fitting {missing[0]}: go on with the release of Keras that began it, or "
            "overwrite=True (--overwrite) begins anew."
        )
    for key, variable in variables.items():
        variable.assign(kept[key])


def recall(model: Any, out: str | Path | None) -> None:
    """Give a model the weights of a run that is complete."""
    _, kept = cast(Any, directory.read(str(out)).load)()
    arrays.assign(model, kept)
