"""`list_models` and `info`: what there is, told without building anything or importing a framework."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from keras_cnn.hub import resolve
from keras_cnn.hub.resolve import tags
from keras_cnn.hub.tags import known
from keras_cnn.models import naming, registry, shapes
from keras_cnn.models.config import Config
from keras_cnn.models.fields import known_options


@known_options
def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that fit a pattern, in natural order; with `pretrained`, the tags that have weights.

    Every architecture is one of a U-Net as well, "resnet50_unet": these are listed where the pattern says "unet".

    pattern: a shell wildcard ("resnet*d"), a name, or how names begin ("resnet").

    >>> import keras_cnn as kc
    >>> kc.list_models("resnet1*2")
    ['resnet152', 'resnet1202']
    """
    architectures = [*registry.architectures(), *(registry.suffixed() if "unet" in pattern else ())]
    return registry.match(pattern, list(tags()) if pretrained else architectures)


def summary(name: str) -> dict[str, Any]:
    """The line of a network in a list.

    Keys: name, parameters (learned), macs (for one image of input_shape), input_shape, classes, license; of a public
    tag also top1 (ImageNet, percent), top1_size (pixels), commercial (whether its licence allows such use).
    """
    config = resolve(name).config
    known_ones = counted()  # counting all networks anew takes as long as Python's start, many times over
    parameters, macs = known_ones[name] if name in known_ones else count(name)
    return {
        "name": name,
        "parameters": parameters,
        "macs": macs,
        "input_shape": list(config.input_shape),
        "classes": config.head.classes,
        "license": config.provenance.get("license", ""),
        **_published(name),
    }


COUNTS = Path(__file__).with_name("counts.json")


@cache
def counted() -> dict[str, tuple[int, int]]:
    """`count` of every name that `list` shows, as `python -m keras_cnn.hub.info` wrote it; a test compares."""
    return {
        name: (parameters, macs) for name, (parameters, macs) in json.loads(COUNTS.read_text(encoding="utf-8")).items()
    }


def count(name: str) -> tuple[int, int]:
    """(parameters, macs) of a network, counted."""
    rows = shapes.tally(resolve(name).config)
    return shapes.parameters(rows), shapes.macs(rows)


@known_options
def info(name: str, freeze: str | float | None = None) -> dict[str, Any]:
    """What is known of an architecture, a tag or a weights directory: no graph is built.

    The keys of `summary`, and: architecture, family, stages, receptive_field (of a network for sequences: steps that an
    output sees) and causal (whether none of them is later), features (channels and stride of each stage), activations
    (bytes of all outputs for one image in float32), trainable (parameters that learn), profile (layers, parameters,
    macs, activations and trainable of each stage), preprocess, class_names, provenance.
    freeze: what shall not learn, as of `build`: a stage, a share of the parameters, or a regular expression.

    >>> import keras_cnn as kc
    >>> kc.info("resnet50")["parameters"]
    25557032
    """
    config = resolve(name).config
    rows = shapes.tally(config)
    maps = shapes.feature_maps(config.backbone, config.channels)
    sizes = {row.layer: shapes.parameters([row]) for row in rows}
    frozen = set() if freeze is None else naming.lower(sizes, **naming.parse(freeze))
    trainable = lambda rows: sum(sizes[row.layer] for row in rows if row.layer not in frozen)  # noqa: E731
    return {
        **summary(name),
        "architecture": config.architecture,
        "family": config.backbone.family,
        "stages": list(config.backbone.stages),
        **_sight(config),
        "features": {stage: found._asdict() for stage, found in maps.items()},
        "activations": shapes.activations(rows),
        "trainable": trainable(rows),
        "profile": {
            stage: {
                "layers": len(group),
                "parameters": shapes.parameters(group),
                "macs": shapes.macs(group),
                "activations": shapes.activations(group),
                "trainable": trainable(group),
            }
            for stage, group in shapes.by_stage(rows).items()
        },
        "preprocess": config.to_dict()["preprocess"],
        "class_names": list(config.class_names),
        "provenance": dict(config.provenance),
    }


def _sight(config: Config) -> dict[str, Any]:
    """How many steps an output of a network for sequences sees, and whether they all lie before it."""
    steps = config.backbone.receptive_field
    return {} if steps is None else {"receptive_field": steps, "causal": getattr(config.backbone, "causal", False)}


def _published(name: str) -> dict[str, Any]:
    if name not in known():
        return {}
    line = known()[name]
    return {"top1": line.top1, "top1_size": line.top1_size, "commercial": line.commercial}


if __name__ == "__main__":
    lines = (f'"{name}": {list(count(name))}' for name in [*list_models(), *list_models(pretrained=True)])
    COUNTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
