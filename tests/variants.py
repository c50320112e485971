"""Which variants are left to `-m slow`: large ones, and those that differ from a faster one in depth or width alone."""

from __future__ import annotations

import pytest

from keras_cnn.models import registry

HUGE = {
    "resnet1202",
    *(f"resnetv2_{n}_bit" for n in ("50x3", "101x1", "101x3", "152x2")),
    *(f"{prefix}efficientnet_{n}" for prefix in ("", "tf_") for n in ("b5", "b6", "b7", "b8", "l2")),
    "tf_efficientnetv2_m",
    "tf_efficientnetv2_l",
}
LARGE = HUGE | {  # those that differ from a faster one in depth or width alone come with them
    *(f"{prefix}efficientnet_b{n}" for prefix in ("", "tf_") for n in (1, 2, 4)),
    *(f"{prefix}efficientnet_lite{n}" for prefix in ("", "tf_") for n in (1, 2, 3)),
    *(f"tf_efficientnetv2_b{n}" for n in (1, 2)),
    *(f"resnet{n}{kind}" for n in (101, 152, 200) for kind in ("", "d")),
    *("resnext101_32x8d", "wide_resnet101_2", "resnetv2_101", "resnetv2_152"),
    *(f"keras_resnet{n}{version}" for n in (101, 152) for version in ("", "v2")),
}
# Networks for images; test_tcn.py has that for sequences.
IMAGES = [name for name, config in registry.architectures().items() if config.backbone.SIDES == 2]
VARIANTS = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in IMAGES]
