"""Callbacks of Keras, each with one job, and a History that lasts longer than one `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from keras_cnn.checkpoints import arrays, directory
from keras_cnn.errors import NotFinite
from keras_cnn.training import distribution, loop, state

Logs = dict[str, Any]


class StopOnNaN(keras.callbacks.Callback):
    """Raises NotFinite at the first batch whose mean loss is not a number; nothing is saved after it.

    out: where the best epoch is kept.
    """

    def __init__(self, out: str | Path | None = None) -> None:
        super().__init__()
        self.out = out

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not np.isfinite(float((logs or {}).get("loss", 0.0))):
            raise not_finite(f"the loss is no longer a number after batch {batch + 1}", self.out)


def not_finite(what: str, out: str | Path | None) -> NotFinite:
    """The error for a run whose numbers have left the range of floats; `out`: where it keeps its best epoch."""
    kept = f" The last good weights are in {out}." if out and (Path(out) / directory.CONFIG).exists() else ""
    return NotFinite(f"{what}: lower the learning rate.{kept}")


class Best(keras.callbacks.Callback):
    """Remembers the weights of the best epoch, over several `fit` calls.

    network: whose weights; `fit` may train a part of it. monitor, mode: the logged figure, and whether the best is its
    "max" or "min"; without validation data it is absent, and the last epoch counts as best.
    out: where `save`, which is called with the logs of each new best, writes the network.
    """

    def __init__(
        self,
        network: Any,
        monitor: str,
        mode: str = "max",
        out: str | Path | None = None,
        save: Callable[[Logs], None] = lambda logs: None,
    ) -> None:
        super().__init__()
        self.network, self.monitor, self.out, self.save = network, monitor, out, save
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.value, self.weights, self.since = -math.inf, None, 0  # the figure, so that more is better; epochs since
        self.logs: Logs = {}  # of the best epoch

    def state(self) -> tuple[arrays.Arrays, Logs]:
        """What to keep of it so that a run can go on."""
        weights = self.weights or []
        kept = {f"best/{i}": value for i, value in enumerate(weights)}
        return kept, {"value": self.value, "since": self.since, "logs": self.logs, "best": len(weights)}

    def go_on(self, kept: arrays.Arrays, facts: Logs) -> None:
        """Be as it was when `state` was called."""
        self.value, self.since, self.logs = facts["value"], facts["since"], facts.get("logs", {})
        self.weights = [kept[f"best/{i}"] for i in range(facts["best"])] or None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        before = self.value
        self.offer(loop.of_head(self.network, logs or {}))
        self.since = 0 if self.value > before else self.since + 1

    def beats(self, figure: float) -> bool:
        """Whether a figure is better than that of the best epoch."""
        return self.sign * figure > self.value

    def offer(self, logs: Logs) -> None:
        """Take the network's present weights as best, unless these figures are worse; of equals, the last counts."""
        figure = self.sign * logs[self.monitor] if self.monitor in logs else None
        if figure is not None and figure < self.value:
            return
        weights = self.network.get_weights()
        if not all(np.isfinite(values).all() for values in weights):  # the last update has no loss after it
            raise not_finite("the weights are no longer numbers", self.out)
        self.value, self.weights = -math.inf if figure is None else float(figure), weights
        self.logs = {key: float(value) for key, value in logs.items() if key != "learning_rate"}
        self.save(self.logs)

    def save_again(self) -> None:
        """Write the best epoch anew: what a run that went on found in its directory may have been damaged meanwhile."""
        if self.weights is not None:
            self.save(self.logs)

    def restore(self) -> None:
        """Give the network the weights of the best epoch."""
        if self.weights is not None:
            self.network.set_weights(self.weights)


def into(
    out: str | Path | None, network: Any, half: bool, provenance: Mapping[str, Any] | None
) -> Callable[[Logs], None]:
    """What writes a network as weights directory, with its figures in configuration and card, if there is an `out`."""

    def save(logs: Logs) -> None:
        if out is not None:
            facts = {**(provenance or {}), "metrics": dict(logs)}
            directory.save_pretrained(network, out, half=half, provenance=facts)

    return save


