"""Masks: images whose pixels are classes, by number or by colour, as people draw them and as networks learn them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from PIL import Image

from keras_cnn.data.files import Source
from keras_cnn.data.images import decoded_by, resize_and_crop
from keras_cnn.errors import BadData
from keras_cnn.models.config import Preprocess, check_class_names
from keras_cnn.terminal import progress

IGNORED = 255  # in every mask that leaves this module: a pixel that is of no class, and does not count
MOST = 255  # classes: one for each other value
IGNORED_NAMES = frozenset({"unlabelled", "unlabeled", "void", "ignore", "ignored", "unknown"})
COLOUR = re.compile(r"(.*?)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)")  # a name and its red, green and blue
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Legend:
    """What the pixels of masks mean. numbers, colours: the class of a value, or IGNORED; no colours: only numbers.

    names: of the classes. ignored: what their file calls those that do not count.
    """

    names: tuple[str, ...]
    numbers: Mapping[int, int]
    colours: Mapping[Colour, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def read(self, source: Source, size: tuple[int, int] | None = None) -> np.ndarray:
        """A mask file as classes: uint8 (height, width). size: that it must have, which is that of its image.

        Raises BadImage where it cannot be read; BadData where it has another size, or a value without a class.
        """
        values, coloured = read_values(source, self.colours)
        if size is not None and values.shape[:2] != size:
            found, wanted = (f"{width}x{height}" for height, width in (values.shape[:2], size))
            raise BadData(f"{source.name}: the mask is {found}, its image {wanted}: give both the same size.")
        return self.classes(values, source.name, coloured)

    def classes(self, values: np.ndarray, name: str, coloured: bool = False) -> np.ndarray:
        """The class of each value, uint8; BadData names one that has none."""
        known = {_code(colour): label for colour, label in self.colours.items()} if coloured else self.numbers
        codes = np.array(sorted(known), np.int64)
        at = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
        found = np.array([known[code] for code in codes.tolist()], np.uint8)[at]
        if (strange := values[codes[at] != values]).size:
            value = int(strange.flat[0])
            shown = f"the colour {value >> 16} {value >> 8 & 255} {value & 255}" if coloured else f"the value {value}"
            raise BadData(
                f"{name}: {shown} has no class ({len(self.names)} are named: {', '.join(self.names[:5])}...): name it, "
                f"or write {IGNORED} where pixels are not to count."
            )
        return found


def legend(names: Sequence[str], colours: Sequence[Colour] = ()) -> Legend:
    """The legend of classes in the order of their numbers: those whose names say so are ignored, and so is 255."""
    kept = [name for name in names if name.lower() not in IGNORED_NAMES]
    check_class_names(tuple(kept))
    if not 2 <= len(kept) <= MOST:
        raise BadData(f"the masks have {len(kept)} classes that count: give 2 to {MOST}.")
    of = [kept.index(name) if name in kept else IGNORED for name in names]
    ignored = tuple(name for name in names if name not in kept)
    return Legend(tuple(kept), {**dict(enumerate(of)), IGNORED: IGNORED}, dict(zip(colours, of, strict=False)), ignored)


def legend_of_file(text: str, name: str) -> Legend:
    """The legend that a `classes.txt` has: a line a class, by number; each with its red, green and blue, or none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [COLOUR.fullmatch(line) for line in lines]
    if not any(found):
        return legend(lines)
    if not all(found):
        line = lines[found.index(None)]
        raise BadData(f"{name}: {line!r} has no colour, others have one: write `name red green blue` on each line.")
    names = [one[1] for one in found if one]
    colours = [(int(one[2]), int(one[3]), int(one[4])) for one in found if one]
    if (most := max(max(colour) for colour in colours)) > 255:
        raise BadData(f"{name}: a colour has the value {most}: give red, green and blue from 0 to 255.")
    if len(set(colours)) < len(colours):
        raise BadData(f"{name}: two classes have the same colour: give each its own.")
    return legend(names, colours)


def legend_of_values(sources: Sequence[Source], where: str) -> Legend:
    """The legend of masks that come without names: a class for each value that occurs, called by its number.

    Values of 0 and 255 alone are background and object, as masks of one thing are usually drawn.
    """
    with ThreadPoolExecutor() as pool:
        steps = pool.map(lambda source: np.unique(read_values(source)[0]), sources)
        bar = progress(steps, f"reading {len(sources)} masks", len(sources))
        values = sorted(set().union(*(some.tolist() for some in bar)))
    return numbered(values, where)


def numbered(values: Iterable[int], where: str) -> Legend:
    """The legend of the values of masks, each called by its number."""
    values = sorted(set(values))
    if values == [0, IGNORED]:
        return Legend(("background", "object"), {0: 0, IGNORED: 1})
    counted = [value for value in values if value != IGNORED]
    if not 2 <= len(counted) <= MOST:
        raise BadData(f"{where}: the masks hold {len(counted)} values that count: give 2 to {MOST} classes.")
    return Legend(tuple(map(str, counted)), {**{v: i for i, v in enumerate(counted)}, IGNORED: IGNORED})


def read_values(source: Source, colours: Mapping[Colour, int] | None = None) -> tuple[np.ndarray, bool]:
    """(values of a mask file, int64 (height, width), whether they are colours, as red * 65536 + green * 256 + blue).

    Numbers are those of gray images, and indices of a palette; where colours are given, those are looked at instead,
    unless the file is gray and they are not.
    """
    return decoded_by(partial(_values, source.name, colours or {}), source.read, source.name)


def at_size(mask: np.ndarray, preprocess: Preprocess, name: str = "mask") -> np.ndarray:
    """A mask, uint8 (height, width), resized and cropped exactly as its image is, each pixel the nearest one."""
    return resize_and_crop(mask[..., None], nearest(preprocess), name=name)[..., 0]


def nearest(preprocess: Preprocess) -> Preprocess:
    return replace(preprocess, interpolation="nearest")


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _values(name: str, colours: Mapping[Colour, int], image: Image.Image) -> tuple[np.ndarray, bool]:
    if image.format == "JPEG":
        raise BadData(f"{name}: a JPEG does not keep the values of a mask; save masks as PNG.")
    gray = image.mode in ("1", "L", "I", "I;16", "I;16B")
    if colours and not (gray and any(len(set(colour)) > 1 for colour in colours)):
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        return red << 16 | green << 8 | blue, True
    if gray or image.mode == "P":
        return np.asarray(image).astype(np.int64), False
    bands = np.asarray(image.convert("RGB")).astype(np.int64)
    if (bands != bands[..., :1]).any():
        raise BadData(
            f"{name}: the mask holds colours, and no class has one: write a line `name red green blue` for each class "
            "into classes.txt."
        )
    return bands[..., 0], False
