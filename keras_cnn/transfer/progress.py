"""The state of a run on disk, so that one that was killed ends with the same weights as one that was not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnn.checkpoint import clear_beside, write_arrays
from keras_cnn.errors import BadSpec, CorruptFile

FILE = "progress.safetensors"
EVERY = 20.0  # seconds between two writes: epochs on cached features are shorter than the writing
Values = dict[str, np.ndarray]


class Keeper(keras.callbacks.Callback):
    """Writes the state as it is when an epoch begins; a run that goes on repeats that epoch.

    state: from an epoch to (arrays, facts). options: what the run was told; one told otherwise cannot go on.
    """

    def __init__(
        self,
        out: str | Path | None,
        options: Mapping[str, Any],
        state: Callable[[int], tuple[Values, dict[str, Any]]],
    ) -> None:
        super().__init__()
        self.path, self.state = Path(out) / FILE if out else None, state
        self.options = json.loads(json.dumps(options))  # as they are read back
        self.written = -np.inf

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.path is not None:
            clear_beside(self.path)  # of a run that was killed as it wrote

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.path is None or time.monotonic() - self.written < EVERY:
            return
        arrays, facts = self.state(epoch)
        about = {"state": json.dumps({"options": self.options, **facts})}
        write_arrays(arrays, self.path, about)
        self.written = time.monotonic()

    def load(self) -> tuple[Values, dict[str, Any]] | None:
        """The state that was written last, or None. BadSpec where its run had other options."""
        if self.path is None or not self.path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "np") as file:
                facts = json.loads(file.metadata()["state"])
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise CorruptFile(f"{self.path} is damaged ({error}): remove it and start again.") from None
        before = facts["options"]
        if changed := [key for key in {**before, **self.options} if before.get(key) != self.options.get(key)]:
            told = ", ".join(f"{key} was {before.get(key)!r} and is {self.options.get(key)!r}" for key in changed)
            raise BadSpec(
                f"{self.path.parent} holds a run that began otherwise: {told}. Repeat it as it began, or "
                f"remove {FILE} to start again."
            )
        return arrays, facts

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            clear_beside(self.path)
