"""Freezing by stage, through Keras' `trainable` flag and nothing else."""

from __future__ import annotations

from typing import Any

import keras

from keras_cnn.errors import BadSpec
from keras_cnn.hub.directory import config_of

CLASSIFIERS = ("head", "aux")


def stages(model: Any) -> dict[str, list[Any]]:
    """Layers of each stage, from `stem` to `head`: the first token of a layer's name is its stage.

    >>> import keras_cnn as kc
    >>> list(kc.stages(kc.build("resnet20")))
    ['stem', 'stage1', 'stage2', 'stage3', 'head']
    """
    groups: dict[str, list[Any]] = {}
    for layer in model.layers:
        groups.setdefault(layer.name.partition("_")[0], []).append(layer)
    for name in CLASSIFIERS:  # last, though Keras lists an auxiliary one among the stages that it stands on
        if name in groups:
            groups[name] = groups.pop(name)
    return groups


def freeze(model: Any, upto: str | None = None) -> Any:
    """Set `trainable=False` on the stages from the stem up to and including `upto`; others stay as they are.

    upto: a stage name; by default the last one before the head, so that only the head learns. A frozen batch norm
    is in inference mode: its statistics do not move. Compile again afterwards, as after any change of `trainable`.
    Returns the model.
    """
    groups = stages(model)
    names = list(groups)
    upto = upto or [name for name in names if name not in CLASSIFIERS][-1]
    for name in names[: _position(names, upto) + 1]:
        for layer in groups[name]:
            layer.trainable = False
    return model


def unfreeze(model: Any, above: str | None = None, *, bn: str | None = None) -> Any:
    """Set `trainable=True` on the stages above `above` (all stages by default); others stay as they are.

    bn: what becomes of batch norm there. "frozen": gamma, beta and statistics stay, in inference mode, the safe
    way to fine-tune on small batches of other data; "train": as ordinary layers. Default: frozen where the weights
    are pretrained, train where they are random. Returns the model; compile it again.
    """
    bn = bn or ("frozen" if pretrained(model) else "train")
    if bn not in ("frozen", "train"):
        raise BadSpec(f"bn={bn!r}: choose 'frozen' or 'train'.")
    groups = stages(model)
    names = list(groups)
    first = 0 if above is None else _position(names, above) + 1
    for name in names[first:]:
        for layer in groups[name]:
            fixed = bn == "frozen" and name not in CLASSIFIERS and isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = not (fixed or hasattr(layer, "record"))
    return model


def pretrained(model: Any) -> bool:
    """Whether the model's record says where its weights come from; what a run of ours wrote always does."""
    return bool(config_of(model).provenance)


def _position(names: list[str], name: str) -> int:
    if name not in names:
        raise BadSpec(f"there is no stage {name!r}: this network has {', '.join(names)}.")
    return names.index(name)