class Patience(keras.callbacks.Callback):
    """Ends `fit` after so many epochs without a new best; stands behind `Best` in the list."""

    def __init__(self, best: Best, epochs: int) -> None:
        super().__init__()
        self.best, self.epochs = best, epochs

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.best.since >= self.epochs:
            cast(Any, self.model).stop_training = True


class KeepState(keras.callbacks.Callback):
    """Writes the state of a run as an epoch begins, now and then within it, and where a signal asks to stop.

    make: the state, of the number of the epoch in its phase. steps: batches of an epoch; None for data that cannot be
    gone through from its midst. start: the batch that a pass began with; there the metrics are what they were.
    before: epochs of earlier phases.
    """

    def __init__(self, run: state.Run, make: Callable[[int], state.State], steps: int | None) -> None:
        super().__init__()
        self.run, self.make, self.steps, self.epoch, self.start, self.before = run, make, steps, 0, 0, 0
        self.measured = run.state[0] if run.state else {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch - self.before
        if self.start:
            loop.put_back(self.metrics(), self.measured)
        else:
            self.run.keep(lambda: self.make(self.epoch), now=self.run.asked is not None)
            if self.run.asked is not None:
                self.run.stop(self.run.asked)
        self.run.busy = True

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        done = self.start + batch + 1
        if done == self.steps:  # the epoch's end is as good a place, and comes soon
            return
        if self.steps is not None:
            self.run.keep(lambda: self.now(done), now=self.run.asked is not None, amid=True)
        if self.run.asked is not None:
            self.run.stop(self.run.asked)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.run.busy = False

    def now(self, step: int) -> state.State:
        """The state after so many batches of an epoch."""
        getattr(self.model, "jax_state_sync", lambda: None)()  # with JAX, Keras keeps the values apart meanwhile
        values, facts = self.make(self.epoch)
        return values | loop.values(self.metrics()), {**facts, "step": step}

    def metrics(self) -> dict[str, Any]:
        """What the figures of an epoch are made of; none of several devices, which would all have to be asked at once.

        There, an epoch that goes on has the figures of the training images that are left.
        """
        if distribution.place().replicas > 1:
            return {}
        return {f"metrics/{i}": v for i, v in enumerate(cast(Any, self.model).metrics_variables)}


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' own progress, which tells the time that is left, with the images of a second that are learnt.

    batch_size: images a step. The first step of an epoch, which may trace a graph, does not count where others follow.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size, self.begun, self.steps, self.rate = batch_size, 0.0, 0, cast(Logs, {})

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.begun, self.steps = time.monotonic(), 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        now = time.monotonic()
        self.rate = {"images/s": self.batch_size * max(self.steps, 1) / max(now - self.begun, 1e-9)}
        self.begun, self.steps = (self.begun if self.steps else now), self.steps + 1
        super().on_train_batch_end(batch, {**(logs or {}), **self.rate})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, {**self.rate, **(logs or {})})


class Seek(keras.callbacks.Callback):
    """Makes each epoch's pass over the data the one of its number.

    seek: of data and number. data: what is passed over. done: the number of the first pass. before: epochs of earlier
    phases, which may be fewer than were planned.
    """

    def __init__(self, seek: Callable[[Any, int], None], done: int = 0) -> None:
        super().__init__()
        self.seek, self.done, self.data, self.before = seek, done, None, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.seek(self.data, self.done + epoch - self.before)


class LongHistory(keras.callbacks.History):
    """A Keras History over several `fit` calls, or over processes that were killed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.set_model(model)
        self.on_train_begin()

    @property
    def rows(self) -> list[Logs]:
        """Its epochs, each with its figures."""
        return [{key: values[i] for key, values in self.history.items()} for i in range(len(self.epoch))]

    def add(self, *rows: Logs) -> None:
        """Add epochs."""
        for row in rows:
            numbers = {key: value if isinstance(value, str) else float(value) for key, value in row.items()}
            self.on_epoch_end(len(self.epoch), numbers)


class Record(keras.callbacks.Callback):
    """Adds each epoch to a long History, and writes that into the directory of a run. facts: of each epoch."""

    def __init__(self, history: LongHistory, network: Any, run: state.Run, **facts: str) -> None:
        super().__init__()
        self.history, self.network, self.run, self.facts = history, network, run, facts

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.history.add({**self.facts, **loop.of_head(self.network, logs or {})})
        self.run.log(self.history.rows)
