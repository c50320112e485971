"""Fine-tuning in two phases: the head first, on a frozen backbone, then the upper stages at a lower rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from keras_cnn import recipe
from keras_cnn.transfer.freeze import freeze, unfreeze


def fine_tune(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    head_epochs: int = 5,
    epochs: int = 15,
    head_rate: float = 3e-2,
    rate: float = 5e-4,
    above: str | None = None,
    bn: str | None = None,
    smoothing: float = 0.1,
    batch_size: int = 32,
    out: str | Path | None = None,
    half: bool = False,
    callbacks: list[Any] | None = None,
    verbose: int | str = "auto",
    **provenance: Any,
) -> keras.callbacks.History:
    """Teach a pretrained network new classes.

    First the head alone, for head_epochs with AdamW at head_rate: a random head would send noise into good features.
    Then all stages above `above` (by default all, whatever was frozen before) for `epochs` with AdamW at `rate`.
    Both phases run one cycle.

    train, val: data sets of batches (images, integer labels) with a length, or pairs of arrays (then batch_size).
    bn: "frozen" or "train"; by default batch norm of pretrained weights stays in inference mode, as `unfreeze` says.
    out: gets the best epoch as weights directory, at once when it is reached. epochs=0 trains the head only.
    The model ends with the weights of its best epoch by validation accuracy, compiled, and with the flags of the last
    phase. Returns a Keras History of both phases; `history["phase"]` holds 1 or 2 for each epoch.
    Raises NotFinite when the loss is not a number.
    """
    best = recipe.Best(out, half=half, **provenance)
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()

    def run(phase: int, epochs: int, optimizer: keras.optimizers.Optimizer) -> None:
        if not epochs:
            return
        recipe.compile_(model, optimizer, smoothing)
        watchers = [recipe.StopOnNaN(out), best, *(callbacks or [])]
        done = recipe.fit(
            model, train, val, batch_size=batch_size, epochs=epochs, callbacks=watchers, verbose=verbose
        ).history
        for i in range(len(done["loss"])):  # a callback may have stopped early
            history.on_epoch_end(len(history.epoch), {"phase": phase, **{k: v[i] for k, v in done.items()}})

    def cycle(peak: float, epochs: int) -> recipe.OneCycle:
        return recipe.OneCycle(peak, recipe.steps(train, epochs, batch_size))

    unfreeze(model, above, bn=bn)  # bad names are told before anything is trained; the head learns in both phases
    freeze(model)
    run(1, head_epochs, recipe.adamw(cycle(head_rate, head_epochs)))
    if epochs:
        unfreeze(model, above, bn=bn)
        run(2, epochs, recipe.adamw(cycle(rate, epochs), weight_decay=0.05))
    best.restore(model)
    return history
