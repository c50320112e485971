"""timm's checkpoints and its `config.json`; torchvision's ResNets share the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from keras_cnn.checkpoints.convert import inception
from keras_cnn.checkpoints.convert.rename import TORCH_NAMES, Format, Rules, from_torch, to_torch
from keras_cnn.errors import CorruptFile
from keras_cnn.models.config import IMAGENET_MEAN, IMAGENET_STD, Config, Preprocess
from keras_cnn.models.fields import conform, held_to
from keras_cnn.models.heads import Head
from keras_cnn.models.registry import get


def resnet(backbone: Any) -> Rules:
    """timm `resnet.py`, torchvision `resnet.py`."""
    if backbone.preact:
        return resnetv2(backbone)
    down = 1 if backbone.shortcut == "avgpool" else 0  # the average pool is the Sequential's entry 0
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


def resnetv2(backbone: Any) -> Rules:
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


def efficientnet(backbone: Any) -> Rules:
    """timm `efficientnet.py`."""
    blocks = [
        (rf"stage{s}_block(\d+)_{ours}", lambda b, s=s, theirs=theirs: f"blocks.{s - 1}.{b - 1}.{theirs}")
        for s, (kind, *_) in enumerate(backbone.blocks, 1)
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


def preprocess(backbone: Any, state: Mapping[str, Any]) -> Preprocess:
    """What a bare file's images were: every Inception was trained on -1..1.

    torchvision feeds its Inception ImageNet statistics and turns them back to -1..1 inside (`transform_input`), so a
    mean and std of .5 are the same computation.
    """
    if backbone.family.startswith("Inception"):
        return Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
    return Preprocess(interpolation="bilinear")


RULES = {
    "ResNet": resnet,
    "Inception": inception.plain,
    "InceptionResNet": inception.residual,
    "EfficientNet": efficientnet,
}
FORMAT = Format(
    name="timm or torchvision",
    rules=lambda backbone: RULES[backbone.family](backbone),
    names=TORCH_NAMES,
    separator=".",
    to_ours=from_torch,
    to_theirs=to_torch,
    preprocess=preprocess,
    # The auxiliary classifier serves training only: a network without one leaves it.
    ignored=r"num_batches_tracked$|^AuxLogits\.",
)


# Arguments of timm's builders that change no prediction, or that the rest of the configuration repeats.
HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "pretrained", "global_pool")
POOLS = ("avg", "max")
OVER = ("num_classes", "label_names", "label_descriptions")  # what stands above `pretrained_cfg` wins over it


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is read of timm's `config.json`, under its names and with its defaults."""

    architecture: str
    num_classes: int = 1000
    global_pool: str = "avg"
    model_args: Mapping[str, Any] | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)  # channels, height, width
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    label_names: tuple[str, ...] | None = None
    label_descriptions: Mapping[str, Any] | None = None
    license: str | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        conform(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Described:
        """From the older form, one dictionary, too; what is not read may be anything."""
        if not isinstance(values.get("architecture"), str):
            raise CorruptFile("the configuration names no architecture.")
        inner = held_to("pretrained_cfg", values.get("pretrained_cfg"), Mapping[str, Any] | None) or {}
        values = {**values, **inner, **{key: values[key] for key in OVER if values.get(key) is not None}}
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def config(values: Mapping[str, Any]) -> Config:
    """Our Config of a timm `config.json`; CorruptFile where timm built another network than the name's."""
    their = Described.read(values)
    name, classes = their.architecture, their.num_classes
    # Other arguments make another network than the name's: its arrays might fit all the same.
    arguments = their.model_args or {}
    if odd := {key: value for key, value in arguments.items() if key not in HARMLESS}:
        told = ", ".join(f"{key}={value!r}" for key, value in odd.items())
        raise CorruptFile(f"{name} was built with {told} in timm, which keras_cnn does not reproduce.")
    pooling = arguments.get("global_pool", their.global_pool)
    if pooling not in POOLS:
        raise CorruptFile(
            f"{name} pools with {pooling!r} in timm, keras_cnn with {' or '.join(map(repr, POOLS))} only."
        )
    channels, *size = their.input_size
    ours = get(name).at((size[0], size[1], channels))
    names, described = their.label_names or (), their.label_descriptions or {}
    return ours.with_(
        head=Head(classes=classes, dropout=ours.head.dropout, pooling=pooling),
        preprocess=Preprocess(
            mean=their.mean,
            std=their.std,
            size=(size[0], size[1]),
            crop=their.crop_pct,
            interpolation=their.interpolation,
            mode="squash" if their.crop_mode == "squash" else "center",
        ),
        class_names=names if len(names) == classes else (),
        provenance={
            "source": f"timm {name}.{their.tag}" if their.tag else f"timm {name}",
            "license": their.license or "",
            "class_descriptions": {n: described[n] for n in names if n in described},
        },
    )
