"""Networks and files of keras.applications with weights of ours, to hold the conversion to."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import keras
import numpy as np
import seeded

from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.convert import keras_applications
from keras_cnn.models.assemble import assemble
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import IMAGENET_MEAN, Config


def lively(values: dict[str, np.ndarray], config: Config, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The values with the statistics that a few unlike images leave, so that no signal fades, and logits of about 1.

    No variance is under 0.01, else another image might explode; an epsilon of 1e-3 still shows.
    """
    model = assemble(config.at((None, None, 3)))
    arrays.assign(model, values)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for n, size in enumerate(sizes):
        for norm in norms:
            norm.momentum = n / (n + 1)  # the mean over all sizes
        model(_unlike(size), training=True)
    found = arrays.arrays(model)
    found = {k: np.maximum(v, 0.01) if k.endswith("/moving_variance") else v for k, v in found.items()}
    arrays.assign(model, found)
    largest = max(np.abs(model(_unlike(size), training=False)).max() for size in sizes)
    return found | {"head_logits/kernel": found["head_logits/kernel"] / largest}


def _unlike(size: int) -> np.ndarray:
    image = seeded.image(size)
    return np.concatenate([image, 255 - image, image // 4, image[..., ::-1], image[:, ::-1] // 2 + 90])


def without_gammas(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same network with every gamma 1: it goes into the kernel before, and the mean follows."""
    values = dict(values)
    for norm in [key.removesuffix("/gamma") for key in values if key.endswith("/gamma")]:
        conv, gamma = re.sub(r"norm(\d*)$", r"conv\1", norm), values[f"{norm}/gamma"]
        values[f"{conv}/kernel"] = values[f"{conv}/kernel"] * gamma
        values[f"{norm}/moving_mean"] = values[f"{norm}/moving_mean"] * gamma
        values[f"{norm}/gamma"] = np.ones_like(gamma)
    return values


def fill(
    model: keras.Model,
    state: dict[str, np.ndarray],
    backbone: Backbone,
    pixel_variance: tuple[float, ...],
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN,
) -> None:
    """Give a network of keras.applications its arrays, all of them; pixel_*: of an EfficientNet V1's pixels."""
    targets = dict(keras_applications.by_order(arrays.variables(model), backbone))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.adapt_mean.assign(pixel_mean)
            layer.adapt_variance.assign(pixel_variance)
            layer.finalize_state()
            targets = {key: v for key, v in targets.items() if not key.startswith(f"{layer.name}/")}
    arrays.check({key: tuple(v.shape) for key, v in targets.items()}, state)
    for key, variable in targets.items():
        variable.assign(state[key])


def published(model: keras.Model) -> dict[str, np.ndarray]:
    """A network's arrays under the names of Keras 2: unnamed layers count from 1, and depthwise kernels say so."""
    numbers: dict[tuple[str, int], str] = {}
    for layer in model.layers:
        if found := re.fullmatch(r"(conv2d|batch_normalization)(?:_(\d+))?", layer.name):
            numbers[found[1], int(found[2] or 0)] = layer.name
    ordered, names = sorted(numbers), {}
    for kind in ("conv2d", "batch_normalization"):
        mine = [key for key in ordered if key[0] == kind]
        names |= {numbers[key]: f"{kind}_{n}" for n, key in enumerate(mine, 1)}
    depthwise = {layer.name for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)}
    state = {}
    for key, value in arrays.arrays(model).items():
        layer, variable = key.split("/")
        variable = f"depthwise_{variable}" if layer in depthwise else variable
        state[f"{names.get(layer, layer)}/{variable}"] = value
    return state


def write_h5(path: Path, state: dict[str, np.ndarray]) -> Path:
    """A legacy weights file: a group for each layer, and attributes that list the names in order."""
    with h5py.File(path, "w") as file:
        layers = list(dict.fromkeys(key.split("/")[0] for key in state))
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            names = {f"{key}:0": value for key, value in state.items() if key.startswith(f"{layer}/")}
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in names.items():
                group.create_dataset(name, data=value)
    return path
