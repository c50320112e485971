"""What a network's outputs mean, a file a task; nothing outside of this folder asks which task it is."""

from __future__ import annotations

import importlib
from typing import Any

from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec
from keras_cnn.models import fields
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.tasks.base import Result, Task

__all__ = ["TASKS", "Result", "Task", "of"]

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
