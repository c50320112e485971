"""Random parts of photos that are decoded anew for each pass: the part alone, at few more pixels than are seen.

What is a plain JPEG, TensorFlow's own operations decode: they read the part alone, at an eighth, a quarter or a half
where that leaves enough pixels, and need no interpreter. That took half of the processor's time of Pillow, which
decodes all of a photo (`tests/benchmarks/pipeline.py`). Pillow sees to everything else, and says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from PIL import Image

from keras_cnn import runtime
from keras_cnn.data import crops
from keras_cnn.data.augment import tensorflow
from keras_cnn.data.images import FILTERS, MODES, PLAIN_MODES, decoded_by, open_image, pixels_of, read_bounded
from keras_cnn.data.orders import ReadAhead
from keras_cnn.data.splits import Split
from keras_cnn.errors import BadImage
from keras_cnn.models.config import Preprocess

RATIOS = (1, 2, 4, 8)  # by which a JPEG is decoded smaller, at next to no cost
TURN = 0x0112  # EXIF's orientation
ENDS = b"\xff\xd9"  # a JPEG
Size = tuple[int, int]  # height, width
Part = np.ndarray  # top, left, height and width as shares of a photo's, see `crops.boxes`


class Parts:
    """Reads parts of the photos of a split. leave_out: whether to go on without a photo, told its name and fault."""

    def __init__(
        self, split: Split, preprocess: Preprocess, channels: int, leave_out: Callable[[str, BadImage], bool]
    ) -> None:
        self.split, self.preprocess, self.channels, self.leave_out = split, preprocess, channels, leave_out
        self.size, self.ahead = cast(Size, preprocess.size), ReadAhead(split)

    def batch(self, indices: Any, key: Any, labels: Any) -> tuple[Any, Any]:
        """Graph function: (images, labels) of a batch. key: of its draws; labels: of all photos.

        images: uint8 (n, *preprocess.size, channels), without those that are left out. labels: theirs, or the masks.
        """
        tf = tensorflow()
        height, width = self.size
        count = tf.shape(indices)[0]
        draws = tf.random.stateless_uniform([4, count], key)
        kinds = [tf.string, tf.int32, tf.int32, tf.uint8]
        blobs, windows, ratios, masks = tf.numpy_function(self._fetch, [indices, draws], kinds)
        for array, shape in ((blobs, [None]), (windows, [None, 4]), (ratios, [None])):
            array.set_shape(shape)
        plain = tf.cast(tf.where(ratios >= 0)[:, 0], tf.int32)
        jpegs = tf.data.Dataset.from_tensor_slices((plain, *(tf.gather(x, plain) for x in (blobs, windows, ratios))))
        made = jpegs.map(self._decode, num_parallel_calls=runtime.cores(), deterministic=True).ignore_errors()
        blank = tf.zeros((height, width, self.channels), tf.uint8)  # so that there is one, whatever failed
        made = made.concatenate(tf.data.Dataset.from_tensors((count, blank)))
        places, images = made.batch(tf.cast(count, tf.int64) + 1).get_single_element()
        places, images = places[:-1], images[:-1]

        def others() -> tuple[Any, Any, Any]:
            left = tf.sets.difference(tf.range(count)[None], places[None]).values
            kinds = [tf.bool, tf.uint8, tf.uint8]
            readable, more, drawn = tf.numpy_function(
                self._by_pillow, [tf.gather(indices, left), tf.gather(draws, left, axis=1)], kinds
            )
            readable.set_shape([None])
            more.set_shape([None, height, width, self.channels])
            every = tf.dynamic_stitch([places, left], [images, more])
            kept = tf.dynamic_stitch([places, left], [tf.ones_like(places, tf.bool), readable])
            of_masks = (
                masks
                if self.split.masks is None
                else tf.dynamic_stitch([places, left], [tf.gather(masks, places), drawn])
            )
            return every, of_masks, kept

        whole = tf.equal(tf.shape(places)[0], count)
        images, masks, kept = tf.cond(whole, lambda: (images, masks, tf.ones([count], tf.bool)), others)
        truth = tf.gather(labels, indices) if self.split.masks is None else masks
        images, truth = tf.cond(
            tf.reduce_all(kept),
            lambda: (images, truth),
            lambda: (tf.boolean_mask(images, kept), tf.boolean_mask(truth, kept)),
        )
        images.set_shape([None, height, width, self.channels])
        if self.split.masks is not None:
            truth.set_shape([None, height, width])
        return images, truth

    def _fetch(self, indices: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, ...]:
        """(bytes, what to decode of them, at which of RATIOS, parts of masks); of others than plain JPEGs, at -1."""
        self.ahead(indices.tolist())
        blobs, windows = np.full(len(indices), b"", object), np.zeros((len(indices), 4), np.int32)
        ratios = np.full(len(indices), -1, np.int32)
        masks = np.zeros((len(indices), *self.size), np.uint8) if self.split.masks else np.zeros(0, np.uint8)
        for n, i in enumerate(indices.tolist()):
            source = self.split.sources[i]
            try:
                with source.open() as file:
                    with open_image(file, source.name) as image:
                        width, height = image.size
                        if not _is_plain(image, self.channels):
                            continue
                    file.seek(0)
                    blob = read_bounded(file, source.name)
                if ENDS not in blob[-64:]:
                    continue
                part = self._part(width, height, draws[:, n])
                ratios[n], windows[n] = _window(part, (height, width), self.size)
                if self.split.masks:  # of the very pixels that are decoded
                    exact = windows[n] * RATIOS[ratios[n]] / [height, width, height, width]
                    masks[n] = self._mask(i, exact, (height, width))
            except Exception:  # of whatever kind, Pillow's way will tell
                ratios[n] = -1
                continue
            blobs[n] = blob
        return blobs, windows, ratios, masks

    def _decode(self, place: Any, blob: Any, window: Any, ratio: Any) -> tuple[Any, Any]:
        """Graph function: a part of a JPEG at the network's size."""
        tf = tensorflow()

        def at(ratio: int) -> Callable[[], Any]:
            told = {"channels": self.channels, "ratio": ratio}
            return lambda: tf.raw_ops.DecodeAndCropJpeg(contents=blob, crop_window=window, **told)

        return place, crops.resized(tf.switch_case(ratio, [at(ratio) for ratio in RATIOS]), self.size)

    def _by_pillow(self, indices: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, ...]:
        """(whether each photo is readable, its part, that of its mask)."""
        size, masked = self.size, self.split.masks is not None
        readable = np.ones(len(indices), bool)
        images = np.zeros((len(indices), *size, self.channels), np.uint8)
        masks = np.zeros((len(indices) * masked, *size), np.uint8)
        for n, i in enumerate(indices.tolist()):
            source = self.split.sources[i]

            def see(image: Image.Image, n: int = n, i: int = i) -> None:
                part = self._part(*image.size, draws[:, n])
                images[n] = _cut(image, part, self.preprocess, self.channels)
                if masked:
                    masks[n] = self._mask(i, part, (image.height, image.width))

            try:
                decoded_by(see, source.read, source.name, None if masked else self._hasten)
            except BadImage as error:
                if not self.leave_out(source.name, error):
                    raise
                readable[n] = False
        return readable, images, masks

    def _hasten(self, image: Image.Image) -> None:
        """Have a JPEG decoded smaller where even the smallest part of it keeps enough pixels."""
        enough = math.ceil(max(self.size) / math.sqrt(crops.LEAST / crops.RATIO))
        image.draft(image.mode, (enough, enough))

    def _part(self, width: int, height: int, draws: np.ndarray) -> Part:
        stretch = crops.stretch_of(width, height, self.preprocess)
        return crops.parts(np.array([stretch], np.float32), draws[:, None], np)[0]

    def _mask(self, i: int, part: Part, size: Size) -> np.ndarray:
        """The part of a mask, each pixel the nearest one."""
        mask = self.split.legend.read(self.split.masks[i], size)  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
        rows, columns = (
            np.clip(((part[axis] + (np.arange(n) + 0.5) / n * part[axis + 2]) * side).astype(int), 0, side - 1)
            for axis, n, side in zip((0, 1), self.size, size, strict=True)
        )
        return mask[np.ix_(rows, columns)]


