"""What 8 bits cost, layer by layer: each alone is rounded as int8 would, and the answers are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.models.assemble import recursion
from keras_cnn.tasks import Task
from keras_cnn.terminal import progress

BATCH = 8  # images whose maps are looked at together


@dataclass(frozen=True)
class Sensitivity:
    """What rounding one layer costs. layer: its name; kind: its class; parameters; error: the root mean square of what
    it changes in the answers, as a share of that of the answers; changed: share of what is decided, of images, pixels
    or their classes, that is decided otherwise; None where nothing is, as by numbers."""

    layer: str
    kind: str
    parameters: int
    error: float
    changed: float | None


def sensitivities(network: Any, images: np.ndarray, task: Task) -> list[Sensitivity]:
    """How sensitive a folded network's answers are to rounding each of its linear layers, the most sensitive first.

    A layer's kernel is rounded to 255 steps, symmetrically and filter by filter; what it is given to 256 steps between
    the lowest and the highest value of the images. All other layers stay float32. That is how the tools of OpenVINO,
    onnxruntime and LiteRT do it, without what each does on top. images: raw, (n, height, width, channels). task: what
    the answers mean, which a folded network no longer tells.
    """
    import keras

    from keras_cnn.deploy.fold import LINEAR

    class Rounded(keras.layers.Layer):
        """What passes is rounded to 256 steps between `low` and `high` while `on` is 1."""

        def build(self, input_shape: Any) -> None:
            for name in ("low", "high", "on"):
                setattr(self, name, self.add_weight(shape=(), initializer="zeros", trainable=False, name=name))

        def call(self, x: Any) -> Any:
            ops = keras.ops
            step: Any = ops.maximum(self.high - self.low, 1e-12)
            step = step / 255
            whole = ops.round((ops.clip(x, self.low, self.high) - self.low) / step) * step + self.low
            return ops.where(self.on > 0.5, whole, x)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    linear = {layer.name: layer for layer in network.layers if type(layer) in LINEAR}
    gates: dict[str, Any] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name not in linear:
            return layer(*args, **kwargs)
        gates[layer.name] = Rounded(name=f"{layer.name}_rounded")
        return layer(gates[layer.name](args[0]), *args[1:], **kwargs)

    with recursion(2 * len(network.layers)):
        copy: Any = keras.models.clone_model(network, call_function=call)
        for layer in network.layers:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
        given = keras.Model(copy.inputs, [gate.input for gate in gates.values()])
        for start in range(0, len(images), BATCH):
            seen = given.predict_on_batch(images[start : start + BATCH].astype("float32"))
            for gate, maps in zip(gates.values(), seen if len(gates) > 1 else [seen], strict=True):
                maps = maps[0] if isinstance(maps, list) else maps
                # Zero is one of the steps: it is what maps are padded with.
                low, high = (np.asarray(keras.ops.convert_to_numpy(part)) for part in (gate.low, gate.high))
                gate.low.assign(min(low, np.min(maps)))
                gate.high.assign(max(high, np.max(maps)))
    wanted = _answers(copy, images)
    logits = task.logits(network)[0]
    rows = []
    for name, gate in progress(gates.items(), "looking at layers", len(gates)):
        layer = copy.get_layer(name)
        attribute, axes = LINEAR[type(layer)]
        kernel: Any = getattr(layer, attribute)
        before = np.asarray(keras.ops.convert_to_numpy(kernel))
        kernel.assign(_in_steps(before, axes))
        gate.on.assign(1.0)
        found = _answers(copy, images)
        kernel.assign(before)
        gate.on.assign(0.0)
        error = np.sqrt(np.mean((found - wanted) ** 2)) / max(np.sqrt(np.mean(wanted**2)), np.finfo("float32").tiny)
        one, other = (task.decided(task.finish(answers, logits)) for answers in (found, wanted))
        changed = None if one is None else float(np.mean(one != other))
        rows.append(Sensitivity(name, type(layer).__name__, layer.count_params(), float(error), changed))
    return sorted(rows, key=lambda row: -row.error)


def _answers(network: Any, images: np.ndarray) -> np.ndarray:
    parts = [images[i : i + BATCH].astype("float32") for i in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(network.predict_on_batch(part), "float32") for part in parts])


def _in_steps(kernel: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """A kernel of whole multiples of a step for each filter, from -127 to 127 of them."""
    inner = tuple(axis for axis in range(kernel.ndim) if axis - kernel.ndim not in outputs)
    step = np.maximum(np.abs(kernel).max(inner, keepdims=True), 1e-12) / 127
    return np.round(kernel / step) * step
