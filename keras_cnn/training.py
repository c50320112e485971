"""Training from scratch: Keras `fit` with the rate, the decay and the checkpoints that a first run needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_cnn import labelled, recipe
from keras_cnn.checks import known_options
from keras_cnn.data import Data
from keras_cnn.errors import BadSpec


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
    out: str | Path | None = None,
    half: bool = False,
    verbose: int | str = "auto",
    provenance: Mapping[str, Any] | None = None,
) -> keras.callbacks.History:
    """Fit a network from random weights: Nesterov SGD, one cycle, label smoothing.

    train, val: `Data`, data sets of batches (images, integer labels) with a length, or pairs of arrays, which are cut
    into batches of batch_size; or as Keras has them: train(model, images, labels, validation_data=(images, labels)).
    rate: the peak over all epochs, right for batches of 128; scale it with the batch. weight_decay: of SGD; biases and
    norms are spared. out: a directory that gets the best epoch as weights directory, `log.csv`, and, while the run
    lasts, Keras' backup: the same call after a crash goes on from the last whole epoch. half: kernels are written as
    float16.
    provenance: facts for config.json and the model card, as of `save_pretrained`.
    The model ends with the weights of its best epoch. Raises NotFinite when the loss is not a number; BadSpec for a
    head, BadData for images or labels that softmax over classes cannot learn.
    """
    if epochs < 1 or rate < 0:
        raise BadSpec(f"epochs={epochs!r}, rate={rate!r}: give 1 epoch or more, and a rate of 0 or more.")
    train, val = labelled.accepted(model, train, val, validation_data)
    if isinstance(train, Data):
        train = train.train
    schedule = recipe.OneCycle(rate, recipe.steps(train, epochs, batch_size))
    recipe.compile_(model, recipe.sgd(schedule, weight_decay), smoothing)
    best = recipe.Best(model, out, half=half, provenance=provenance)
    callbacks: list[Any] = [recipe.StopOnNaN(out), best]
    if out is not None:
        backup = Path(out) / "backup"
        backup.mkdir(parents=True, exist_ok=True)
        if any(backup.iterdir()):
            best.resume()
        callbacks += [
            keras.callbacks.CSVLogger(str(Path(out) / "log.csv"), append=True),
            keras.callbacks.BackupAndRestore(str(backup)),
        ]
    history = recipe.fit(model, train, val, batch_size=batch_size, epochs=epochs, callbacks=callbacks, verbose=verbose)
    best.restore()
    return history
