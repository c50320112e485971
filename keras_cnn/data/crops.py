"""Random parts of whole photographs: how they are held for training, which part is drawn, how it is resized."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from PIL import Image

from keras_cnn.data import masks
from keras_cnn.data.augment import tensorflow
from keras_cnn.data.images import FILTERS, PLAIN_MODES
from keras_cnn.models.config import Preprocess

LEAST = 0.35  # share of a photo's area that a part has at least; 0.08, as for ImageNet, is too little for few epochs
RATIO = 4 / 3  # the most that a part is stretched, either way
MOST = 2.0  # a photo is held at so many times the network's size: the smallest parts are enlarged hardly at all
ENOUGH = 1.1  # times the network's size: photos that are no larger have nothing to choose from; 256 for 224 is usual


def canvas(sizes: Sequence[tuple[int, int]], preprocess: Preprocess) -> tuple[int, int] | None:
    """(height, width) at which whole photos are held, all alike; None where they are hardly larger than what is seen.

    sizes: (width, height) of some photos. Twice the network's size, or that of the photos where they are smaller:
    their median. None as well where photos are resized to the nearest pixel, so that nothing is mixed.
    """
    if preprocess.interpolation == "nearest":
        return None
    height, width = preprocess.size
    room = [min(tall / height, wide / width) for wide, tall in sizes]
    times = min(float(np.median(room)), MOST) if room else 0.0
    return (round(times * height), round(times * width)) if times >= ENOUGH else None


def whole(image: np.ndarray, size: tuple[int, int], preprocess: Preprocess) -> tuple[np.ndarray, float]:
    """A photo squashed to a canvas, uint8 (*size, channels); and how many times wider it was, for its height.

    The second is 1 where evaluation squashes as well: then that is how photos are to look.
    """
    height, width, channels = image.shape
    tall, wide = size
    stretch = stretch_of(width, height, replace(preprocess, size=size))
    if (height, width) != size:
        picture = Image.frombytes(PLAIN_MODES[channels], (width, height), np.ascontiguousarray(image).tobytes())
        image = np.array(picture.resize((wide, tall), FILTERS[preprocess.interpolation])).reshape(tall, wide, channels)
    return image, stretch


def whole_mask(mask: np.ndarray, size: tuple[int, int], preprocess: Preprocess) -> np.ndarray:
    """The mask of a photo on its canvas: uint8 (*size)."""
    return masks.at_size(mask, replace(preprocess, size=size, mode="squash", crop=1.0))


def cropper(preprocess: Preprocess) -> Callable[..., tuple[Any, Any]]:
    """Graph function (photos, masks, stretch, key) -> random parts of both, as networks see them; see `boxes`, `cut`.

    masks: uint8 (n, height, width), or None, which is given back.
    """
    size = cast(tuple[int, int], preprocess.size)

    def crop(photos: Any, drawn: Any, stretch: Any, key: Any) -> tuple[Any, Any]:
        parts = boxes(stretch, key)
        return cut(photos, parts, size), None if drawn is None else cut_masks(drawn, parts, size)

    return crop


def boxes(stretch: Any, key: Any) -> Any:
    """Parts of photos, (n, 4): top, left, height and width as shares of the photo's, all within it.

    stretch: float (n,), see `whole`. key: int64 (2,), which gives all randomness. Area is even between LEAST and all,
    the logarithm of the shape between those of 1 / RATIO and RATIO, as in 1409.4842, section 6; a part that is longer
    than the photo is shrunk to fit, so that its shape stays.
    """
    tf = tensorflow()
    return parts(stretch, tf.random.stateless_uniform([4, tf.shape(stretch)[0]], key), tf)


def parts(stretch: Any, draws: Any, of: Any) -> Any:
    """The same of draws, even between 0 and 1, (4, n). of: NumPy or TensorFlow, whichever made these arrays."""
    area = LEAST + (1 - LEAST) * draws[0]
    shape = of.exp(math.log(RATIO) * (2 * draws[1] - 1)) / stretch
    height, width = of.sqrt(area / shape), of.sqrt(area * shape)
    fit = of.maximum(of.maximum(height, width), 1.0)
    height, width = height / fit, width / fit
    return of.stack([draws[2] * (1 - height), draws[3] * (1 - width), height, width], 1)


def stretch_of(width: int, height: int, preprocess: Preprocess) -> float:
    """How many times wider a photo is, for its height, than the network sees it; 1 where evaluation squashes, too."""
    tall, wide = preprocess.size
    return 1.0 if preprocess.mode == "squash" else (width / height) / (wide / tall)


def cut(photos: Any, parts: Any, size: tuple[int, int]) -> Any:
    """Parts of whole photos, in whole pixels, at the network's size: uint8 (n, *size, channels).

    photos: uint8 (n, height, width, channels). parts: as from `boxes`. Evaluation's filter takes three times as long as
    the mean of the pixels that each one covers, which is what parts of files are, too.
    """
    tf = tensorflow()
    starts, ends = tf.unstack(_whole_pixels(photos, parts))

    def one(photo_start_end: Any) -> Any:
        photo, start, end = photo_start_end
        return resized(photo[start[0] : end[0], start[1] : end[1]], size)

    seen = tf.TensorSpec((*size, photos.shape[-1]), tf.uint8)
    return tf.map_fn(one, (photos, starts, ends), fn_output_signature=seen)


def resized(part: Any, size: tuple[int, int]) -> Any:
    """A part of a photo, (height, width, channels), at another size, uint8.

    Each pixel is the mean of those that it covers, or lies between its neighbours where the part has fewer.
    """
    tf = tensorflow()
    part = part[None]
    made = tf.cond(
        tf.reduce_all(tf.shape(part)[1:3] >= size),
        lambda: tf.raw_ops.ResizeArea(images=part, size=size),
        lambda: tf.raw_ops.ResizeBilinear(images=part, size=size, half_pixel_centers=True),
    )[0]
    return tf.ensure_shape(tf.cast(made + 0.5, tf.uint8), (*size, part.shape[-1]))


def _whole_pixels(photos: Any, parts: Any) -> Any:
    """Where parts begin and end, in whole pixels, at least one: int32 (2, n, 2)."""
    tf = tensorflow()
    sides = tf.shape(photos)[1:3]
    edges = tf.cast(
        tf.round(tf.stack([parts[:, :2], parts[:, :2] + parts[:, 2:]]) * tf.cast(sides, tf.float32)), tf.int32
    )
    start = tf.minimum(edges[0], sides - 1)
    return tf.stack([start, tf.clip_by_value(edges[1], start + 1, sides)])


def cut_masks(drawn: Any, parts: Any, size: tuple[int, int]) -> Any:
    """The same parts of masks, uint8 (n, height, width): each pixel is the nearest one, as Pillow's are."""
    tf = tensorflow()
    starts, ends = tf.unstack(tf.cast(_whole_pixels(drawn, parts), tf.float32))
    for axis in (0, 1):
        wanted = size[axis]
        centres = (tf.range(wanted, dtype=tf.float32) + 0.5) / wanted
        places = starts[:, axis, None] + centres * (ends - starts)[:, axis, None]
        drawn = tf.gather(drawn, tf.cast(places, tf.int32), axis=axis + 1, batch_dims=1)
    return drawn
