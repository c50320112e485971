"""A network that answers images: files, folders, zips and arrays in; the answers of its task out."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_cnn import tasks
from keras_cnn.building import build
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data.files import Source
from keras_cnn.data.index import find_images
from keras_cnn.data.stream import decoded, in_batches
from keras_cnn.deploy.fold import fold
from keras_cnn.errors import BadData, BadImage, BadSpec, WeightsWarning
from keras_cnn.models.fields import known_options
from keras_cnn.tasks.labelled import check_shape, warn_of_pixels


@known_options
def predictor(model: Any, *, batch_size: int = 32) -> Predictor:
    """A function of images that answers what they show: `kc.predictor("runs/photos")("photo.jpg")`.

    model: a network of ours, or whatever `build` takes: a weights directory, a tag, an address. It is copied for
    prediction, batch norms folded into convolutions; later training does not reach the copy.
    batch_size: images that the network sees at once. Files are decoded as they are needed, so that any number of them
    takes the memory of a few batches.
    Raises BadSpec for a model that is not of ours, or that has no classifier. WeightsWarning where a name brings none.

    >>> import keras_cnn as kc, numpy as np
    >>> predict = kc.predictor(kc.build("resnet20", classes=["cat", "dog"]))
    >>> [answer] = predict(np.zeros((32, 32, 3), "uint8"))
    >>> answer.name, answer.label in ("cat", "dog"), len(answer.top)
    ('images', True, 2)
    """
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    if isinstance(model, str | os.PathLike):
        name, model = os.fspath(model), build(model)
        if not config_of(model).provenance:  # a model that is given may have learnt since it was built
            text = (
                f"{name} has random weights, so that its answers mean nothing: a tag or directory brings trained ones."
            )
            warnings.warn(text, WeightsWarning, stacklevel=3)
    return Predictor(model, batch_size)


class Predictor:
    """Answers images; made by `predictor`.

    Images are: a path of an image, a folder (images at any depth, in order) or a zip; an array, one image
    (height, width, channels) or several (images, height, width, channels), of the network's size and with raw values of
    0..255; or a list of all these. Answers come in the order of the images.
    """

    def __init__(self, model: Any, batch_size: int = 32) -> None:
        self.config, self.batch_size, self.task = config_of(model), batch_size, tasks.of(model)
        self.task.check_answers(self.config)
        self.logits = self.config.head.activation in (None, "linear")
        self.network = fold(model)

    def __call__(self, images: Any, *, top: int = 5, skip_bad: bool = False) -> list[Any]:
        """An answer for each image, of the task: for classes an `Answer`, for masks a `Mask`, and so on.

        top: how many classes are named. skip_bad: an unreadable image gets an answer with its `error` and no label;
        else it raises BadImage. Raises BadData for a folder without images, and for arrays of another size.
        """
        return list(self.stream(images, top=top, skip_bad=skip_bad))

    def stream(self, images: Any, *, top: int = 5, skip_bad: bool = False) -> Iterator[Any]:
        """The same answers, one by one as they come: for more images than one wants to wait for."""
        if top < 1:
            raise BadSpec(f"top={top!r}: give 1 or more.")
        for name, image, row in outputs_of(self.network, self._seen(images, skip_bad), self.batch_size):
            if row is None:
                yield self.task.unreadable(name, str(image))
            else:
                yield self.task.answer(name, self.task.finish(row, self.logits), self.config, top, None)

    def scores(self, images: Any) -> np.ndarray:
        """The head's own output for each image: float32 (images, ...); logits where the network ends in them."""
        found = outputs_of(self.network, self._seen(images), self.batch_size)
        rows = [row for *_, row in found if row is not None]
        return np.array(rows, "float32") if rows else np.empty((0, *self.network.output_shape[1:]), "float32")

    def _seen(self, images: Any, skip_bad: bool = False) -> Iterator[tuple[str, np.ndarray | BadImage]]:
        """Each image's name and pixels as the network sees them, files decoded a few batches ahead."""
        told: dict[str, Any] = {"channels": self.network.input_shape[-1], "ahead": 2 * self.batch_size}
        for kind, some in itertools.groupby(self._found(images, "images"), type):
            if kind is Source:
                pixels = decoded(some, self.config.preprocess, skip_bad=skip_bad, **told)
                yield from ((source.name, image) for source, image in pixels)
            else:
                yield from some

    def _found(self, images: Any, name: str) -> Iterator[Any]:
        """A Source of each file, which is not read yet, and (name, pixels) of each array."""
        if isinstance(images, Source):
            yield images
        elif isinstance(images, str | os.PathLike):
            yield from find_images(images)
        elif isinstance(images, list | tuple):
            for i, some in enumerate(images):
                yield from self._found(some, f"{name}[{i}]")
        elif not hasattr(images, "__array__"):
            raise BadData(f"{name}: give a path, an array, or a list of these, not {type(images).__name__}.")
        else:
            array = np.asarray(images)
            single = array.ndim < len(self.network.input_shape)
            check_shape(array[None] if single else array, self.network, "given")
            warn_of_pixels(self.network, array[None] if single else array)
            yield from [(name, array)] if single else ((f"{name}[{i}]", one) for i, one in enumerate(array))


def outputs_of(
    model: Any, images: Iterable[tuple[Any, Any]], batch_size: int
) -> Iterator[tuple[Any, Any, np.ndarray | None]]:
    """(name, image, output) of pairs (name, image); None for what is no array, such as a BadImage."""
    for batch in in_batches(images, batch_size):
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        of_one_size = (np.stack([*some]) for _, some in itertools.groupby(readable, np.shape))
        rows = iter([row for some in of_one_size for row in scores(model, some)])
        for name, image in batch:
            yield name, image, next(rows) if isinstance(image, np.ndarray) else None


def scores(model: Any, images: Any) -> np.ndarray:
    """The head's output for one batch, float32 (batch, ...); an auxiliary classifier's is left aside."""
    outputs = model.predict_on_batch(images)
    return np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs, "float32")
