"""What a network's outputs mean, a file a task; nothing outside of this folder asks which task it is."""

from __future__ import annotations

import importlib
from typing import Any

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec
from keras_cnn.insight import graphs
from keras_cnn.models import fields
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.tasks.base import Task
from keras_cnn.tasks.results import Result

__all__ = ["TASKS", "Result", "Task", "of", "told_by_output"]

# A row of MEANINGS is a file here, whose TASK it is.
TASKS: dict[str, Task] = {name: importlib.import_module(f"{__name__}.{name}").TASK for name in MEANINGS}


def of(model: Any) -> Task:
    """The task that a network's head names; a network of another make classifies. BadSpec for one that is not there."""
    try:
        name = config_of(model).head.task
    except BadSpec:
        name = "classification"
    fields.one_of("task", name, tuple(TASKS))
    return TASKS[name]


def told_by_output(model: Any) -> Task:
    """The task of a functional model of another make, by the shape and the last activation of its first output."""
    output = graphs.graph_of(model).outputs[0]
    activation = graphs.activation_name(graphs.last_call(output)[-1].operation)
    of_one = "binary" if output.shape[-1] == 1 else "multilabel"
    name = {"softmax": "classification", "sigmoid": of_one}.get(activation, "regression")
    return TASKS["segmentation" if len(output.shape) == 4 else name]
