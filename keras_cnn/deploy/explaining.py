"""Pictures of what speaks for a network's answers: a photo, what is said of it, and where that comes from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from functools import partial, singledispatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from keras_cnn import tasks
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data.files import Source, places
from keras_cnn.data.images import decode, resize_and_crop
from keras_cnn.data.index import find_images
from keras_cnn.deploy.predictor import built
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.files import write_beside
from keras_cnn.insight import explained, plots, saliency
from keras_cnn.models.config import Preprocess
from keras_cnn.models.fields import known_options, one_of
from keras_cnn.tasks.base import scores
from keras_cnn.tasks.classification import Answer
from keras_cnn.tasks.multilabel import Labels
from keras_cnn.tasks.regression import Values
from keras_cnn.tasks.segmentation import Mask

SIDE = 448  # pixels of the longer side of a photo in a picture
GUESSES = 3  # of one class: how many are named; two of them are explained
LABELS = 6  # of several classes: how many are named
PANELS = 4  # the most labels, or targets, that are explained in one picture


class Explanation(NamedTuple):
    """Why an image is answered so. answer: the task's, as of `predictor`; heats: by what they speak for, float32
    (height, width), as of `insight.grad_cam`; picture: the file that shows it. error: why an image could not be read;
    it then has none of these."""

    name: str
    answer: Any
    heats: Mapping[str, np.ndarray]
    picture: Path | None
    error: str | None = None


@known_options
def explain(
    model: Any,
    images: Any,
    out: str | os.PathLike[str],
    *,
    target: int | str | None = None,
    method: str = "grad-cam",
    layer: str | None = None,
    skip_bad: bool = False,
) -> list[Explanation]:
    """Draw one picture an image that shows what speaks for the answer: `kc.explain("runs/photos", "photo.jpg", "why")`.

    Beside the photo, as the network sees it, stands what is answered: the three most probable classes, and what speaks
    for the first and for the second; of several labels, each that is found, at most four; of numbers, what raises and
    what lowers each; of a class for each pixel, the mask, and what speaks for its largest class.

    model: a network of ours, or whatever `build` takes; or any functional Keras model of one image, whose answer is
        then told from the shape and the last activation of its output: it takes arrays only.
    images: a path, a folder, a zip, an array, or a list of these, as of `predictor`.
    out: the folder for the pictures, PNG files with the names of the images.
    target: the class or number to explain instead, by name or from 0. method: "grad-cam", "grad-cam++", "score-cam",
        "integrated-gradients" or "occlusion"; the first is as good as any at telling where, and by far the fastest.
    layer: whose maps are used, for the first three; `kc.insight.grad_cam` says which one by default.
    skip_bad: an unreadable image gets an Explanation with its `error`; else it raises BadImage.
    Raises BadSpec for a model that is not explained, and a class, method or layer that is not there.

    >>> import keras_cnn as kc, numpy as np, tempfile
    >>> model, image = kc.build("resnet20", classes=["cat", "dog"]), np.zeros((32, 32, 3), "uint8")
    >>> [why] = kc.explain(model, image, tempfile.mkdtemp())
    >>> why.answer.label in ("cat", "dog"), sorted(why.heats), why.picture.name
    (True, ['cat', 'dog'], 'images.png')
    """
    told = {"target": target, "method": method, "layer": layer, "skip_bad": skip_bad}
    return list(explanations(built(model), images, out, **told))


def explanations(
    model: Any,
    images: Any,
    out: str | os.PathLike[str],
    *,
    target: int | str | None = None,
    method: str = "grad-cam",
    layer: str | None = None,
    skip_bad: bool = False,
) -> Iterator[Explanation]:
    """The same one by one, of a built model."""
    one_of("method", method, tuple(saliency.METHODS))
    explained.checked(model)
    maker = partial(saliency.METHODS[method], model, **({} if layer is None else {"layer": layer}))
    reader = _Reader(model)
    photos = list(_found(images, "images"))
    for (name, photo), place in zip(photos, _places(Path(out), photos), strict=True):
        try:
            pixels, shown, size = reader.read(name, photo)
        except BadImage as error:
            if not skip_bad:
                raise
            yield Explanation(name, reader.task.unreadable(name, str(error)), {}, None, str(error))
            continue
        answer, row = reader.answer(name, pixels, size)
        story = _story(answer, row)
        wanted = story.targets if target is None else {reader.title(target): target}
        heats = {title: maker(pixels, one) for title, one in wanted.items()}
        write_beside(place, partial(_draw, shown=shown, story=story, heats=heats))
        yield Explanation(name, answer, heats, place)


# --- what is told of an answer: a function a kind --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Story:
    """What a picture tells beside its photo. targets: what is explained, by its title. bars: (label, probability), the
    most probable first; lines: what is said instead. mask: classes of pixels, (height, width), and names of classes.
    number: whether numbers are explained, which are raised and lowered, instead of classes."""

    targets: Mapping[str, int]
    bars: tuple[tuple[str, float], ...] = ()
    lines: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    names: tuple[str, ...] = ()
    number: bool = False


@singledispatch
def _story(answer: Any, row: np.ndarray) -> Story:
    """row: the finished output, from which the answer was made."""
    raise BadSpec(
        f"{type(answer).__name__}: no class or number is answered that something could speak for; "
        "kc.insight.grad_cam(model, image, target) explains one channel of any output."
    )


@_story.register
def _(answer: Answer, row: np.ndarray) -> Story:
    bars = tuple((_short(guess.description), guess.probability) for guess in answer.top)
    order = (-row).argsort(kind="stable")
    return Story({label: int(i) for (label, _), i in zip(bars[:2], order, strict=False)}, bars)


@_story.register
def _(answer: Labels, row: np.ndarray) -> Story:
    order, bars = (-row).argsort(kind="stable").tolist(), tuple(answer.probabilities.items())
    return Story(dict(zip(answer.labels[:PANELS] or [bars[0][0]], order, strict=False)), bars[:LABELS])


@_story.register
def _(answer: Values, row: np.ndarray) -> Story:
    lines = tuple(f"{target}: {value:.4g}" for target, value in answer.columns().items())
    return Story({target: i for i, target in enumerate([*answer.values][:PANELS])}, lines=lines, number=True)


@_story.register
def _(answer: Mask, row: np.ndarray) -> Story:
    names, largest = tuple(answer.shares), max(answer.shares, key=answer.shares.__getitem__)
    return Story({largest: names.index(largest)}, mask=answer.mask, names=names)


def _short(description: str) -> str:
    """The first of several names of a class."""
    return description.split(",")[0]


def _draw(path: str, shown: np.ndarray, story: Story, heats: Mapping[str, np.ndarray]) -> None:
    facts = {field.name: getattr(story, field.name) for field in dataclasses.fields(story) if field.name != "targets"}
    plots.explanation(shown, heats, path, **facts)


# --- images and answers ----------------------------------------------------------------------------------------------


class _Reader:
    """Images as a model sees them and as people do, and its answers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        try:
            self.config: Any = config_of(model)
            self.task = tasks.of(model)
            self.logits = self.config.head.activation in (None, "linear")
            self.task.check_answers(self.config)
        except BadSpec:
            if getattr(self, "config", None):
                raise
            self.config, self.logits = SimpleNamespace(class_names=(), provenance={}, preprocess=None), False
            self.task = tasks.told_by_output(model)

    def read(self, name: str, photo: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, int] | None]:
        """(pixels for the network, pixels for people, (height, width) of the file) of a Source or an array."""
        if not isinstance(photo, Source):
            pixels = explained.pixels_of(self.model, photo)[0]
            return pixels, _visible(pixels), None
        preprocess = self.config.preprocess
        if preprocess is None:
            raise BadSpec(f"{self.model.name} does not know how its images are made of files: give arrays as it takes.")
        image = decode(photo.read, self.model.input_shape[-1], name, preprocess.window)
        size = (image.shape[0], image.shape[1])
        return resize_and_crop(image, preprocess, name=name), resize_and_crop(image, _larger(preprocess, size)), size

    def answer(self, name: str, pixels: np.ndarray, size: tuple[int, int] | None) -> tuple[Any, np.ndarray]:
        """(answer, the finished output that it is made of)."""
        row = self.task.finish(scores(self.model, pixels[None])[0], self.logits)
        return self.task.answer(name, row, self.config, GUESSES, size), row

    def title(self, target: int | str) -> str:
        names = self.config.class_names
        name = names[target] if isinstance(target, int) and 0 <= target < len(names) else target
        described = self.config.provenance.get("class_descriptions", {})
        return _short(described.get(name, name if isinstance(name, str) else f"class {name}"))


