"""Progressive resolution: training images that begin small and grow to the size that the network is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_cnn.data.augment import tensorflow

STEP = 8  # sides are multiples of it: XLA compiles a network anew for each size that it sees
WHOLE = 0.2  # share of the epochs, at the end, whose images have the whole size, and batch norm its statistics


def growing(size: Sequence[int], initial_scale: float, epochs: int) -> tuple[tuple[int, ...], ...]:
    """The sides of the training images of each epoch, from initial_scale of `size` evenly up to all of it.

    2104.00298, section 4, grows them in four stages, and augmentation with them, which here stays as it is.
    """
    rising = int((1 - WHOLE) * epochs)
    scales = [initial_scale + (1 - initial_scale) * epoch / rising for epoch in range(rising)]
    scales += [1.0] * (epochs - rising)

    def at(side: int, scale: float) -> int:
        return side if scale == 1 else min(side, max(STEP, STEP * round(scale * side / STEP)))

    return tuple(tuple(at(side, scale) for side in size) for scale in scales)


def resizer(sizes: Sequence[Sequence[int]]) -> Callable[[Any, Any], Any]:
    """Graph function (images, epoch) -> images of the size of that epoch, of the last one for later ones.

    images: (batch, height, width, channels), uint8 or float; their height and width are no longer known to the graph.
    Each pixel is the mean of those that it stands for, weighted by nearness, and rounded.
    """
    tf = tensorflow()
    table = tf.constant(sizes, tf.int32)

    def resize(images: Any, epoch: Any) -> Any:
        size = table[tf.minimum(tf.cast(epoch, tf.int32), len(sizes) - 1)]
        smaller = lambda: tf.saturate_cast(tf.round(tf.image.resize(images, size, antialias=True)), images.dtype)  # noqa: E731
        return tf.cond(tf.reduce_all(size == tf.shape(images)[1:3]), lambda: images, smaller)

    return resize
