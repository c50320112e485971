"""Heads and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_cnn import checkpoint
from keras_cnn.checks import known_options
from keras_cnn.errors import BadSpec
from keras_cnn.graph import assemble
from keras_cnn.hub.directory import config_of
from keras_cnn.spec import Head
from keras_cnn.transfer.freeze import stages


@known_options
def replace_head(model: Any, head: Head, class_names: Sequence[str] = ()) -> Any:
    """A new model with the same backbone, weights and `trainable` flags, and a fresh head.

    The given model is left as it was; nothing is shared.
    """
    if class_names and len(class_names) != head.classes:
        raise BadSpec(f"{len(class_names)} class names for {head.classes} classes.")
    config = config_of(model)
    spec = config.spec.with_(classes=head.classes or None)
    new = assemble(config.as_base().with_(spec=spec, head=head, class_names=tuple(class_names)), model.name)
    values = {k: v for k, v in checkpoint.arrays(model).items() if not k.startswith(checkpoint.OF_CLASSES)}
    checkpoint.assign(new, values, skip=[k for k in checkpoint.variables(new) if k.startswith(checkpoint.OF_CLASSES)])
    trainable = {layer.name: layer.trainable for layer in model.layers if not layer.name.startswith("head_")}
    for layer in new.layers:
        layer.trainable = trainable.get(layer.name, layer.trainable)
    return new


@known_options
def features(model: Any, names: Sequence[str]) -> Any:
    """A model from images to the feature maps of stages; it shares the given model's layers.

    names: stage names such as ["stage2", "stage4"]; a stage's feature is the output of its last layer. The output
    is a list of (batch, height, width, channels), one a name, in the order given.

    >>> import keras_cnn as kc
    >>> [f.shape for f in kc.features(kc.build("resnet20"), ["stage1", "stage3"]).outputs]
    [(None, 32, 32, 16), (None, 8, 8, 64)]
    """
    groups = stages(model)
    if missing := [name for name in names if name not in groups]:
        raise BadSpec(f"there is no stage {missing[0]!r}: this network has {', '.join(groups)}.")
    return keras.Model(model.input, [groups[name][-1].output for name in names], name=f"{model.name}_features")
