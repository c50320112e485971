"""Weights seeded by the name of the variable, so that every framework can be given the same network.

No file has to be shared: both sides compute the same arrays from the same keys. Variances reach down to 1e-3, where a
wrong epsilon shows; gammas undo them on the whole, so that a deep network neither explodes nor fades.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from keras_cnn.models.heads import Head


def generator(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of a variable, `layer/variable`, by its key alone."""
    rng, (layer, variable) = generator(key), key.split("/")
    if variable == "kernel":
        # A depthwise kernel sees one channel, and follows an activation that has shrunk the signal.
        variance = 6.0 / np.prod(shape[:2]) if shape[-1] == 1 else 1.5 / np.prod(shape[:-1])
        value = rng.standard_normal(shape) * np.sqrt(variance)
    elif variable == "moving_variance":
        value = 10.0 ** rng.uniform(-3, 0, shape)
    elif variable == "gamma":
        spread = array(f"{layer}/moving_variance", shape) if "norm" in layer else 1.0
        block = re.search(r"_block(\d+)_", layer)
        damping = min(1.0, (4 / int(block[1])) ** 2) if block else 1.0  # a sum of 200 blocks would overflow
        value = damping * rng.uniform(0.3, 1.0, shape) * np.sqrt(spread)
    elif key.endswith("se_expand/bias"):  # gates stand open, else every squeeze-excite would halve the signal
        value = 2.0 + 0.1 * rng.standard_normal(shape)
    else:  # bias, beta, moving_mean
        value = 0.1 * rng.standard_normal(shape)
    return value.astype("float32")


def arrays(shapes: dict[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, np.ndarray]:
    """gain: of every kernel, where a network's own signal would fade behind its biases."""
    scale = lambda key: np.float32(gain if key.endswith("/kernel") else 1)  # noqa: E731
    return {key: scale(key) * array(key, tuple(shape)) for key, shape in shapes.items()}


def head(name: str, classes: int) -> Head:
    """The head under which a variant is compared; FaceNet's has an embedding."""
    return Head(classes=classes, embedding=512 if name == "inception_resnet_v1" else 0, activation=None)


def image(size: int, channels: int = 3) -> np.ndarray:
    """A batch of one uint8 image: smooth shapes and noise, the same everywhere."""
    rng = generator(f"image {size}")
    ramp = np.linspace(0, 180, size)[:, None, None] * rng.uniform(0.3, 1, (1, size, channels))
    return np.clip(ramp + rng.uniform(0, 75, (size, size, channels)), 0, 255).astype("uint8")[None]


def images(name: str) -> dict[str, np.ndarray]:
    """What a variant is shown: an even and an odd size, and the even one inverted, since logits that do not change
    with the image prove nothing. The Inceptions' valid windows need room."""
    even, odd = (96, 107) if name.startswith("inception") else (64, 75)
    return {str(even): image(even), str(odd): image(odd), "inverted": 255 - image(even)}
