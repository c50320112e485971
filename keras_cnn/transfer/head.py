"""Heads and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_cnn.building import of_new_head
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec
from keras_cnn.models.assemble import assemble, recursion
from keras_cnn.models.fields import known_options, several
from keras_cnn.models.heads import Head
from keras_cnn.transfer.freeze import stages


@known_options
def replace_head(model: Any, head: Head | int | Sequence[str], class_names: Sequence[str] = ()) -> Any:
    """A new model with the same backbone, weights and `trainable` flags, and a fresh head.

    head: a Head or a UNet; or a number of classes, or their names, for one layer as `build(classes=...)` makes it: a
        U-Net's decoder is kept.
    class_names: their names, where head is a Head or a number. The given model is left as it was; nothing is shared.

    >>> import keras_cnn as kc
    >>> kc.replace_head(kc.build("resnet20"), 5).output_shape
    (None, 5)
    """
    config = config_of(model)
    if isinstance(head, Head):
        class_names = class_names or head.given_names
    else:
        class_names = class_names or (() if isinstance(head, int) else several("head", head))
        names = head if isinstance(head, int) else len(head)
        head = config.head.for_classes(config.head.meaning.outputs(names))
    if class_names and len(class_names) != head.names:
        raise BadSpec(f"{len(class_names)} class names for {head.names} classes.")
    new = assemble(config.as_base().with_(head=head, class_names=tuple(class_names)), model.name)
    fresh = of_new_head(head, config.head)
    values = {k: v for k, v in arrays.arrays(model).items() if not fresh(k)}
    arrays.assign(new, values, skip=list(filter(fresh, arrays.variables(new))))
    kept = [layer for layer in model.layers if not fresh(layer.name)]
    trainable = {layer.name: layer.trainable for layer in kept}
    for layer in new.layers:
        layer.trainable = trainable.get(layer.name, layer.trainable)
    return new


@known_options
def features(model: Any, names: str | Sequence[str]) -> Any:
    """A model from images to the feature maps of stages; it shares the given model's layers.

    names: stage names such as ["stage2", "stage4"]; a stage's feature is the output of its last layer. The output
    is a list of (batch, height, width, channels), one a name, in the order given; of a single name, "stage2", it is
    that map itself.

    >>> import keras_cnn as kc
    >>> [f.shape for f in kc.features(kc.build("resnet20"), ["stage1", "stage3"]).outputs]
    [(None, 32, 32, 16), (None, 8, 8, 64)]
    """
    groups, wanted = stages(model), [names] if isinstance(names, str) else names
    if missing := [name for name in wanted if name not in groups]:
        raise BadSpec(f"there is no stage {missing[0]!r}: this network has {', '.join(groups)}.")
    maps = [groups[name][-1].output for name in wanted]
    with recursion(len(model.layers)):
        return keras.Model(model.input, maps[0] if isinstance(names, str) else maps, name=f"{model.name}_features")
