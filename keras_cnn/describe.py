"""`list_models` and `info`: what there is, told without building anything or importing a framework."""

from __future__ import annotations

from typing import Any

from keras_cnn import catalog, tally
from keras_cnn.hub import resolve
from keras_cnn.hub.resolve import tags


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that fit a shell wildcard, in natural order; with `pretrained`, the tags that have weights.

    >>> import keras_cnn as kc
    >>> kc.list_models("resnet1*2")
    ['resnet152', 'resnet1202']
    """
    return catalog.match(pattern, list(tags()) if pretrained else list(catalog.architectures()))


def info(name: str) -> dict[str, Any]:
    """What is known of an architecture, a tag or a weights directory: no graph is built.

    Keys: name, architecture, family, stages, parameters (learned), macs (for one image of input_shape), input_shape,
    classes, preprocess, class_names, provenance.

    >>> import keras_cnn as kc
    >>> kc.info("resnet50")["parameters"]
    25557032
    """
    config = resolve(name).config
    rows = tally.tally(config)
    return {
        "name": name,
        "architecture": config.architecture,
        "family": config.spec.family,
        "stages": list(config.spec.stages),
        "parameters": tally.parameters(rows),
        "macs": tally.macs(rows),
        "input_shape": list(config.spec.input_shape),
        "classes": config.head.classes,
        "preprocess": config.to_dict()["preprocess"],
        "class_names": list(config.class_names),
        "provenance": dict(config.provenance),
    }
