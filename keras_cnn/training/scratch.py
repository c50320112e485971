"""Training from scratch: Keras `fit` with the rate, the decay and the checkpoints that a first run needs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_cnn.checkpoints import directory
from keras_cnn.data import labelled
from keras_cnn.data.training_set import TrainingSet, training_set
from keras_cnn.errors import BadSpec, RunWarning
from keras_cnn.models.fields import known_options
from keras_cnn.training import recipe, state


@known_options
def train(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    validation_data: Any = None,
    epochs: int = 10,
    rate: float = 0.2,
    weight_decay: float = 5e-3,
    smoothing: float = 0.1,
    batch_size: int = 128,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    half: bool = False,
    verbose: int | str = "auto",
    provenance: Mapping[str, Any] | None = None,
) -> keras.callbacks.History:
    """Fit a network from random weights: Nesterov SGD, one cycle, label smoothing.

    train: `Data`, which brings its validation images; or a pair of arrays, which are cut into batches of batch_size in
        an order that follows from seed and epoch; or a data set of batches (images, integer labels) with a length;
        the latter with such a `val`. Or as Keras has them: train(model, images, labels, validation_data=(...)).
    epochs, rate: how many, and the peak of the rate over all of them, right for batches of 128; scale it with the
        batch. weight_decay: of SGD; biases and norms are spared. half: kernels are written as float16.
    out: a directory that gets the best epoch as weights directory, `log.csv`, the hashes of the training images where
        they are `Data` or arrays (`seen.txt`), and, while the run lasts, its state. It is held for the whole run:
        RunInUse for another one. RunExists where a run or weights are there already, unless
    resume: go on from the state that is there, if any, with the same call; Data and arrays then end with the same
        weights as if nothing had happened, on one machine with deterministic operations. A data set of batches goes on
        in its own order: RunWarning. A run that is complete is not run again: the model gets its weights. Or unless
    overwrite: replace what is there.
    provenance: facts for config.json and the model card there, as of `save_pretrained`.
    The model ends with the weights of its best epoch. Returns a History of all epochs, those before a kill included.
    Raises NotFinite when the loss is not a number; BadSpec where a run began otherwise, or for a head, BadData for
    images or labels, that softmax over classes cannot learn.
    """
    if epochs < 1 or rate < 0:
        raise BadSpec(f"epochs={epochs!r}, rate={rate!r}: give 1 epoch or more, and a rate of 0 or more.")
    state.check(out, resume, overwrite)
    train, val = labelled.accepted(model, train, val, validation_data)
    given = training_set(train, val, batch_size, seed)
    options = {"epochs": epochs, "rate": rate, "weight_decay": weight_decay, "smoothing": smoothing, "seed": seed}
    options |= {"precision": keras.config.dtype_policy().name, **given.facts}
    if out is not None:
        options |= {"network": _architecture(model), **given.fingerprint}
    with state.Run(out, options, resume=resume, overwrite=overwrite, hashes=given.seen) as run:
        recipe.compile_(model, recipe.sgd(recipe.OneCycle(rate, epochs * given.steps), weight_decay), smoothing)
        best = recipe.Best(model, out, half=half, provenance=provenance)
        return _complete(run, model, given, best, epochs, verbose)


def _complete(
    run: state.Run, model: Any, given: TrainingSet, best: recipe.Best, epochs: int, verbose: int | str
) -> keras.callbacks.History:
    """Train a compiled model for what is left of its epochs."""
    history, first = keras.callbacks.History(), 0
    history.set_model(model)
    history.on_train_begin()
    facts = run.end or (run.state[1] if run.state else {})
    for logs in facts.get("history", ()):
        recipe.remember(history, logs)
    if run.end:
        if verbose:
            print(f"{run.out} holds this run, and it is complete")
        recipe.recall(model, run.out)
        return history
    model.optimizer.build(model.trainable_variables)
    variables = {f"network/{i}": v for i, v in enumerate(model.variables)}
    variables |= {f"optimizer/{i}": v for i, v in enumerate(model.optimizer.variables)}
    if run.state:
        recipe.put_back(variables, run.state[0])
        best.go_on(*run.state)
        first = facts["epoch"]
        if not given.again:
            warnings.warn("the data set goes on in its own order: only Data and arrays repeat it.", RunWarning, 3)
    data = given.images(len(model.outputs))

    def begin(epoch: int, logs: Any = None) -> None:
        kept, about = best.state()
        told = {**about, "epoch": epoch, "history": recipe.rows(history)}
        run.keep(lambda: (recipe.values(variables) | kept, told), now=epoch == epochs)
        given.seek(data, epoch)

    def end(epoch: int, logs: Any = None) -> None:
        recipe.remember(history, recipe.of_head(model, logs or {}))
        run.log(recipe.rows(history))

    follow = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    if first < epochs:  # else the run was cut short after its last epoch
        recipe.fit(
            model,
            data,
            given.val,
            batch_size=given.batch_size,
            epochs=epochs,
            initial_epoch=first,
            callbacks=[recipe.StopOnNaN(best.out), follow, best],
            verbose=verbose,
        )
    begin(epochs)  # so that no epoch is repeated where what follows is cut short
    best.restore()
    run.finish({"history": recipe.rows(history)})
    return history


def _architecture(model: Any) -> str:
    """A hash of what a network is, its values aside: these are random, and the state has them."""
    config = directory.config_of(model).to_dict()
    return hashlib.sha256(json.dumps({**config, "provenance": None}, sort_keys=True).encode()).hexdigest()[:16]
