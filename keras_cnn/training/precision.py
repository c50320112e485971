"""The precision that a network trains fastest in on the device at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from keras_cnn import runtime
from keras_cnn.models.backbone import Backbone

TENSOR_CORES = 8  # compute capability of the first of NVIDIA's GPUs that multiply bfloat16


def fastest(backbone: Backbone) -> str:
    """ "mixed_bfloat16" where the device multiplies it faster than float32, else "float32".

    A GPU of compute capability 8 or more, or a TPU; a processor with AMX or AVX512_BF16 by oneDNN, which JAX has not,
    but for networks of depthwise convolutions, which it computes slower in bfloat16 (README has figures), and for those
    of grouped ones and of sequences, which were not measured.
    """
    if devices := [name for name in keras.distribution.list_devices() if not name.startswith("cpu")]:
        fast = any(name.startswith("tpu") for name in devices) or _capability() >= TENSOR_CORES
    else:
        fast = keras.backend.backend() != "jax" and runtime.multiplies_bfloat16()
        fast = fast and backbone.SIDES == 2 and not backbone.grouped
    return "mixed_bfloat16" if fast else "float32"


@contextlib.contextmanager
def building_in(policy: str) -> Iterator[None]:
    """Networks that are built meanwhile compute in this precision, ever after; Keras' own setting is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _capability() -> int:
    """Major compute capability of the first NVIDIA GPU that the backend sees; 0 where it does not tell."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(device).get("compute_capability", (0, 0))[0]
    if backend == "jax":
        import jax  # type: ignore[reportMissingImports]

        told = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
        return int(told) if told.isdecimal() else 0  # others have names for it
    return 0
