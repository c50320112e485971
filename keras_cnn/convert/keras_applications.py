"""Checkpoints of keras.applications: the legacy `.h5` files that it publishes.

Its v1 ResNets take BGR; the file's first kernel is turned to RGB here, so that every network of ours
takes RGB and no channel order has to be remembered.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn.convert.rename import Format, Rules
from keras_cnn.errors import CorruptFile
from keras_cnn.spec import Preprocess, Spec

if TYPE_CHECKING:
    import numpy as np

CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)


def resnet(spec: Any) -> Rules:
    """keras.applications `resnet.py` and `resnet_v2.py`: stage1 is `conv2`, the shortcut is convolution 0."""
    preact = [
        (r"stage(\d)_block(\d+)_norm1", lambda s, b: f"conv{s + 1}_block{b}_preact_bn"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n - 1}_bn"),
        ("top_norm", "post_bn"),
    ]
    postact = [
        ("stem_norm", "conv1_bn"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n}_bn"),
        (r"stage(\d)_block(\d+)_shortcut_norm", lambda s, b: f"conv{s + 1}_block{b}_0_bn"),
    ]
    return [
        *(preact if spec.preact else postact),
        ("stem_conv", "conv1_conv"),
        (r"stage(\d)_block(\d+)_conv(\d)", lambda s, b, n: f"conv{s + 1}_block{b}_{n}_conv"),
        (r"stage(\d)_block(\d+)_shortcut_conv", lambda s, b: f"conv{s + 1}_block{b}_0_conv"),
        ("head_logits", "predictions"),
    ]


def preprocess(spec: Any) -> Preprocess:
    """ "caffe" of ResNet v1 (BGR, means of 0..255, no scale) in RGB; -1..1 for v2."""
    if _takes_bgr(spec):
        return Preprocess(mean=CAFFE_MEAN, std=(1 / 255,) * 3, interpolation="bilinear")
    return Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")


def _takes_bgr(spec: Any) -> bool:
    return spec.family == "ResNet" and not spec.preact


def _turn_stem(value: np.ndarray, key: str, spec: Spec) -> np.ndarray:
    """BGR to RGB in the first kernel, and back."""
    return value[:, :, ::-1] if key == "stem_conv/kernel" and _takes_bgr(spec) else value


RULES = {"ResNet": resnet}
FORMAT = Format(
    name="keras.applications",
    rules=lambda spec: RULES[spec.family](spec) if spec.family in RULES else [],
    names={n: n for n in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
    separator="/",
    to_ours=lambda value, shape, key, spec: _turn_stem(value, key, spec),
    to_theirs=_turn_stem,
    preprocess=preprocess,
)


def read_h5(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a legacy Keras `.h5` weights file under `layer/variable`."""
    import h5py
    import numpy as np

    state: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            root: Any = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                raise CorruptFile(
                    f"{path} is not a legacy Keras weights file of keras.applications: "
                    "it has no layer names (a .weights.h5 of Keras 3 has none; load it into the Keras model itself)."
                )
            for layer in root.attrs["layer_names"]:
                group = root[layer]
                for weight in group.attrs["weight_names"]:
                    layer_name, variable = _text(weight).removesuffix(":0").split("/")[-2:]
                    state[f"{layer_name}/{variable}"] = np.asarray(group[weight])
    except OSError as error:
        raise CorruptFile(f"{path} is truncated or not an HDF5 file ({error}): fetch it again.") from None
    return state


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
