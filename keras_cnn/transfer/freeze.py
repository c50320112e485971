"""Freezing by stage, by name or by share, through Keras' `trainable` flag and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec
from keras_cnn.models import naming
from keras_cnn.models.assemble import learned, sizes
from keras_cnn.models.fields import known_options
from keras_cnn.models.naming import on_top, stage_of
from keras_cnn.models.shapes import tally


@known_options
def stages(model: Any) -> dict[str, list[Any]]:
    """Layers of each stage, from `stem` to `head`: the first token of a layer's name is its stage.

    >>> import keras_cnn as kc
    >>> list(kc.stages(kc.build("resnet20")))
    ['stem', 'stage1', 'stage2', 'stage3', 'head']
    """
    groups: dict[str, list[Any]] = {name: [] for name in naming.stages(layer.name for layer in model.layers)}
    for layer in model.layers:
        groups[stage_of(layer.name)].append(layer)
    return groups


@known_options
def freeze(
    model: Any, upto: str | float | None = None, *, match: str | None = None, fraction: float | None = None
) -> Any:
    """Set `trainable=False` on a part of the network; the rest stays as it is.

    The part is given in one of three ways; by default it is the backbone, so that only the head learns,
    with its decoder where it has one.
    upto: a stage: those from the stem up to and including it. A number or a regular expression here is meant as
        `fraction` or `match`, as in build(freeze=...).
    match: a regular expression that the whole name of a layer matches, such as "stage[12]_.*".
    fraction: a share of the backbone's learned parameters, above 0 and at most 1: the layers from the stem upwards,
        in the order in which the network is written, that together hold at most so much. Only whole layers: it ends
        before the first that would exceed the share.
    A frozen batch norm is in inference mode: its statistics do not move. Compile again afterwards, as after any
    change of `trainable`. Returns the model.

    >>> import keras_cnn as kc
    >>> model = kc.freeze(kc.build("resnet20"), fraction=0.5)
    >>> [layer.name for layer in model.layers if layer.trainable and layer.weights][:2]
    ['stage3_block2_conv1', 'stage3_block2_norm1']
    """
    chosen = naming.lower(_sizes(model), **_either("upto", upto, match, fraction))
    for layer in model.layers:
        if layer.name in chosen:
            layer.trainable = False
    return model


@known_options
def unfreeze(
    model: Any,
    above: str | float | None = None,
    *,
    match: str | None = None,
    fraction: float | None = None,
    bn: str | None = None,
) -> Any:
    """Set `trainable=True` on a part of the network, by default all of it; the rest stays as it is.

    above: a stage: those above it; or a number or a regular expression, as of `freeze`. match: as of `freeze`.
    fraction: a share as of `freeze`, from the other end: the head, and the uppermost layers of the backbone that
        together hold at most so much of its parameters.
    bn: what becomes of batch norm there. "frozen": gamma, beta and statistics stay, in inference mode, the safe
    way to fine-tune on small batches of other data; "train": as ordinary layers. Default: frozen where the weights
    are pretrained, train where they are random. Returns the model; compile it again.
    """
    bn = bn or ("frozen" if pretrained(model) else "train")
    if bn not in ("frozen", "train"):
        raise BadSpec(f"bn={bn!r}: choose 'frozen' or 'train'.")
    chosen = naming.upper(_sizes(model), **_either("above", above, match, fraction))
    for layer in model.layers:
        if layer.name in chosen:
            fixed = bn == "frozen" and not on_top(layer.name) and _is_batchnorm(layer)
            layer.trainable = not (fixed or hasattr(layer, "record"))
    return model


def frozen_stages(model: Any) -> list[str]:
    """The stages of the backbone that are wholly frozen, from the stem up to the first in which something learns.

    Batch norm does not count: it is frozen in stages that learn, too.
    """
    found = []
    for name, layers in stages(model).items():
        learning = [x for x in layers if x.weights and x.trainable and not _is_batchnorm(x)]
        if on_top(name) or learning:
            break
        found.append(name)
    return found


class TrainableRow(NamedTuple):
    """What learns in a stage.

    layers: those with weights. parameters: the learned ones, as `info` counts them, and how many of them are
    trainable. batchnorm: "frozen" (in inference mode: statistics, gamma and beta stay), "train", "mixed", or "" where
    there is none.
    """

    stage: str
    layers: int
    parameters: int
    trainable: int
    batchnorm: str


class TrainableTable(tuple[TrainableRow, ...]):
    """A row a stage, from the stem to the head; `print` shows them with their total."""

    __slots__ = ()

    @property
    def total(self) -> TrainableRow:
        return TrainableRow(
            "all",
            sum(row.layers for row in self),
            sum(row.parameters for row in self),
            sum(row.trainable for row in self),
            _agreed(row.batchnorm for row in self),
        )

    def __str__(self) -> str:
        figures = [
            (r.stage, r.layers, f"{r.parameters:,}", f"{r.trainable:,}", r.batchnorm) for r in (*self, self.total)
        ]
        lines = [("stage", "layers", "parameters", "trainable", "batch norm"), *figures]
        return "\n".join("{:<8}{:>6}{:>14}{:>14}  {}".format(*line).rstrip() for line in lines)


@known_options
def trainable_table(model: Any) -> TrainableTable:
    """How much of each stage learns, as the flags are now.

    >>> import keras_cnn as kc
    >>> print(kc.trainable_table(kc.build("resnet20", freeze="stage2")))
    stage   layers    parameters     trainable  batch norm
    stem         2           464             0  frozen
    stage1      12        14,016             0  frozen
    stage2      12        51,072             0  frozen
    stage3      12       203,520       203,520  train
    head         1           650           650
    all         39       269,722       204,170  mixed
    """
    return TrainableTable(
        TrainableRow(
            name,
            sum(bool(layer.weights) for layer in layers),
            sum(map(learned, layers)),
            sum(math.prod(v.shape) for layer in layers for v in layer.trainable_weights),
            _agreed("train" if layer.trainable else "frozen" for layer in layers if _is_batchnorm(layer)),
        )
        for name, layers in stages(model).items()
    )


def _either(stage: str, what: str | float | None, match: str | None, fraction: float | None) -> dict[str, Any]:
    """The keywords of `selection`, of which the first may also stand for another."""
    if what is None or match is not None or fraction is not None:
        return {stage: what, "match": match, "fraction": fraction}
    return {stage if key == "upto" else key: value for key, value in naming.parse(what).items()}


def pretrained(model: Any) -> bool:
    """Whether the model's record says where its weights come from; what a run of ours wrote always does."""
    return bool(config_of(model).provenance)


def untrained(model: Any) -> bool:
    """Whether a network of ours has random weights: its record names no others, and no batch norm has seen images."""
    means = [layer.moving_mean for layer in model.layers if _is_batchnorm(layer)]
    if any(np.any(keras.ops.convert_to_numpy(mean)) for mean in means):
        return False
    try:
        return not pretrained(model)
    except BadSpec:  # made by others: nothing is known of it
        return False


def _sizes(model: Any) -> dict[str, int]:
    try:
        return sizes(model, tally(config_of(model)))
    except BadSpec:  # not a network of ours: there is Keras' order only
        return sizes(model)


def _is_batchnorm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _agreed(states: Iterable[str]) -> str:
    """The state that all have, else "mixed"; those that are empty have none."""
    found = {state for state in states if state}
    return "mixed" if len(found) > 1 else "".join(found)
