"""Knowledge distillation (1503.02531): a network learns from labels, and from what a trained one answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_cnn import tasks
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec

TEMPERATURE = 2.0  # flattens answers, so that what a teacher thinks of the other classes counts
SMALLEST = 1e-7  # probability whose logarithm is taken


def taught(model: Any, teacher: Any, weight: float) -> Any:
    """What `fit` runs: the network, whose answers bring a loss of this weight where they are not the teacher's.

    The teacher sees the very images that the network sees, augmented as they are, at its own size (2106.05237). It
    answers as at prediction, and does not learn. Raises BadSpec where the two do not answer the same question.
    """
    ours, theirs = config_of(model), config_of(teacher)
    if not (tasks.of(model).one_class and tasks.of(teacher).one_class):
        raise BadSpec("a teacher is for one class an image: leave it out.")
    if model.outputs[0].shape[-1] != teacher.outputs[0].shape[-1]:
        raise BadSpec(
            f"the teacher knows {teacher.outputs[0].shape[-1]} classes and the network {model.outputs[0].shape[-1]}: "
            "give both the same."
        )
    if ours.class_names and theirs.class_names and ours.class_names != theirs.class_names:
        odd = next((a, b) for a, b in zip(ours.class_names, theirs.class_names, strict=True) if a != b)
        raise BadSpec(f"the teacher has the class {odd[1]!r} where the network has {odd[0]!r}: give both one order.")
    if model.input_shape[-1] != teacher.input_shape[-1]:
        raise BadSpec(f"the teacher sees {teacher.input_shape[-1]} channels: give one of {model.input_shape[-1]}.")
    images = keras.Input((None, None, model.input_shape[-1]))
    answers = model(images)
    first, more = (answers[0], list(answers[1:])) if isinstance(answers, list | tuple) else (answers, [])
    are_logits = [tasks.of(one).logits(one)[0] for one in (model, teacher)]
    agreeing = _Agreement(weight, partial(_answers, teacher), are_logits)
    first = agreeing(images, first)
    return keras.Model(images, [first, *more] if more else first)


def _answers(teacher: Any, images: Any) -> Any:
    """What a network answers at prediction, to images of any size."""
    height, width = teacher.input_shape[1:3]
    if height and width:
        images = ops.image.resize(ops.cast(images, "float32"), (height, width), antialias=True)
    answers = teacher(images, training=False)
    return ops.stop_gradient(answers[0] if isinstance(answers, list | tuple) else answers)


class _Agreement(keras.layers.Layer):
    """Hands answers on, and adds as a loss the cross-entropy to the teacher's, both flattened by TEMPERATURE.

    teacher: images to its answers; a function, so that Keras does not count its weights among those that learn.
    are_logits: whether the answers of the one and of the other are logits.
    """

    def __init__(self, weight: float, teacher: Callable[[Any], Any], are_logits: Sequence[bool]) -> None:
        super().__init__(dtype="float32")
        self.weight, self.teacher, self.are_logits = weight, teacher, are_logits

    def call(self, images: Any, ours: Any, training: bool | None = None) -> Any:
        if training:
            student, teacher = map(_flat, (ours, self.teacher(images)), self.are_logits)
            told: Any = ops.exp(teacher)
            apart: Any = -ops.mean(ops.sum(told * student, axis=-1))  # pyright: ignore[reportOptionalOperand]
            self.add_loss(self.weight * TEMPERATURE**2 * apart)  # so that gradients keep their size
        return ours


def _flat(answers: Any, logits: bool) -> Any:
    """The logarithms of probabilities that TEMPERATURE flattens."""
    logarithms: Any = answers if logits else ops.log(ops.maximum(answers, SMALLEST))
    rows: Any = logarithms / TEMPERATURE
    return rows - ops.logsumexp(rows, axis=-1, keepdims=True)
