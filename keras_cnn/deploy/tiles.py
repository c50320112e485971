"""Images too large to be seen at once: by overlapping tiles, faded into each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_cnn.data.stream import in_batches
from keras_cnn.deploy.outputs import scores
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.fields import known_options
from keras_cnn.terminal import progress


@known_options
def predict_tiles(
    network: Any,
    image: Any,
    *,
    tile: int | tuple[int, int] | None = None,
    overlap: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Scores of every pixel of one image: float32 (height, width, classes), the network's own output.

    Tiles are spread evenly, the first and the last at the image's ends. Where two overlap, one fades into the other
    along a smooth step, so that a pixel at a tile's border, which lacks what lies beyond, counts for next to nothing.
    Where the tiles agree, the scores are theirs to the bit.
    Memory: the whole output, one row of tiles as wide as the image, and one batch; nothing else grows with the image.

    network: a Keras model whose output has the height and width of its input, such as a U-Net.
    image: (height, width, channels), raw values as the network takes them.
    tile: side of the tiles in pixels, or (height, width); by default the size that the network was built for. A side
        that is not less than the image's is the image's: small images are seen whole.
    overlap: pixels that neighbours share at least; by default a quarter of the tile's shorter side. Twice the distance
        from which the network still sees what changes an answer is enough for everything.
    batch_size: tiles that the network sees at once.
    Raises BadSpec for a tile that the network cannot take and for a network that does not answer each pixel, BadData
    for an array of another shape.

    >>> import keras_cnn as kc, numpy as np
    >>> network = kc.build("resnet20", head=kc.UNet(classes=2), input_shape=(None, None, 3))
    >>> kc.predict_tiles(network, np.zeros((50, 90, 3), "uint8"), tile=32).shape
    (50, 90, 2)
    """
    image = np.asarray(image)
    channels = network.input_shape[-1]
    if image.ndim != 3 or image.shape[-1] != channels:
        raise BadData(f"image has the shape {image.shape}: give one image (height, width, {channels}).")
    sides = _sides(network, image.shape[:2], tile)
    overlap = min(sides) // 4 if overlap is None else overlap
    if not 0 <= overlap < min(sides):
        raise BadSpec(f"overlap={overlap!r}: give pixels from 0 up to, not including, the tile's {min(sides)}.")
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size!r}: give 1 or more.")
    (height, width), (rows, columns) = sides, (starts(*each, overlap) for each in zip(image.shape, sides, strict=False))
    places = list(itertools.product(rows, columns))
    answers = _answers(network, (image[y : y + height, x : x + width] for y, x in places), batch_size)
    answers = iter(progress(answers, "predicting tiles", len(places)))
    output: Any = None
    below = 0  # rows of the output that are there
    for y in rows:
        band, right = None, 0
        for x in columns:
            piece = next(answers)
            if band is None:
                band = np.empty((height, image.shape[1], piece.shape[-1]), "float32")
            right = _lay(band.swapaxes(0, 1), piece.swapaxes(0, 1), x, right)
        assert band is not None
        if output is None:
            output = np.empty((*image.shape[:2], band.shape[-1]), "float32")
        below = _lay(output, band, y, below)
    return output


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side, spread evenly, so that neighbours share at least `overlap`.

    >>> starts(100, 40, 10)
    [0, 30, 60]
    """
    steps = math.ceil((size - tile) / (tile - overlap))
    return [round(i * (size - tile) / steps) for i in range(steps + 1)] if steps > 0 else [0]


def _sides(network: Any, size: tuple[int, ...], tile: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the tiles: what is asked for, as far as the network and the image go."""
    own = network.input_shape[1:3]
    asked = own if tile is None else (tile, tile) if isinstance(tile, int) else tuple(tile)
    if None in asked:
        raise BadSpec(f"{network.name} takes images of any size: give tile=, the side of the tiles in pixels.")
    if len(asked) != 2 or min(asked) < 1:
        raise BadSpec(f"tile={tile!r}: give a side in pixels, or (height, width).")
    if any(fixed not in (None, side) for fixed, side in zip(own, asked, strict=True)):
        raise BadSpec(f"tile={tile!r}: {network.name} takes images of {own[0]}x{own[1]} only, so that tiles are that.")
    sides = tuple(min(side, length) for side, length in zip(asked, size, strict=True))
    if any(fixed not in (None, side) for fixed, side in zip(own, sides, strict=True)):
        raise BadData(
            f"the image of {size[0]}x{size[1]} is smaller than the {own[0]}x{own[1]} that {network.name} takes: build "
            "it with input_shape=(None, None, channels), or enlarge the image."
        )
    return sides[0], sides[1]


def _answers(network: Any, tiles: Iterator[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """The network's scores of each tile, (height, width, classes)."""
    for batch in in_batches(tiles, batch_size):
        found = scores(network, np.stack(batch))
        if found.ndim != 4 or found.shape[1:3] != batch[0].shape[:2]:
            raise BadSpec(f"{network.name} gives {found.shape[1:]} for a tile, not scores of each pixel: a U-Net does.")
        yield from found


def _lay(canvas: np.ndarray, piece: np.ndarray, start: int, end: int) -> int:
    """Lay a piece on a canvas along the first axis, faded in over what is there already, up to `end`: its new end.

    A step from what is there towards the piece leaves equal numbers as they are, which a sum of shares would not.
    """
    shared, after = end - start, start + len(piece)
    step = (np.arange(shared, dtype="float32") + 0.5) / max(shared, 1)
    share = (step * step * (3 - 2 * step))[:, None, None]
    canvas[start:end] += share * (piece[:shared] - canvas[start:end])
    canvas[end:after] = piece[shared:]
    return after
