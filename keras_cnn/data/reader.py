"""Images that are read anew for each pass, just as evaluation sees them, in a data set of tf.data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from keras_cnn.data.augment import tensorflow
from keras_cnn.data.decoding import as_seen, load
from keras_cnn.data.orders import ReadAhead
from keras_cnn.data.splits import Split
from keras_cnn.models.config import Preprocess


def reader(
    split: Split, preprocess: Preprocess, channels: int, skip_bad: bool, left_out: Callable[[str], Any]
) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Graph function from an index and all labels to (readable, image, label or mask).

    skip_bad: whether unreadable images are left out, of which left_out is told the name, instead of raising BadImage.
    """
    tf = tensorflow()
    sides, masked = preprocess.size, split.masks is not None
    see, ahead = partial(as_seen, preprocess=preprocess), ReadAhead(split)

    def read(i: int) -> tuple[bool, np.ndarray, np.ndarray]:
        ahead([int(i)])
        made = load(split, i, preprocess, channels, skip_bad, see)
        if made is None:
            left_out(split.sources[i].name)
        image, mask = made or (np.zeros((*sides, channels), np.uint8), None)
        return made is not None, image, np.zeros(sides, np.uint8) if mask is None else mask

    def op(i: Any, labels: Any) -> tuple[Any, ...]:
        readable, image, mask = tf.numpy_function(read, [i], [tf.bool, tf.uint8, tf.uint8])
        label = tf.ensure_shape(mask, sides) if masked else tf.gather(labels, i)
        return tf.ensure_shape(readable, ()), tf.ensure_shape(image, (*sides, channels)), label

    return op
