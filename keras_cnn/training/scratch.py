"""Training from scratch: Keras `fit` with the rate, the decay and the checkpoints that a first run needs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_cnn import tasks
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.data.training_set import TrainingSet, training_set
from keras_cnn.errors import RunWarning
from keras_cnn.models.fields import known_options
from keras_cnn.tasks import Task, labelled
from keras_cnn.training import distribution, logs, loop, optimizers, state
from keras_cnn.training.adapting import adapt
from keras_cnn.training.callbacks import Best, KeepState, LongHistory, Progress, Record, Seek, StopOnNaN, into
from keras_cnn.training.distilling import taught
from keras_cnn.training.options import Log, TrainOptions, logs_of, takes


@known_options
@takes(TrainOptions)
def train(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    validation_data: Any = None,
    teacher: Any = None,
    options: TrainOptions | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    half: bool = False,
    callbacks: list[Any] | None = None,
    log: Log = None,
    verbose: int | str = "auto",
    provenance: Mapping[str, Any] | None = None,
    **more: Any,
) -> keras.callbacks.History:
    """Fit a network from random weights: Nesterov SGD, one cycle, label smoothing.

    train: `Data`, which brings its validation images; or a pair of arrays, which are cut into batches of batch_size in
        an order that follows from seed and epoch; or a data set of batches (images, labels) with a length; the latter
        with such a `val`. Or as Keras has them: train(model, images, labels, validation_data=(...)).
    teacher: a trained network of the same classes, from whose answers to the same images the network learns as well, by
        teacher_weight (1503.02531).
    options: those below, as a TOML file, a mapping or `TrainOptions`; what is given beside it
        wins. batch_size and seed are for arrays: Data has its own.
    out: a directory that gets the best epoch as weights directory, `log.csv`, the hashes of the training images where
        they are `Data` or arrays (`seen.txt`), and, while the run lasts, its state. It is held for the whole run:
        RunInUse for another one. RunExists where a run or weights are there already, unless
    resume: go on from the state that is there, if any, with the same call; Data and arrays then end with the same
        weights as if nothing had happened, on one machine with deterministic operations. A data set of batches goes on
        in its own order: RunWarning. A run that is complete is not run again: the model gets its weights. Or unless
    overwrite: replace what is there. half: kernels are written as float16.
    provenance: facts for config.json and the model card there, as of `save_pretrained`.
    callbacks: of Keras, behind those of this function, on every worker.
    log: "tensorboard", which writes into `out`, "wandb", "mlflow", or several of them: the figures of each epoch, and
        the learning rate, by their own Keras callbacks (see `training.logs`). A profile is
        callbacks=[keras.callbacks.TensorBoard(place, profile_batch=(10, 20))].
    The model ends with the weights of its best epoch. Returns a History of all epochs, those before a kill included.
    Raises NotFinite when the loss is not a number; BadSpec where a run began otherwise, or for a head, BadData for
    images or labels, that the task cannot learn.
    """
    task, chosen = tasks.of(model), TrainOptions.of(options, "train", **more)
    chosen = chosen.for_task(task, model)
    here = distribution.place()
    if here.chief:
        state.check(out, resume, overwrite)
    wished = logs_of(log, out)
    train, val = labelled.accepted(model, train, val, validation_data)
    given = training_set(train, val, chosen.batch_size, chosen.seed, here.share, here.replicas)
    if chosen.initial_scale < 1:
        given.grow(chosen.initial_scale, chosen.epochs)
    adapt(model, given)
    facts = {**dataclasses.asdict(chosen), "precision": model.dtype_policy.name, **given.facts}
    if out is not None:
        facts |= {"network": _architecture(model), **given.fingerprint}
        facts |= {"teacher": arrays.fingerprint(teacher)} if teacher is not None else {}
    goes_on: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    with (
        distribution.together(model),
        loop.of_any_size(model, chosen.initial_scale < 1),
        loop.statistics_over(model, chosen.ema),
        state.Run(out, facts, **goes_on, known=lambda: given.seen(model), here=here) as run,
        logs.opened(wished, run, model, given) as told,
    ):
        learner, share = model, 1.0
        if teacher is not None:
            learner, share = taught(model, teacher, chosen.teacher_weight), 1 - chosen.teacher_weight
        optimizer, smoothing = optimizers.of(chosen, given.steps), chosen.label_smoothing
        asked: dict[str, Any] = {"loss": chosen.loss, "jit_compile": chosen.jit_compile}
        loop.compile_(model, optimizer, smoothing, learner=learner, share=share, **asked)
        best = Best(model, task.monitor, task.mode, out, into(out if here.chief else None, model, half, provenance))
        return _complete(run, model, learner, task, given, best, chosen, [*(callbacks or []), *told], verbose)


def _complete(
    run: state.Run,
    model: Any,
    learner: Any,
    task: Task,
    given: TrainingSet,
    best: Best,
    options: TrainOptions,
    callbacks: list[Any],
    verbose: int | str,
) -> keras.callbacks.History:
    """Train a model for what is left of its epochs. learner: what is compiled and `fit`."""
    history, at, epochs = LongHistory(model), (0, 0), options.epochs
    facts = run.end or (run.state[1] if run.state else {})
    history.add(*facts.get("history", ()))
    if run.end:
        if verbose:
            print(f"{run.out} holds this run, and it is complete")
        loop.recall(model, run.out)
        loop.hand_over(model, learner.optimizer)
        return history
    learner.optimizer.build(model.trainable_variables)
    variables = {f"network/{i}": v for i, v in enumerate(model.variables)}
    variables |= {f"optimizer/{i}": v for i, v in enumerate(learner.optimizer.variables)}
    if run.state:
        loop.put_back(variables, run.state[0])
        best.go_on(*run.state)
        at = facts["epoch"], facts.get("step", 0)
        if not given.again:
            warnings.warn("the data set goes on in its own order: only Data and arrays repeat it.", RunWarning, 3)

    def now(epoch: int) -> state.State:
        kept, about = best.state()
        return loop.values(variables) | kept, {**about, "epoch": epoch, "history": history.rows}

    keep, seek = KeepState(run, now, given.steps if given.again else None), Seek(given.seek)
    loop.fit_from(
        learner,
        given.images,
        given.val_by(loop.at_validation(model, task, given.batch_size)),
        at=at,
        epochs=epochs,
        keep=keep,
        seek=seek,
        variables=variables,
        batch_size=given.batch_size,
        task=task,
        callbacks=[
            StopOnNaN(best.out),
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if options.ema else []),
            *loop.judges(task, model, given.val),
            keep,
            Record(history, model, run),
            best,
            seek,
            Progress(given.batch_size),
            *callbacks,
        ],
        verbose=verbose,
    )
    run.keep(lambda: now(epochs), now=True)  # so that no epoch is repeated where what follows is cut short
    best.restore()
    if run.state:
        best.save_again()
    run.finish({"history": history.rows})
    loop.hand_over(model, learner.optimizer)
    return history


def _architecture(model: Any) -> str:
    """A hash of what a network is, its values aside: these are random, and the state has them."""
    config = directory.config_of(model).to_dict()
    return hashlib.sha256(json.dumps({**config, "provenance": None}, sort_keys=True).encode()).hexdigest()[:16]
