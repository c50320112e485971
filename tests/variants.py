"""Which variants are too large for the default run; they are tested with `-m slow`."""

from __future__ import annotations

import pytest

from keras_cnn.models import registry

LARGE = {
    "resnet1202",
    *(f"resnetv2_{n}_bit" for n in ("50x3", "101x1", "101x3", "152x2")),
    *(f"{prefix}efficientnet_{n}" for prefix in ("", "tf_") for n in ("b5", "b6", "b7", "b8", "l2")),
    "tf_efficientnetv2_m",
    "tf_efficientnetv2_l",
}
# Networks for images; test_tcn.py has that for sequences.
IMAGES = [name for name, config in registry.architectures().items() if config.backbone.SIDES == 2]
VARIANTS = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in IMAGES]
