"""The part of a network that does the same in every epoch, and the part that learns on top of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_cnn.errors import BadSpec
from keras_cnn.models.assemble import recursion
from keras_cnn.models.naming import of_decoder, on_top


def divide(model: Any) -> tuple[Any, Any] | None:
    """(lower, upper): two models that share the layers of `model`, which is upper(lower(images)).

    The lower part is frozen and draws nothing at random, so that its output for an image is always the same; it is as
    large as possible, but hands on a single tensor. None where the first layer with weights learns, or all are frozen,
    and where skips lead from several stages into a decoder: below the lowest of them next to nothing lies.
    """
    return None if skips(model) else _cut(model, fixed)


def backbone(model: Any) -> tuple[Any, Any]:
    """(lower, upper) as at prediction, whatever is frozen: the network up to its pooled features, and the head.

    An auxiliary classifier, which would hold the cut down to the stage that it stands on, is left out.
    BadSpec where no single map holds all that the head stands on, as under a U-Net.
    """
    if skips(model):
        raise BadSpec(f"{model.name} has a decoder on the maps of several stages: there is no one place to cut it.")
    with recursion(len(model.layers)):
        main = keras.Model(model.input, model.outputs[0], name=model.name) if model.outputs[1:] else model
    main.jit_compile = model.jit_compile
    parts = _cut(main, lambda layer: not on_top(layer.name) or (_still(layer) and not layer.weights))
    if parts is None:
        raise BadSpec(f"{model.name} has no head on top of its features.")
    return parts


def skips(model: Any) -> bool:
    """Whether a decoder takes more than one tensor from the layers below it."""
    decoder = [layer for layer in model.layers if of_decoder(layer.name)]
    made, taken = (
        {id(tensor) for layer in decoder for tensor in keras.tree.flatten(getattr(layer, side))}
        for side in ("output", "input")
    )
    return len(taken - made) > 1


def fixed(layer: Any) -> bool:
    """Whether a layer's output in training follows from its input alone and stays so."""
    return _still(layer) and not (layer.trainable and layer.weights)


def _still(layer: Any) -> bool:
    """Whether it draws nothing at random: no variable is the state of a generator."""
    return len(layer.variables) == len(layer.weights)


def _cut(model: Any, below: Callable[[Any], bool]) -> tuple[Any, Any] | None:
    layers = list(model.layers)  # in an order in which every layer stands behind its inputs
    produced = {id(tensor): i for i, layer in enumerate(layers) for tensor in keras.tree.flatten(layer.output)}
    last_use = dict.fromkeys(produced, -1)
    for i, layer in enumerate(layers):
        if not isinstance(layer, keras.layers.InputLayer):
            last_use |= {id(tensor): i for tensor in keras.tree.flatten(layer.input)}
    last_use |= {id(tensor): len(layers) for tensor in model.outputs}
    cut = None
    for i, layer in enumerate(layers):
        if of_decoder(layer.name) or not below(layer):  # a decoder only enlarges what it is given
            break
        open_ends = [tensor for tensor, at in produced.items() if at <= i < last_use[tensor]]
        if len(open_ends) == 1 and open_ends[0] == id(layer.output) and any(other.weights for other in layers[: i + 1]):
            cut = layer.output
    if cut is None or id(cut) == id(model.outputs[0]):
        return None
    outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
    with recursion(len(layers)):
        lower = keras.Model(model.input, cut, name=f"{model.name}_lower")
        upper = keras.Model(cut, outputs, name=model.name)
    for part in (lower, upper):
        part.jit_compile = model.jit_compile
    return lower, upper
