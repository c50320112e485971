"""torchvision's EfficientNets; its ResNets and its Inception v3 go by timm's names."""

from __future__ import annotations

from typing import Any

from keras_cnn.checkpoints.convert.rename import TORCH_NAMES, Format, Rules, from_torch, to_torch
from keras_cnn.models.config import Preprocess

# The parts of a block in their order; its place in the table is its place in torchvision's Sequential.
BLOCKS = {"ds": ("depthwise", "se", "project"), "ir": ("expand", "depthwise", "se", "project")}
LAYERS = {"conv": "0", "norm": "1", "reduce": "fc1", "expand": "fc2"}


def efficientnet(backbone: Any) -> Rules:
    """torchvision `efficientnet.py`, B0 to B7: the stem, each stage and the top are one entry of `features`."""
    if any(kind not in BLOCKS for kind, *_ in backbone.blocks):
        return []
    ends = {"stem": 0, "top": len(backbone.blocks) + 1}
    return [
        ("head_logits", "classifier.1"),
        *((f"{end}_{ours}", f"features.{n}.{LAYERS[ours]}") for end, n in ends.items() for ours in ("conv", "norm")),
        *(
            (
                rf"stage{s}_block(\d+)_{part}_{ours}",
                lambda b, s=s, place=place, theirs=theirs: f"features.{s}.{b - 1}.block.{place}.{theirs}",
            )
            for s, (kind, *_) in enumerate(backbone.blocks, 1)
            for place, part in enumerate(BLOCKS[kind])
            for ours, theirs in LAYERS.items()
        ),
    ]


def numerics(backbone: Any) -> dict[str, Any]:
    """B5 to B7 are TensorFlow's weights and keep its norm; the padding is torch's for all."""
    converted = backbone.depth > 2
    return {"pad": "torch", "norm_eps": 1e-3 if converted else 1e-5, "norm_momentum": 0.99 if converted else 0.9}


# Share of the resized image that evaluation keeps, by depth coefficient: B0, B1 (its first weights), B3, B4; else all.
CROPS = {1.0: 224 / 256, 1.1: 240 / 256, 1.4: 300 / 320, 1.8: 380 / 384}

FORMAT = Format(
    name="torchvision's EfficientNet",
    rules=lambda backbone: efficientnet(backbone) if backbone.family == "EfficientNet" else [],
    names=TORCH_NAMES,
    separator=".",
    to_ours=from_torch,
    to_theirs=to_torch,
    preprocess=lambda backbone, state: Preprocess(crop=CROPS.get(getattr(backbone, "depth", 1.0), 1.0)),
    ignored=r"num_batches_tracked$",
    numerics=numerics,
)
