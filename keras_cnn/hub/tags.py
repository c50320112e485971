"""The catalogue of public weights: one CSV a family in `weights/`, one line a tag."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from keras_cnn.models import registry
from keras_cnn.models.config import IMAGENET_MEAN, IMAGENET_STD, Config, Preprocess
from keras_cnn.models.heads import Head

STATISTICS = {
    "mean": {"imagenet": IMAGENET_MEAN, "half": (0.5,) * 3},
    "std": {"imagenet": IMAGENET_STD, "half": (0.5,) * 3},
}


@dataclass(frozen=True)
class Known:
    """What is publicly known of weights, before anything is fetched.

    source: `hf://owner/name` or the address of a file; hash: "md5:..." or "sha256:..." (of a torchvision file its
    first eight digits), empty where none is published. top1: of ImageNet in percent, with images of top1_size.
    """

    source: str
    hash: str
    top1: float | None
    top1_size: int | None
    config: Config

    @property
    def commercial(self) -> bool:
        """Whether the licence lets one use the weights commercially."""
        return "-nc" not in self.config.provenance["license"]


def embedded() -> Path:
    """The folder of the catalogue and of the weights that come with this package."""
    installed = Path(__file__).parent.parent / "_weights"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "weights"


@cache
def known() -> Mapping[str, Known]:
    """Every public tag, such as "resnet50.a1_in1k"."""
    lines: dict[str, Known] = {}
    for path in sorted(embedded().glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            lines |= {row["tag"]: _known(row) for row in csv.DictReader(file)}
    return lines


def _known(row: dict[str, str]) -> Known:
    architecture = row["tag"].partition(".")[0]
    size, classes = int(row["size"]), int(row["classes"])
    ours = registry.get(architecture)
    preprocess = Preprocess(
        mean=_statistics("mean", row["mean"]),
        std=_statistics("std", row["std"]),
        size=(size, size),
        crop=float(row["crop"]),
        interpolation=row["interpolation"],
        mode=row["mode"] or "center",
    )
    top1 = float(row["top1"]) if row["top1"] else None
    top1_size = int(row["top1_size"]) if row["top1_size"] else None
    metrics = {f"ImageNet top-1 at {top1_size} px": f"{top1:g} %"} if top1 else {}
    return Known(
        source=row["source"],
        hash=row["hash"],
        top1=top1,
        top1_size=top1_size,
        config=ours.with_(
            backbone=ours.backbone.with_(**_numerics(row["numerics"])),
            head=Head(classes=classes, dropout=ours.head.dropout),
            preprocess=preprocess,
            provenance={"source": row["source"], "license": row["license"], "metrics": metrics},
        ),
    )


def _statistics(name: str, text: str) -> tuple[float, ...]:
    return STATISTICS[name].get(text) or tuple(map(float, text.split()))


def _numerics(text: str) -> dict[str, Any]:
    """`key=value` pairs; a value is a number where it reads as one."""
    values = dict(pair.split("=") for pair in text.split())
    return {key: float(v) if v.replace(".", "").isdigit() else v for key, v in values.items()}
