"""How good a network is on labelled images, by the figures of its task."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_cnn import tasks
from keras_cnn.data import Data, Splits
from keras_cnn.data.sequences import Sequences
from keras_cnn.data.tables import Table
from keras_cnn.deploy import scoring, trained_on
from keras_cnn.deploy.engines import as_it_is, running
from keras_cnn.deploy.opened import File
from keras_cnn.deploy.outputs import check_files, of_views
from keras_cnn.deploy.predictor import built
from keras_cnn.deploy.scoring import Labelled
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.models.fields import known_options
from keras_cnn.tasks import Result, labelled
from keras_cnn.tasks.base import Task, class_names
from keras_cnn.terminal import progress


@known_options
def evaluate(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    run: str | os.PathLike[str] | None = None,
    batch_size: int = 128,
    skip_bad: bool = False,
    engine: str = "keras",
    precision: str = "float32",
    views: str | None = None,
) -> Result:
    """Measure a network on labelled images.

    model: a network; what `build` takes, such as the directory of a run; or a file that `export` or `quantize` wrote.
    data: a folder, zip or table, as `load_data` takes it, whose images are seen as the network's weights expect, and
        whose labels are what it is for; classes are matched by name, so that it need not have all of them; `Data`, or
        `Sequences`, matched likewise; one of its splits or any data set of batches (images, labels); or a pair of
        arrays. Labels are the network's numbers of classes, or one-hot.
    split: of a folder, `Data` or `Sequences`: "train", "val" or "test". By default test, else val; a folder without
        splits is taken whole, training images of `Data` only when asked for.
    run: the directory of a run. Images that it was trained on, as it knows them, are left out and counted apart in
        `Result.trained_on`, at whatever size the network now sees them. By default that of `model`, where this is a
        directory, a file in one, or a file that was exported from one by its name. `trained_on` is None where nothing
        tells, as of a network in memory or from the hub.
    batch_size: images that the network sees at once. Files are decoded as they are needed.
    skip_bad: leave unreadable files out, log them and name them in `Result.skipped`, instead of raising BadImage. (Of
        `Data`, what it was loaded with.)
    engine, precision: what computes, as of `predictor`: "openvino" with "bfloat16" tells what that costs. "keras" is
        the network as it is, its batch norms not folded: figures are those of what was trained, and begin at once.
        Others measure the folded network, whose figures are the same but for rounding, and pay off with many images:
        getting ready takes longer than a thousand small ones.
    views: "mirror": the mean of the answers for an image and for its mirror image, at twice the cost; not for glyphs.
        "five", of files: the mean over the corners and the centre of the resized photo, and "ten", over these and
        their mirror images, as of `predictor`.
    Returns the `Result` of the network's task. Warns with a WeightsWarning where a name brings random weights. Raises
    BadSpec for a network without a head for it, BadData for labels or images that it cannot be measured on.

    >>> import keras_cnn as kc, numpy as np
    >>> model = kc.build("resnet20", classes=["cat", "dog"])
    >>> result = kc.evaluate(model, (np.zeros((6, 32, 32, 3), "uint8"), np.arange(6) % 2))
    >>> result.metrics["accuracy"], [row["class"] for row in result.by_class()]
    (0.5, ['cat', 'dog'])
    """
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    if run is not None and not Path(run).is_dir():
        raise BadData(f"run={str(run)!r}: there is no such directory.")
    named = isinstance(model, str | os.PathLike)
    run = trained_on.place(model) if named and run is None else run
    model = built(model)
    net = model.blank if isinstance(model, File) else model
    task = tasks.of(net)
    outputs, names = task.outputs(net), class_names(net)
    known = trained_on.of(model if run is None else run)
    if isinstance(data, str | os.PathLike | Table | Splits):
        splits, split = scoring.found(net, data, split)
        data = scoring.loaded(net, splits, split, batch_size, skip_bad)
    if isinstance(data, Data):
        images, count = scoring.images_of(net, task, data, _chosen(data, split), names, outputs, views, known)
        names = names or data.class_names
    elif isinstance(data, Sequences):
        x, y = _of_sequences(task, data, _chosen(data, split), names, outputs)
        names = names or data.class_names or data.targets
        images, count = _of_batches(net, task, (x, y), outputs), len(x)
    elif split is not None:
        raise BadSpec(f"split={split!r} is for Data and folders: leave it out, or give data.{split} itself.")
    else:
        check_files(views)
        theirs = labelled.names_of(data)
        images, count = _of_batches(net, task, data, outputs, theirs, names), None
        names = names or theirs
    asked = isinstance(model, File) or (engine, precision) != ("keras", "float32")
    runner = running(model, engine, precision, batch=batch_size) if asked else as_it_is(net)
    runner = of_views(runner, views, len(net.input_shape) - 2, everywhere=len(net.outputs[0].shape) == 4)
    with BadImage.surfacing():
        images = progress(images, "evaluating", count)
        return scoring.measured(net, images, names, batch_size, runner=runner, known=known)


def _of_sequences(
    task: Task, data: Sequences, split: str, names: tuple[str, ...], outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """(sequences and their labels as the network numbers classes)."""
    if (pair := getattr(data, split, None)) is None:
        raise BadData(f"the data has no split {split!r}; it has {', '.join(data.sizes)}.")
    named = SimpleNamespace(task=data.task, class_names=data.class_names or data.targets)
    place = task.places(named, names, outputs)
    return pair[0], np.stack([task.renumbered(label, place) for label in pair[1]])


def _chosen(data: Data | Sequences, split: str | None) -> str:
    """The split that was asked for; else test, else val."""
    held_out = [name for name in data.sizes if name != "train"]
    if split is None and not held_out:
        raise BadData("the data has training images only: give split='train' to evaluate on them.")
    return split or held_out[-1]


def _of_batches(
    net: Any, task: Task, data: Any, outputs: int, theirs: tuple[str, ...] = (), ours: tuple[str, ...] = ()
) -> Iterator[Labelled]:
    """Images and labels of a pair of arrays or of batches, each batch once it is seen to be good.

    theirs, ours: names of the classes, of the data and of the network, which may number them otherwise.
    """
    what, place = "evaluation", None
    if theirs:
        place = task.places(SimpleNamespace(task=task.data, class_names=theirs), ours, outputs)
    if labelled.is_array(data) and task.data is None:  # images, which are their own labels
        data = (data, data)
    if labelled.is_array(data):
        raise BadData("images came without labels: give a pair (images, labels).")
    number = itertools.count()
    for i, batch in enumerate([data] if isinstance(data, tuple) else data):
        images, labels = labelled.check_batch(net, batch, outputs, what, first=i == 0)
        for image, label in zip(images, task.numbers(labels, what), strict=True):
            label = label if place is None else task.renumbered(label, place)
            yield Labelled(f"images[{next(number)}]", image, label)
