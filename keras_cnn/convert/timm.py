"""timm's checkpoints and its `config.json`; torchvision's ResNets share the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_cnn.catalog import get
from keras_cnn.convert.rename import TORCH_NAMES, Format, Rules, from_torch, to_torch
from keras_cnn.errors import CorruptFile
from keras_cnn.families.inception import RESIDUAL_STAGES
from keras_cnn.spec import IMAGENET_MEAN, IMAGENET_STD, Config, Head, Preprocess, Spec


def resnet(spec: Any) -> Rules:
    """timm `resnet.py`, torchvision `resnet.py`."""
    if spec.preact:
        return resnetv2(spec)
    down = 1 if spec.shortcut == "avgpool" else 0  # the average pool is the Sequential's entry 0
    return [
        ("stem_conv", "conv1"),
        (r"stem_conv(\d)", lambda n: f"conv1.{3 * (n - 1)}"),
        (r"stem_norm3?", "bn1"),
        (r"stem_norm(\d)", lambda n: f"conv1.{3 * (n - 1) + 1}"),
        (r"stage(\d)_block(\d+)_conv(\d)", lambda s, b, n: f"layer{s}.{b - 1}.conv{n}"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"layer{s}.{b - 1}.bn{n}"),
        (r"stage(\d)_block(\d+)_shortcut_conv", lambda s, b: f"layer{s}.{b - 1}.downsample.{down}"),
        (r"stage(\d)_block(\d+)_shortcut_norm", lambda s, b: f"layer{s}.{b - 1}.downsample.{down + 1}"),
        ("head_logits", "fc"),
    ]


def resnetv2(spec: Any) -> Rules:
    """timm `resnetv2.py`."""
    return [
        ("stem_conv", "stem.conv"),
        (r"stage(\d)_block(\d+)_conv(\d)", lambda s, b, n: f"stages.{s - 1}.blocks.{b - 1}.conv{n}"),
        (r"stage(\d)_block(\d+)_norm(\d)", lambda s, b, n: f"stages.{s - 1}.blocks.{b - 1}.norm{n}"),
        (r"stage(\d)_block(\d+)_shortcut_conv", lambda s, b: f"stages.{s - 1}.blocks.{b - 1}.downsample.conv"),
        ("top_norm", "norm"),
        ("head_logits", "head.fc"),
    ]


# Their names of a block's layers, by kind of block and our names.
EFFICIENTNET = {
    "ds": {"depthwise_conv": "conv_dw", "depthwise_norm": "bn1", "project_conv": "conv_pw", "project_norm": "bn2"},
    "ir": {
        "expand_conv": "conv_pw",
        "expand_norm": "bn1",
        "depthwise_conv": "conv_dw",
        "depthwise_norm": "bn2",
        "project_conv": "conv_pwl",
        "project_norm": "bn3",
    },
    "er": {"expand_conv": "conv_exp", "expand_norm": "bn1", "project_conv": "conv_pwl", "project_norm": "bn2"},
    "cn": {"project_conv": "conv", "project_norm": "bn1"},
}
SQUEEZE_EXCITE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}


def efficientnet(spec: Any) -> Rules:
    """timm `efficientnet.py`."""
    blocks = [
        (rf"stage{s}_block(\d+)_{ours}", lambda b, s=s, theirs=theirs: f"blocks.{s - 1}.{b - 1}.{theirs}")
        for s, (kind, *_) in enumerate(spec.blocks, 1)
        for ours, theirs in (EFFICIENTNET[kind] | SQUEEZE_EXCITE).items()
    ]
    ends = {
        "stem_conv": "conv_stem",
        "stem_norm": "bn1",
        "top_conv": "conv_head",
        "top_norm": "bn2",
        "head_logits": "classifier",
    }
    return [*ends.items(), *blocks]


# torchvision's names of Inception v3's convolutions, branch by branch; a pair is a fork, None a pool.
DOUBLE = ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
POOL = [None, "branch_pool"]
MIXED: dict[str, list[list[Any]]] = {
    "A": [["branch1x1"], ["branch5x5_1", "branch5x5_2"], DOUBLE, POOL],
    "B": [["branch3x3"], DOUBLE],
    "C": [
        ["branch1x1"],
        [f"branch7x7_{i}" for i in (1, 2, 3)],
        [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)],
        POOL,
    ],
    "D": [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)]],
    "E": [
        ["branch1x1"],
        ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
        POOL,
    ],
}
KINDS = {"stage2": "AAA", "stage3": "BCCCC", "stage4": "DEE"}


def _unit(ours: str, theirs: str, number: str = "") -> Rules:
    """A convolution and its norm."""
    return [(f"{ours}conv{number}", f"{theirs}.conv"), (f"{ours}norm{number}", f"{theirs}.bn")]


def inception(spec: Any) -> Rules:
    """torchvision `inception.py`, timm `inception_v3.py`: stage 2 is their Mixed_5, and so on."""
    units = {"stem_1": "1a_3x3", "stem_2": "2a_3x3", "stem_3": "2b_3x3", "stage1_2": "3b_1x1", "stage1_3": "4a_3x3"}
    rules: Rules = [("head_logits", "fc")]
    for place, name in units.items():
        stage, number = place.split("_")
        rules += _unit(f"{stage}_", f"Conv2d_{name}", number)
    for stage, kinds in KINDS.items():
        for b, kind in enumerate(kinds, 1):
            mixed = f"Mixed_{int(stage[-1]) + 3}{chr(ord('a') + b - 1 + (stage == 'stage2'))}"
            for k, names in enumerate(MIXED[kind], 1):
                for i, name in enumerate(names, 1):
                    ours = f"{stage}_block{b}_branch{k}_"
                    if isinstance(name, tuple):
                        for f, fork in enumerate(name, 1):
                            rules += _unit(f"{ours}fork{i}_branch{f}_", f"{mixed}.{fork}", "1")
                    elif name:
                        rules += _unit(ours, f"{mixed}.{name}", str(i))
    return rules


def inception_resnet(spec: Any) -> Rules:
    """timm `inception_resnet_v2.py`: a branch of one operation is no Sequential."""
    rules: Rules = [("head_logits", "classif"), *_unit("top_", "conv2d_7b")]
    for ours, name in (("stem_", "1a"), ("stem_", "2a"), ("stem_", "2b"), ("stage1_", "3b"), ("stage1_", "4a")):
        number = {"1a": "1", "2a": "2", "2b": "3", "3b": "2", "4a": "3"}[name]
        rules += _unit(ours, f"conv2d_{name}", number)
    repeats = {2: ("mixed_5b", "repeat"), 3: ("mixed_6a", "repeat_1"), 4: ("mixed_7a", "repeat_2")}
    for (first, table, blocks, _), (s, (mixed, repeat)) in zip(RESIDUAL_STAGES, repeats.items(), strict=True):
        places = {f"block{b}": f"{repeat}.{b - 1}" for b in range(1, blocks + 1)}
        places |= {f"block{blocks + 1}": "block8"} if s == 4 else {}
        for block, theirs in {"reduction": mixed, **places}.items():
            for k, operations in enumerate(first if block == "reduction" else table):
                for i in range(len(operations)):
                    index = f".{i}" if len(operations) > 1 else ""
                    rules += _unit(f"stage{s}_{block}_branch{k + 1}_", f"{theirs}.branch{k}{index}", str(i + 1))
            rules.append((f"stage{s}_{block}_up", f"{theirs}.conv2d"))
    return rules


RULES = {
    "ResNet": resnet,
    "Inception": inception,
    "InceptionResNet": inception_resnet,
    "EfficientNet": efficientnet,
}
FORMAT = Format(
    name="timm or torchvision",
    rules=lambda spec: RULES[spec.family](spec),
    names=TORCH_NAMES,
    separator=".",
    to_ours=from_torch,
    to_theirs=to_torch,
    preprocess=lambda spec: Preprocess(interpolation="bilinear"),
    ignored=r"num_batches_tracked$",
)


def config(values: Mapping[str, Any]) -> Config:
    """Our Config of a timm `config.json`, the older form without `pretrained_cfg` included."""
    cfg = {**values, **(values.get("pretrained_cfg") or {})}
    name = values.get("architecture")
    if not isinstance(name, str):
        raise CorruptFile("the configuration names no architecture.")
    channels, *size = cfg.get("input_size", (3, 224, 224))
    classes = values.get("num_classes", cfg.get("num_classes", 1000))
    spec: Spec = get(name).with_(input_shape=(*size, channels), classes=classes)
    names = tuple(cfg.get("label_names") or ())
    described = values.get("label_descriptions") or cfg.get("label_descriptions") or {}
    tag = cfg.get("tag")
    return Config(
        architecture=name,
        spec=spec,
        head=Head(classes=classes),
        preprocess=Preprocess(
            mean=cfg.get("mean", IMAGENET_MEAN),
            std=cfg.get("std", IMAGENET_STD),
            size=tuple(size),
            crop=cfg.get("crop_pct", 0.875),
            interpolation=cfg.get("interpolation", "bicubic"),
            mode="squash" if cfg.get("crop_mode") == "squash" else "center",
        ),
        class_names=names if len(names) == classes else (),
        provenance={
            "source": f"timm {name}.{tag}" if tag else f"timm {name}",
            "license": cfg.get("license", ""),
            "class_descriptions": {n: described[n] for n in names if n in described},
        },
    )
