"""Which parts of an image speak for what a network answers: Grad-CAM and its kin, integrated gradients, occlusion.

What is explained is a number: the output before a final softmax or sigmoid, of one channel; with neither, the output
itself, as of a regression in its unit. It follows from the output's shape and last activation alone. Of maps of classes
it is the mean over the positions that the network gives the class (Vinogradova et al. 2020, 2002.11434), or over all
where it gives it none. One output with a sigmoid stands for two classes, and its number is turned around for the first.
Of several outputs, such as an auxiliary classifier's, the first is explained.

Every function takes `model`, any functional Keras model of one image, on any backend; `image`, one of (height, width,
channels) with values as the model takes them, or, for a network of ours, the path of a file; and `target`, a class by
number or name, or None for what the model answers: the largest output, or of a map the class of most positions. It
gives float32 (height, width) of the size of the image: above 0 what raises the number, below 0 what lowers it. The
papers' pictures of Grad-CAM are its part above 0, `np.maximum(heat, 0)`. Only heats of one method have one scale.

`layer` names the layer whose maps are used, that of a nested model as "model/layer". The default is the last one before
the answer that no branch leads around and whose maps have 4 positions a side, since coarser ones tell no place (where
all are coarser, the last of the finest). Of a network that answers every position, such as a U-Net, it is the last one
of the smallest of those maps, where a position has seen the widest surroundings: behind the last of a decoder the heat
would be the answer again.

All raise BadSpec for a model without a graph or without maps, a layer or a class that is not there (the nearest are
told), BadData for an image of another shape and BadImage for a file that cannot be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_cnn.errors import BadSpec
from keras_cnn.insight import graphs
from keras_cnn.insight.explained import Subject, look
from keras_cnn.models.config import record_of
from keras_cnn.models.fields import known_options

Heat = np.ndarray
Colour = float | Sequence[float] | np.ndarray


@known_options
def grad_cam(model: Any, image: Any, target: int | str | None = None, layer: str | None = None) -> Heat:
    """Maps weighted by the mean of the number's gradient by each: Grad-CAM (Selvaraju et al. 2017, 1610.02391, 3).

    One forward and one backward pass. Where the maps are pooled and a dense layer follows, the heat's mean over the
    maps' positions is what they add to the number. The arguments are those of all functions here (see the module).

    >>> import keras_cnn as kc, numpy as np
    >>> model, image = kc.build("resnet20", classes=["cat", "dog"]), np.zeros((32, 32, 3), "uint8")
    >>> kc.insight.grad_cam(model, image, "dog").shape
    (32, 32)
    """
    subject = look(model, image, target, layer)
    return _at_size(subject.maps[0] @ subject.gradient_by_maps().mean((0, 1)), subject)


@known_options
def grad_cam_plus_plus(model: Any, image: Any, target: int | str | None = None, layer: str | None = None) -> Heat:
    """Maps weighted by positive gradients, each position by its share: Grad-CAM++ (1710.11063, eq. 10, 13 and 19).

    Several objects of a class count alike, whatever their area. The number is taken through an exponential, as in the
    paper, so that its second and third derivatives are powers of the first.
    """
    subject = look(model, image, target, layer)
    maps, slopes = subject.maps[0], subject.gradient_by_maps()
    below = 2 * slopes**2 + maps.sum((0, 1)) * slopes**3
    shares = np.divide(slopes**2, below, out=np.zeros_like(slopes), where=below != 0)
    return _at_size(maps @ (shares * np.maximum(slopes, 0)).sum((0, 1)), subject)


@known_options
def score_cam(
    model: Any,
    image: Any,
    target: int | str | None = None,
    layer: str | None = None,
    *,
    baseline: Colour | None = None,
) -> Heat:
    """Maps weighted by what the network answers where it sees only what each shows: Score-CAM (1910.01279, alg. 1).

    No gradients; a forward pass a channel, so that 2,048 channels take as long as 2,048 images. Each map, enlarged and
    scaled to 0..1, fades the image to `baseline` where it is low; the weights are the softmax of the numbers.
    baseline: a colour, as of `occlusion`.
    """
    subject = look(model, image, target, layer)
    absent, channels = _baseline(model, subject, baseline), subject.maps.shape[-1]

    def seen(some: np.ndarray) -> np.ndarray:
        masks = _enlarged(subject.maps[0][..., some], subject.size)
        low, high = masks.min((0, 1)), masks.max((0, 1))
        masks = ((masks - low) / np.maximum(high - low, 1e-8)).transpose(2, 0, 1)[..., None]
        return absent + masks * (subject.image - absent)

    numbers = subject.measured(channels, seen)
    weights = np.exp(numbers - numbers.max())
    return _at_size(subject.maps[0] @ (weights / weights.sum()), subject)


@known_options
def integrated_gradients(
    model: Any, image: Any, target: int | str | None = None, *, baseline: Colour | None = None, steps: int = 64
) -> Heat:
    """What each pixel adds to the number on the way from a baseline to the image (Sundararajan et al., 1703.01365).

    Its sum over all pixels is the number of the image less that of the baseline (completeness, proposition 1), up to
    the error of the sum that stands for the integral.

    baseline: a colour, as of `occlusion`; the paper's black, 0, cannot show that black pixels matter. steps: gradients
        on the way, at the middles of as many equal parts; the paper finds 20 to 300 enough.
    """
    if steps < 1:
        raise BadSpec(f"steps={steps!r}: give 1 or more; the paper finds 20 to 300 enough.")
    subject = look(model, image, target)
    absent = _baseline(model, subject, baseline)
    total = np.zeros(subject.image.shape[1:], "float32")
    for shares in np.array_split((np.arange(steps) + 0.5) / steps, -(-steps // 16)):
        way = absent + shares[:, None, None, None].astype("float32") * (subject.image - absent)
        total += subject.gradient_by_images(way.astype("float32")).sum(0)
    return (total / steps * (subject.image - absent)[0]).sum(-1)


@known_options
def occlusion(
    model: Any,
    image: Any,
    target: int | str | None = None,
    *,
    window: int | None = None,
    step: int | None = None,
    baseline: Colour | None = None,
) -> Heat:
    """How much the number falls where a square hides a part of the image (Zeiler and Fergus 2014, 1311.2901, 4.2).

    A pixel has the mean over the squares that cover it, in the unit of the number. A forward pass a square.

    window: side of the square in pixels; by default a quarter of the image's shorter side, since less rarely hides what
        is to be seen. step: pixels between squares, by default a quarter of the window.
    baseline: the colour that hides, one number or one a channel, in values as the model takes them. By default what the
        network's preprocessing turns into 0, the mean colour of the images that its weights have seen; for a network
        that carries no such record the mean colour of the image.
    """
    subject = look(model, image, target)
    shorter = min(subject.size)
    window = max(1, shorter // 4) if window is None else window
    step = max(1, window // 4) if step is None else step
    if not 1 <= window <= shorter or step < 1:
        raise BadSpec(f"window={window!r}, step={step!r}: give pixels, from 1; the image's shorter side is {shorter}.")
    absent = _baseline(model, subject, baseline)[0]
    starts = [sorted({*range(0, side - window, step), side - window}) for side in subject.size]
    squares = [(slice(y, y + window), slice(x, x + window)) for y, x in itertools.product(*starts)]

    def hidden(some: np.ndarray) -> np.ndarray:
        images = np.repeat(subject.image, len(some), 0)
        for one, i in zip(images, some, strict=True):
            one[squares[i]] = absent
        return images

    whole = subject.measured(1, lambda some: subject.image)
    falls, total, covers = whole - subject.measured(len(squares), hidden), *np.zeros((2, *subject.size), "float32")
    for square, fall in zip(squares, falls, strict=True):
        total[square] += fall
        covers[square] += 1
    return total / np.maximum(covers, 1)


# By the names under which `explain` takes them.
METHODS: dict[str, Callable[..., Heat]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "score-cam": score_cam,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
}


def _baseline(model: Any, subject: Subject, colour: Colour | None) -> np.ndarray:
    """An image of one colour, (1, 1, 1, channels)."""
    channels = subject.image.shape[-1]
    if colour is None:
        colour = _mean_colour(model, subject)
    values = np.broadcast_to(np.asarray(colour, "float32"), (channels,)) if np.size(colour) in (1, channels) else None
    if values is None:
        raise BadSpec(f"baseline={colour!r}: give one number, or one for each of the {channels} channels.")
    return values[None, None, None]


def _mean_colour(model: Any, subject: Subject) -> np.ndarray:
    try:
        return np.multiply(record_of(model)["preprocess"]["mean"], 255.0)
    except BadSpec:
        return subject.image.mean((0, 1, 2))


def _at_size(heat: np.ndarray, subject: Subject) -> Heat:
    return _enlarged(heat[..., None], subject.size)[..., 0]


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, channels) at another size, bilinear."""
    from keras import ops

    resized = ops.image.resize(maps[None], size, interpolation="bilinear", data_format="channels_last")
    return graphs.array(resized)[0]