def _larger(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """The same part of a photo in more pixels, in the photo's own shape where the network sees it squashed."""
    height, width = size if preprocess.mode == "squash" else preprocess.size
    scale = SIDE / max(height, width)
    sides = (max(1, round(height * scale)), max(1, round(width * scale)))
    return dataclasses.replace(preprocess, size=sides, interpolation="bicubic")


def _visible(pixels: np.ndarray) -> np.ndarray:
    """An array as an image of 0..255: as it is where it has such values, else its range spread over them."""
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255 or high <= 1:
        pixels = (pixels - low) / max(high - low, 1e-12) * 255
    return np.rint(pixels).astype("uint8")


def _found(images: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, Source or array) of each image."""
    if isinstance(images, Source):
        yield images.name, images
    elif isinstance(images, str | os.PathLike):
        yield from ((source.name, source) for source in find_images(images))
    elif isinstance(images, list | tuple):
        for i, some in enumerate(images):
            yield from _found(some, f"{name}_{i}")
    elif hasattr(images, "__array__") and np.ndim(images) in (3, 4):
        array = np.asarray(images)
        yield from [(name, array)] if array.ndim == 3 else ((f"{name}_{i}", one) for i, one in enumerate(array))
    else:
        raise BadData(
            f"{name}: give a path, an array (height, width, channels) or (images, height, width, channels), or a list."
        )


def _places(out: Path, photos: list[tuple[str, Any]]) -> list[Path]:
    files = iter(places(out, [photo for _, photo in photos if isinstance(photo, Source)]))
    return [next(files) if isinstance(photo, Source) else out / f"{name}.png" for name, photo in photos]
