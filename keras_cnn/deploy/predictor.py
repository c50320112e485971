"""A network that answers images: files, folders, zips and arrays in; the answers of its task out."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_cnn import tasks
from keras_cnn.building import build
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data import sequence_files
from keras_cnn.data.files import Source, local
from keras_cnn.data.images import five_crops
from keras_cnn.data.index import find_images
from keras_cnn.data.stream import Photo, decoded
from keras_cnn.deploy import answer_files
from keras_cnn.deploy.engines import running
from keras_cnn.deploy.opened import File, is_exported, opened
from keras_cnn.deploy.outputs import CUT, check_files, of_views, outputs_of
from keras_cnn.deploy.tiles import predict_tiles
from keras_cnn.errors import BadData, BadImage, BadSpec, WeightsWarning
from keras_cnn.models.fields import known_options
from keras_cnn.tasks.labelled import check_shape, warn_of_pixels

Seen = tuple[str, tuple[int, int] | None]  # name, and size of its file


@known_options
def predictor(
    model: Any,
    *,
    batch_size: int = 32,
    tile: int | None = None,
    engine: str = "keras",
    precision: str = "float32",
    views: str | None = None,
) -> Predictor:
    """A function of images that answers what they show: `kc.predictor("runs/photos")("photo.jpg")`.

    A network that answers every pixel sees photos squashed to its size, as it did in training, and its mask has the
    size of the photo's file, as it is seen upright; those of arrays have theirs.

    model: a network of ours, or whatever `build` takes: a weights directory, a tag, an address. It is copied for
    prediction, batch norms folded into convolutions; later training does not reach the copy. Or a file that `export` or
    `quantize` wrote, which its own runtime runs.
    batch_size: images that the network sees at once; where memory does not hold them, half as many, and so on. Files
    are decoded as they are needed, so that any number of them takes the memory of a few batches.
    tile: of a network that answers every pixel: the side of the tiles, in pixels, by which it sees photos at their own
    size, whatever that is (`predict_tiles`); as many at once as have the pixels of a batch.
    engine: what computes: "keras"; "tensorflow", the network as one graph; "openvino", "onnx" or "litert", which take
    seconds to get ready; or "auto", the fastest of those that are installed: they are measured the first time, on this
    machine and for this network, and the choice is kept. That is not the default: measuring takes up to a minute, and
    engines round in other orders, so that a package that is installed, or what else the machine did in that minute,
    would change the last digits of answers.
    precision: "float32"; of openvino also "bfloat16", which is faster on processors that have it and changes answers a
    little. Nothing chooses it for you: what it costs is seen on labelled images alone, by `evaluate` with both.
    views: "mirror": the mean of the answers for an image and for its mirror image, at twice the cost; not for glyphs.
        "five": of files, the mean over the corners and the centre of the resized photo, at five times the cost; the
        centre is what is seen without views. Weights that see the whole photo (crop=1) see it as the fifth, and
        corners of it at size / 0.875. "ten": these five and their mirror images (AlexNet's ten crops), at ten times
        the cost. The last two are not for networks that answer every pixel.
    Raises MissingPackage where the engine is not installed;
    BadSpec for a model that is not of ours, or that has no classifier, and for tiles of one that answers for an
    image as a whole. WeightsWarning where a name brings none.

    >>> import keras_cnn as kc, numpy as np
    >>> predict = kc.predictor(kc.build("resnet20", classes=["cat", "dog"]))
    >>> [answer] = predict(np.zeros((32, 32, 3), "uint8"))
    >>> answer.name, answer.label in ("cat", "dog"), len(answer.top)
    ('images', True, 2)
    """
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    if tile is not None and tile < 1:
        raise BadSpec(f"tile={tile!r}: give the side of the tiles in pixels, 1 or more.")
    return Predictor(built(model), batch_size, tile, engine, precision, views)


def built(model: Any) -> Any:
    """A model, built where it is named, an exported one opened; WeightsWarning where the name brings no weights."""
    if is_exported(model):
        return opened(model)
    if isinstance(model, str | os.PathLike):
        name, model = os.fspath(model), build(model)
        if not config_of(model).provenance:  # a model that is given may have learnt since it was built
            text = (
                f"{name} has random weights, so that its answers mean nothing: a tag or directory brings trained ones."
            )
            warnings.warn(text, WeightsWarning, stacklevel=4)
    return model


class Predictor:
    """Answers images; made by `predictor`.

    Images are: a path of an image, a folder (images at any depth, in order) or a zip, or its `file://` address; an
    array, one image (height, width, channels) or several (images, height, width, channels), of the network's size (any,
    with tiles) and with raw values of 0..255; or a list or an iterator of all these. Answers come in the order of the
    images. An iterator, such as a generator or `Path.glob`, may be without end: `stream` reads it as answers are asked
    for, three batches of files or one of arrays ahead. So with batch_size=1 an array is answered before the next one is
    read.
    A network for sequences answers arrays, one (time, channels) or several (sequences, time, channels), and files: an
    `.npz` with an array `x`, a table (`.csv`, `.tsv`, `.parquet`) with a row a step and its channels in the order in
    which they were learnt: a sequence for each value of a column `id`, else the end of one long series.
    """

    def __init__(
        self, model: Any, batch_size: int, tile: int | None, engine: str, precision: str, views: str | None
    ) -> None:
        self.config, self.batch_size, self.tile, self.task = config_of(model), batch_size, tile, tasks.of(model)
        if tile is not None and not self.config.head.EVERYWHERE:
            raise BadSpec(f"tile={tile}: {self.config.name} answers for an image as a whole, which tiles would cut.")
        if tile is not None and isinstance(model, File):
            raise BadSpec(f"tile={tile}: {model.path} takes images of one size: give the network that it is of.")
        self.task.check_answers(self.config)
        self.logits = self.config.head.activation in (None, "linear")
        if tile is not None and views:
            raise BadSpec(f"tile={tile} and views={views!r} do not go together: give one of them.")
        network = running(model if tile is None else _of_any_size(model), engine, precision, batch=batch_size)
        self.views = views
        self.network = of_views(network, views, self.config.backbone.SIDES, self.config.head.EVERYWHERE)

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
        for (name, size), image, row in self._outputs(images, skip_bad):
            if row is None:
                yield self.task.unreadable(name, str(image))
            else:
                yield self.task.answer(name, self.task.finish(row, self.logits), self.config, top, size)

    def scores(self, images: Any) -> np.ndarray:
        """The head's own output for each image: float32 (images, ...); logits where the network ends in them.

        Raises BadData where the images, with tiles, are of several sizes: their outputs are no array.
        """
        rows = [row for *_, row in self._outputs(images) if row is not None]
        if len({row.shape for row in rows}) > 1:
            raise BadData("the images are of several sizes, and so are their outputs: ask for one after the other.")
        return np.array(rows, "float32") if rows else np.empty((0, *self.network.output_shape[1:]), "float32")

    def table(self, images: Any, *, top: int = 5) -> Any:
        """The same answers as a table of pyarrow, with the columns of `keras-cnn predict --out FILE.parquet`.

        The columns depend on the network and on `top` alone, so that parts made elsewhere fit together; `table([])` has
        them. An unreadable image has a line with its `error`, and nothing else in it. For Ray, Spark and whatever else
        reads Arrow: `examples/cluster/`. Raises MissingPackage where pyarrow is not installed.
        """
        answers = self.stream(images, top=top, skip_bad=True)
        blank = np.zeros([side or 1 for side in self.network.output_shape[1:]], "float32")
        like = self.task.answer("", self.task.finish(blank, self.logits), self.config, top, None)
        return answer_files.table(answers, like)

    def __reduce__(self) -> Any:
        raise BadSpec(
            "a predictor does not pickle, since what runs it stands in this process: give others the directory or name "
            "of its network, and let each make its own by kc.predictor."
        )

    def _outputs(self, images: Any, skip_bad: bool = False) -> Iterator[tuple[Seen, Any, np.ndarray | None]]:
        """Each image, and the head's output for it: None for one that is unreadable."""
        seen = self._seen(images, skip_bad)
        if self.tile is None:
            yield from outputs_of(self.network, seen, self.batch_size)
            return
        pixels = math.prod(self.config.preprocess.size)
        told = {"tile": self.tile, "batch_size": max(1, self.batch_size * pixels // self.tile**2)}
        for name, image in seen:
            readable = isinstance(image, np.ndarray)
            yield name, image, predict_tiles(self.network, image, **told) if readable else None

    def _seen(self, images: Any, skip_bad: bool = False) -> Iterator[tuple[Seen, np.ndarray | BadImage]]:
        """Each image's name and pixels as the network sees them, files decoded a few batches ahead."""
        told: dict[str, Any] = {"channels": self.network.input_shape[-1], "ahead": 2 * self.batch_size}
        told |= {"cut": five_crops} if self.views in CUT else {}
        if self.tile is not None:
            told |= {"whole": True, "ahead": 1}  # photos at their own size may be large
        for kind, some in itertools.groupby(self._found(images, "images"), type):
            if kind is Source:
                for source, photo in decoded(some, self.config.preprocess, skip_bad=skip_bad, **told):
                    pixels, size = photo if isinstance(photo, Photo) else (photo, None)
                    yield (source.name, size), pixels
            elif kind is Photo:
                yield from ((("image", photo.size), photo.pixels) for photo in some)
            else:
                check_files(self.views)
                yield from (((name, None), image) for name, image in some)

    def _found(self, images: Any, name: str) -> Iterator[Any]:
        """A Source of each file, which is not read yet, a Photo as it is, and (name, pixels) of each array."""
        if isinstance(images, Source | Photo):
            yield images
        elif isinstance(images, str | os.PathLike) and self.config.backbone.SIDES == 1:
            steps, channels = self.network.input_shape[1:]
            for one, sequence in sequence_files.named(local(images), channels, steps):
                check_shape(sequence[None], self.network, one)
                yield one, sequence
        elif isinstance(images, str | os.PathLike):
            yield from find_images(images)
        elif isinstance(images, list | tuple | Iterator):
            for i, some in enumerate(images):
                yield from self._found(some, f"{name}[{i}]")
        elif not hasattr(images, "__array__"):
            raise BadData(
                f"{name}: give a path, an array, or a list or iterator of these, not {type(images).__name__}."
            )
        else:
            array = np.asarray(images)
            single = array.ndim < len(self.network.input_shape)
            check_shape(array[None] if single else array, self.network, "given")
            warn_of_pixels(self.network.name, array[None] if single else array)
            yield from [(name, array)] if single else ((f"{name}[{i}]", one) for i, one in enumerate(array))


def _of_any_size(model: Any) -> Any:
    """The same network for images of any size."""
    free = build(config_of(model), input_shape=(None, None, model.input_shape[-1]))
    arrays.assign(free, arrays.arrays(model))
    return free
