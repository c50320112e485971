"""The parts that training from scratch and fine-tuning share: rate, loss, optimiser, watchful callbacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from keras_cnn.checkpoints import arrays, directory
from keras_cnn.errors import BadData, BadImage, BadSpec, NotFinite


@keras.saving.register_keras_serializable("keras_cnn")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then a cosine to zero (Smith 2018, 1803.09820, with the usual cosine descent).

    peak: the highest rate. steps: of the whole run. warmup: share of the steps spent rising.
    start: the optimiser's step at which the cycle begins: more than 0 for an optimiser that has trained before.
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.2, start: int = 0) -> None:
        self.peak, self.steps, self.warmup, self.start = peak, steps, warmup, start

    def __call__(self, step: Any) -> Any:
        step = cast(Any, ops.cast(step, "float32")) - self.start
        rise = max(round(self.warmup * self.steps), 1)  # whole steps, so that the peak is met and not passed
        fall = max(self.steps - rise, 1.0)
        turn = cast(Any, ops.cos(math.pi * cast(Any, ops.clip((step - rise) / fall, 0.0, 1.0))))
        return self.peak * cast(Any, ops.where(step < rise, (step + 1) / rise, 0.5 * (1 + turn)))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "start": self.start}


@keras.saving.register_keras_serializable("keras_cnn")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of labels and probabilities with label smoothing (1512.00567, section 7).

    labels: (batch,) integers, or (batch, classes) shares where images are mixed. probabilities: (batch, classes), or
    logits. Keras has one loss for either kind of labels, and smooths the second only.
    """

    def __init__(
        self, smoothing: float = 0.1, from_logits: bool = False, name: str = "crossentropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing, self.from_logits = smoothing, from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        shares = _shares(y_true, y_pred.shape[-1], y_pred.dtype)
        return keras.losses.categorical_crossentropy(shares, y_pred, self.from_logits, self.smoothing)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("keras_cnn")
class Accuracy(keras.metrics.CategoricalAccuracy):
    """Share of images whose most probable class is the label's, or the largest share's where images are mixed."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().update_state(_shares(y_true, y_pred.shape[-1], y_pred.dtype), y_pred, sample_weight)


def _shares(labels: Any, classes: int, dtype: Any) -> Any:
    """Labels as (batch, classes) shares: (batch,) or (batch, 1) integers become one-hot, shares stay."""
    if len(labels.shape) == 2 and labels.shape[1] == classes > 1:
        return ops.cast(labels, dtype)
    return ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), classes, dtype=dtype)


def sgd(rate: Any, weight_decay: float = 5e-3) -> keras.optimizers.Optimizer:
    """Nesterov SGD. Keras' decay is decoupled: 5e-3 here pulls as hard as torch's 5e-4 under momentum 0.9."""
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    return _spare_vectors(optimizer)


CLIPNORM = 1.0  # of all gradients together: with batch norm in inference mode nothing else tames a large step


def adamw(
    rate: Any, weight_decay: float = 0.01, ema: float = 0.0, clipnorm: float | None = CLIPNORM
) -> keras.optimizers.Optimizer:
    """AdamW with the gradient's norm held to `clipnorm`, where there is one.

    ema: momentum of a running mean of the weights; 0 for none.
    """
    average: Any = {"use_ema": True, "ema_momentum": ema} if ema else {}
    optimizer = keras.optimizers.AdamW(rate, weight_decay=weight_decay, global_clipnorm=clipnorm, **average)
    return _spare_vectors(optimizer)


def clipped(gradients: Sequence[Any], norm: float = CLIPNORM) -> list[Any]:
    """Gradients, or None in their place, scaled so that the norm of all together is at most `norm` (1211.5063, 3.2)."""
    squares: Any = sum(cast(Any, ops.sum(ops.square(one))) for one in gradients if one is not None)
    scale = norm / cast(Any, ops.maximum(ops.sqrt(squares), norm))
    return [one if one is None else one * scale for one in gradients]


def _spare_vectors(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


AUX_WEIGHT = 0.4  # of an auxiliary classifier's loss, as torchvision trains Inception v3


def compile_(model: Any, optimizer: keras.optimizers.Optimizer, smoothing: float = 0.1) -> None:
    """Compile for classification; an auxiliary classifier, the second output, adds its weighted loss."""
    outputs = len(model.outputs)
    model.compile(
        optimizer,
        [SmoothedCrossentropy(smoothing, _logits(output)) for output in model.outputs],
        loss_weights=[1.0, AUX_WEIGHT][:outputs],
        metrics=[[Accuracy(name="accuracy")], []][:outputs],
    )


def _logits(output: Any) -> bool:
    """Whether an output is that of a dense layer without an activation."""
    return getattr(output._keras_history.operation, "activation", None) is keras.activations.linear


def of_head(model: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """Logs with the head's own figures under their plain names: Keras puts an output's name before them where there
    are two outputs."""
    if len(model.outputs) == 1:
        return logs
    prefix = f"{model.output_names[0]}_"
    return {key.replace(prefix, "") if key.endswith("accuracy") else key: value for key, value in logs.items()}


def not_finite(what: str, out: str | Path | None) -> NotFinite:
    """The error for a run whose numbers have left the range of floats; `out`: where it keeps its best epoch."""
    kept = f" The last good weights are in {out}." if out and (Path(out) / directory.CONFIG).exists() else ""
    return NotFinite(f"{what}: lower the learning rate.{kept}")


class StopOnNaN(keras.callbacks.Callback):
    """Raises NotFinite at the first batch whose mean loss is not a number; nothing is saved after it."""

    def __init__(self, kept: str | Path | None = None) -> None:
        super().__init__()
        self.kept = kept

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not np.isfinite(float((logs or {}).get("loss", 0.0))):
            raise not_finite(f"the loss is no longer a number after batch {batch + 1}", self.kept)


class Best(keras.callbacks.Callback):
    """Remembers the weights of the best epoch, over several `fit` calls, and writes them as weights directory.

    network: whose weights; `fit` may train a part of it. monitor: a logged value that should grow; without validation
    data it is absent and the last epoch counts as best. patience: epochs without a new best after which `fit` ends.
    out: the directory, written at each new best; provenance goes into its configuration and card.
    """

    def __init__(
        self,
        network: Any,
        out: str | Path | None = None,
        monitor: str = "val_accuracy",
        half: bool = False,
        patience: int | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network, self.out, self.monitor, self.half = network, out, monitor, half
        self.patience, self.provenance = patience, dict(provenance or {})
        self.value, self.weights, self.since = -math.inf, None, 0

    def state(self) -> tuple[arrays.Arrays, dict[str, Any]]:
        """What to keep of it so that a run can go on."""
        weights = self.weights or []
        arrays = {f"best/{i}": value for i, value in enumerate(weights)}
        return arrays, {"value": self.value, "since": self.since, "best": len(weights)}

    def go_on(self, arrays: arrays.Arrays, facts: dict[str, Any]) -> None:
        """Be as it was when `state` was called."""
        self.value, self.since = facts["value"], facts["since"]
        self.weights = [arrays[f"best/{i}"] for i in range(facts["best"])] or None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        before = self.value
        self.offer(of_head(self.network, logs or {}))
        self.since = 0 if self.value > before else self.since + 1
        if self.patience is not None and self.since >= self.patience:
            cast(Any, self.model).stop_training = True

    def offer(self, logs: dict[str, Any]) -> None:
        """Take the network's present weights as best, unless these figures are worse; of equals, the last counts."""
        if logs.get(self.monitor, math.inf) < self.value:
            return
        weights = self.network.get_weights()
        if not all(np.isfinite(values).all() for values in weights):  # the last update has no loss after it
            raise not_finite("the weights are no longer numbers", self.out)
        self.value, self.weights = float(logs.get(self.monitor, -math.inf)), weights
        if self.out is not None:
            metrics = {k: float(v) for k, v in logs.items() if k != "learning_rate"}
            facts = {**self.provenance, "metrics": metrics}
            directory.save_pretrained(self.network, self.out, half=self.half, provenance=facts)

    def restore(self) -> None:
        """Give the network the weights of the best epoch."""
        if self.weights is not None:
            self.network.set_weights(self.weights)


def rows(history: keras.callbacks.History) -> list[dict[str, Any]]:
    """A History as a list of its epochs, each with its figures."""
    return [{key: values[i] for key, values in history.history.items()} for i in range(len(history.epoch))]


def remember(history: keras.callbacks.History, logs: dict[str, Any]) -> None:
    """Add an epoch to a History that lasts over several `fit` calls, or over a process that was killed."""
    history.on_epoch_end(len(history.epoch), {k: v if isinstance(v, str) else float(v) for k, v in logs.items()})


def values(variables: dict[str, Any]) -> arrays.Arrays:
    """The values of Keras variables under their keys."""
    return {key: np.asarray(ops.convert_to_numpy(variable.value)) for key, variable in variables.items()}


def put_back(variables: dict[str, Any], arrays: arrays.Arrays) -> None:
    """Give Keras variables the values that `values` took of them; BadSpec where another release named others."""
    if missing := [key for key in variables if key not in arrays or arrays[key].shape != tuple(variables[key].shape)]:
        raise BadSpec(
            f"the state of the run has no fitting {missing[0]}: go on with the release of Keras that began it, or "
            "overwrite=True (--overwrite) begins anew."
        )
    for key, variable in variables.items():
        variable.assign(arrays[key])


def recall(model: Any, out: str | Path | None) -> None:
    """Give a model the weights of a run that is complete."""
    _, arrays = cast(Any, directory.read(str(out)).load)()
    arrays.assign(model, arrays)


def steps(data: Any, epochs: int, batch_size: int) -> int:
    """Optimiser steps of a run; data is anything with a length in batches, or a pair (images, labels)."""
    try:
        batches = math.ceil(len(data[0]) / batch_size) if isinstance(data, tuple) else len(data)
    except TypeError:
        raise BadData(
            "the training data has no length, which the learning rate needs: remove its unreadable images, or give the "
            "data set one with tf.data.experimental.assert_cardinality."
        ) from None
    return epochs * batches


def fit(model: Any, data: Any, val: Any = None, *, batch_size: int = 32, **kwargs: Any) -> keras.callbacks.History:
    """Keras `fit` on a data set of batches or on a pair (images, labels) of arrays."""
    kwargs.setdefault("shuffle", isinstance(data, tuple))  # data sets shuffle themselves
    if isinstance(val, tuple) and val[0].ndim == 2:  # features: a batch costs more than what is in it
        kwargs.setdefault("validation_batch_size", 256)
    if len(model.outputs) > 1:
        data, val = _for_both(data), _for_both(val)
    with BadImage.surfacing(), BadData.surfacing():
        if isinstance(data, tuple):
            history = model.fit(*data, batch_size=batch_size, validation_data=val, **kwargs)
        else:
            history = model.fit(data, validation_data=val, **kwargs)
    history.history = of_head(model, history.history)
    return history


def _for_both(data: Any) -> Any:
    """The labels twice: an auxiliary classifier learns the same."""
    twice = lambda images, labels: (images, (labels, labels))  # noqa: E731
    if data is None:
        return None
    if isinstance(data, keras.utils.PyDataset):  # knows how many outputs there are
        return data
    return twice(*data) if isinstance(data, tuple) else data.map(twice)
