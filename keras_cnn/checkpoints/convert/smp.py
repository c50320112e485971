"""segmentation_models.pytorch's U-Nets on ResNets: `Unet("resnet18", ...)` with its defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_cnn.checkpoints.convert import timm
from keras_cnn.checkpoints.convert.rename import Rules

DECODER = "decoder.blocks"


def rules(backbone: Any) -> Rules:
    """Its encoder has torchvision's names; decoder blocks count from 0, a convolution and its norm are a Sequential."""
    if backbone.family != "ResNet" or backbone.preact:
        return []
    encoder: Rules = [(ours, _below(theirs)) for ours, theirs in timm.resnet(backbone) if ours != "head_logits"]
    return [
        *encoder,
        (r"decoder(\d+)_block(\d)_conv", lambda i, b: f"{DECODER}.{i - 1}.conv{b}.0"),
        (r"decoder(\d+)_block(\d)_norm", lambda i, b: f"{DECODER}.{i - 1}.conv{b}.1"),
        ("head_logits", "segmentation_head.0"),
    ]


def _below(theirs: Any) -> Any:
    """A rule's name, or the function that makes it, below the encoder."""
    return f"encoder.{theirs}" if isinstance(theirs, str) else lambda *numbers: f"encoder.{theirs(*numbers)}"


FORMAT = dataclasses.replace(timm.FORMAT, name="segmentation_models.pytorch", rules=rules)