def _is_plain(image: Image.Image, channels: int) -> bool:
    """Whether TensorFlow's operations show an image as Pillow does: a JPEG that stands upright, gray or in RGB."""
    same = image.format == "JPEG" and (image.mode, channels) in (("RGB", 3), ("L", 3), ("L", 1))
    return same and ("exif" not in image.info or image.getexif().get(TURN, 1) == 1)


def _window(part: Part, size: Size, seen: Size) -> tuple[int, np.ndarray]:
    """(which of RATIOS, top, left, height and width in whole pixels at that) of a part of a photo."""
    sides = np.array(size)
    which = max(i for i, ratio in enumerate(RATIOS) if ratio <= max((part[2:] * sides / seen).min(), 1))
    ratio = RATIOS[which]
    most = -(-sides // ratio)
    start = np.minimum(np.rint(part[:2] * sides / ratio), most - 1)
    end = np.clip(np.rint((part[:2] + part[2:]) * sides / ratio), start + 1, most)
    return which, np.concatenate([start, end - start]).astype(np.int32)


def _cut(image: Image.Image, part: Part, preprocess: Preprocess, channels: int) -> np.ndarray:
    """A part of Pillow's image at the network's size, by evaluation's filter."""
    (width, height), (top, left, tall, wide) = image.size, part.tolist()
    box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
    start = math.floor(box[0]), math.floor(box[1])
    end = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
    pixels = pixels_of(image.crop((*start, *end)), MODES[channels], preprocess.window)
    mode, (rows, columns) = PLAIN_MODES[channels], pixels.shape[:2]
    picture = Image.frombytes(mode, (columns, rows), pixels.tobytes())
    inside = (box[0] - start[0], box[1] - start[1], min(box[2] - start[0], columns), min(box[3] - start[1], rows))
    tall, wide = preprocess.size
    seen = picture.resize((wide, tall), FILTERS[preprocess.interpolation], inside)
    return np.asarray(seen).reshape(tall, wide, channels)
