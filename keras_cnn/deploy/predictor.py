"""A network that answers images: files, folders, zips and arrays in; classes and their probabilities out."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_cnn.building import build
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data.files import Source
from keras_cnn.data.index import find_images
from keras_cnn.data.labelled import check_shape, warn_of_pixels
from keras_cnn.data.stream import decoded, in_batches
from keras_cnn.deploy.fold import fold
from keras_cnn.errors import BadData, BadImage, BadSpec, WeightsWarning
from keras_cnn.models.fields import known_options


class Guess(NamedTuple):
    """A class and its probability. description: what the label means, where the weights know it; else the label."""

    label: str
    probability: float
    description: str


class Answer(NamedTuple):
    """What an image shows. name: the image's path, or place in what was given; label, probability: of the best guess.

    top: the most probable classes, the best first. error: why an image could not be read; it then has no guess.
    """

    name: str
    label: str | None
    probability: float | None
    top: tuple[Guess, ...]
    error: str | None = None


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
        self.config, self.batch_size = config_of(model), batch_size
        classes = self.config.head.classes
        if not classes:
            raise BadSpec(
                f"{model.name} has no classifier: it gives features, not classes. Build it with classes=, or give it "
                "a head with kc.replace_head(model, 5)."
            )
        self.labels = self.config.class_names or tuple(f"class {i}" for i in range(classes))
        self.network = fold(model)

    def __call__(self, images: Any, *, top: int = 5, skip_bad: bool = False) -> list[Answer]:
        """An `Answer` for each image.

        top: how many classes are named. skip_bad: an unreadable image gets an answer with its `error` and no label;
        else it raises BadImage. Raises BadData for a folder without images, and for arrays of another size.
        """
        return list(self.stream(images, top=top, skip_bad=skip_bad))

    def stream(self, images: Any, *, top: int = 5, skip_bad: bool = False) -> Iterator[Answer]:
        """The same answers, one by one as they come: for more images than one wants to wait for."""
        if top < 1:
            raise BadSpec(f"top={top!r}: give 1 or more.")
        described = self.config.provenance.get("class_descriptions", {})
        for name, image, row in classify(self.network, self._seen(images, skip_bad), self.batch_size):
            if row is None:
                yield Answer(name, None, None, (), str(image))
                continue
            shares = softmax(row) if self.config.head.activation in (None, "linear") else row
            best = [(self.labels[i], float(shares[i])) for i in (-shares).argsort(kind="stable")[:top]]
            guesses = tuple(Guess(label, share, described.get(label, label)) for label, share in best)
            yield Answer(name, *best[0], guesses)

    def scores(self, images: Any) -> np.ndarray:
        """The head's own output for each image: float32 (images, classes); logits where the network ends in them."""
        rows = [row for *_, row in classify(self.network, self._seen(images), self.batch_size)]
        return np.array(rows, "float32").reshape(len(rows), self.config.head.classes)

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
            single = array.ndim < 4
            check_shape(array[None] if single else array, self.network, "given")
            warn_of_pixels(self.network, array[None] if single else array)
            yield from [(name, array)] if single else ((f"{name}[{i}]", one) for i, one in enumerate(array))


def classify(
    model: Any, images: Iterable[tuple[Any, Any]], batch_size: int
) -> Iterator[tuple[Any, Any, np.ndarray | None]]:
    """(name, image, scores (classes,)) of pairs (name, image); None for what is no array, such as a BadImage."""
    for batch in in_batches(images, batch_size):
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        of_one_size = (np.stack([*some]) for _, some in itertools.groupby(readable, np.shape))
        rows = iter([row for some in of_one_size for row in scores(model, some)])
        for name, image in batch:
            yield name, image, next(rows) if isinstance(image, np.ndarray) else None


def scores(model: Any, images: Any) -> np.ndarray:
    """The head's output for one batch, float32 (batch, classes); an auxiliary classifier's is left aside."""
    outputs = model.predict_on_batch(images)
    return np.asarray(outputs[0] if isinstance(outputs, list | tuple) else outputs, "float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
