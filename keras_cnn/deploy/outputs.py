"""Images in, the outputs of a network out, batch by batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_cnn.data.stream import in_batches
from keras_cnn.errors import BadSpec, MemoryWarning
from keras_cnn.models.fields import one_of
from keras_cnn.tasks.base import scores

# What says that there is no room for a batch: the names of errors of TensorFlow and torch, and what jax' own says.
NO_ROOM = ("ResourceExhaustedError", "OutOfMemoryError")
EXHAUSTED = "RESOURCE_EXHAUSTED"


CUT = ("five", "ten")  # views that are parts of a photo
VIEWS = (None, "mirror", *CUT)


class Mirrored:
    """A network of images whose output is the mean of those of an image and of its mirror image.

    Maps are mirrored back before. runner: what answers a batch.
    """

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        one, other = (scores(self.runner, some) for some in (images, np.ascontiguousarray(images[:, :, ::-1])))
        return (one + (other[:, :, ::-1] if other.ndim == 4 else other)) / 2


class Five:
    """A network of images whose output is the mean of those of the five views of an image, (batch, 5, ...)."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        return np.mean([scores(self.runner, images[:, i]) for i in range(images.shape[1])], axis=0)


def of_views(runner: Any, views: str | None, sides: int, everywhere: bool = False) -> Any:
    """What answers a batch by these views. sides: of the network's input, 2 of images. everywhere: whether it answers
    every pixel."""
    one_of("views", views, VIEWS)
    if views and sides != 2:
        raise BadSpec(f"views={views!r} are of images, and this network reads sequences: leave it out.")
    if views in CUT and everywhere:
        raise BadSpec(
            f"views={views!r} are parts of an image, and this network answers every pixel: views='mirror' is for it, "
            "too, or tile= of `predictor`."
        )
    runner = Mirrored(runner) if views in ("mirror", "ten") else runner
    return Five(runner) if views in CUT else runner


def check_files(views: str | None) -> None:
    """BadSpec where views are asked of images that have no more than the network sees."""
    if views in CUT:
        raise BadSpec(
            f"views={views!r} are cut from photos before they have the network's size, which arrays have already: give "
            "files, or views='mirror'."
        )


def outputs_of(
    model: Any, images: Iterable[tuple[Any, Any]], batch_size: int
) -> Iterator[tuple[Any, Any, np.ndarray | None]]:
    """(name, image, output) of pairs (name, image); None for what is no array, such as a BadImage.

    Where memory does not hold a batch, half of it is tried, and so on; MemoryWarning says so.
    """
    most = batch_size
    for batch in in_batches(images, batch_size):
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        rows: list[np.ndarray] = []
        for _, same in itertools.groupby(readable, np.shape):
            some = np.stack([*same])
            while len(some):
                try:
                    rows += [*scores(model, some[:most])]
                except Exception as error:
                    if not _no_room(error) or min(most, len(some)) == 1:
                        raise
                    most = min(most, len(some)) // 2
                    text = f"memory does not hold so many images at once: batches of {most} are tried."
                    warnings.warn(text, MemoryWarning, stacklevel=2)
                else:
                    some = some[most:]
        found = iter(rows)
        for name, image in batch:
            yield name, image, next(found) if isinstance(image, np.ndarray) else None


def _no_room(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ in NO_ROOM or EXHAUSTED in str(error)
