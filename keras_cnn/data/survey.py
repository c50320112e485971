"""What a look at some of its files tells of a data set: how large its images are, and how many bits they use."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.data.files import Source
from keras_cnn.data.images import bit_window, brightest, in_words, is_deep, open_image
from keras_cnn.errors import DataWarning
from keras_cnn.terminal import progress

SAMPLE = 200  # files whose headers are read
PER_CLASS = 5  # classes that are named
Window = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """What some of a data set's files tell. sizes: (width, height), as they are seen, of those that can be read.

    brightest: the largest value of the gray images of more than 8 bits among them; None where there are none.
    """

    sizes: tuple[tuple[int, int], ...]
    brightest: int | None = None


def look(sources: Sequence[Source], most: int | None = SAMPLE, bar: str = "") -> Look:
    """Open so many files, spread evenly over all; of most of them the header is enough. bar: of progress, if any."""

    def one(source: Source) -> tuple[tuple[int, int], int | None] | None:
        try:
            with source.open() as file, open_image(file, source.name) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return (height, width) if turned else (width, height), brightest(image) if is_deep(image) else None
        except Exception:  # whoever decodes it says what is wrong
            return None

    some = sources if most is None else sources[:: max(1, math.ceil(len(sources) / most))]
    with ThreadPoolExecutor() as pool:
        steps = pool.map(one, some)
        found = [seen for seen in (progress(steps, bar, len(some)) if bar else steps) if seen]
    tops = (top for _, top in found if top is not None)
    return Look(tuple(size for size, _ in found), max(tops, default=None))


def window(seen: Look, sources: Sequence[Source], of_weights: Window | None) -> Window | None:
    """The values of gray images of more than 8 bits that become 0 and 255; None where a look at the sources saw none.

    They are those of the weights, if these have seen such images; else of the fewest bits that hold all of them: one
    image alone would not tell. Images that no sample shows are told of by `read_image`. Either way a DataWarning says
    what was understood.
    """
    top = seen.brightest
    if top is None:
        return of_weights
    if of_weights:
        if top > of_weights[1]:
            text = f"there are gray values of {top}, above the window of the weights, in which {in_words(of_weights)}"
            warnings.warn(f"{text}: brighter ones are seen as white; load_data(window=...) is another.", DataWarning, 3)
        return of_weights
    whole = look(sources, most=None, bar=f"measuring {len(sources)} images")
    found = bit_window(max(top, whole.brightest or 0))
    text = f"gray images of more than 8 bits use {int(found[1]).bit_length()}, so {in_words(found)}"
    warnings.warn(f"{text}; load_data(window=(low, high)) changes that.", DataWarning, stacklevel=3)
    return found


def counts(labels: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Images of each class, or that show it. labels: numbers (n,), 0 and 1 (n, classes), or masks (n, h, w)."""
    if labels.ndim == 1:
        found = np.bincount(labels, minlength=len(names))
    elif labels.ndim == 2:
        found = labels.sum(0, dtype=np.int64)
    else:
        found = np.zeros(256, np.int64)
        for mask in labels:
            found += np.bincount(mask.ravel(), minlength=256) > 0
    return dict(zip(names, found[: len(names)].tolist(), strict=True))


def summary(data: Any) -> str:
    """One line on a `Data`: images by split, what their labels mean, their size and how they are seen."""
    kinds = {"train": "training", "val": "validation", "test": "test"}
    parts = [f"{count:,} {kinds[name]}" for name, count in data.sizes.items()]
    images = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    lines = [f"{images} images {_of_labels(data)}", *data.splits.notes]
    height, width = data.preprocess.size
    if data.look.sizes:
        wide, tall = (round(statistics.median(side)) for side in zip(*data.look.sizes, strict=True))
        about = "" if len(set(data.look.sizes)) == 1 else "about "
        lines.append(f"images of {about}{wide}x{tall} pixels are seen at {width}x{height}")
    if data.preprocess.window:
        lines.append(f"gray values {in_words(data.preprocess.window)}")
    if data.skipped:
        lines.append(f"{len(data.skipped):,} unreadable ones left out")
    lines.append(_kept(data))
    return "; ".join(lines)


def _kept(data: Any) -> str:
    """Which images are held decoded, in how much memory, and which are read anew for each pass."""
    anew = [name for name in data.sizes if name not in data.held or (name == "train" and data.streams)]
    size = sum(part.size for part in data.held.values())
    held = f"held decoded, {size / 2**20:,.1f} MiB" if data.held else ""
    return ", ".join(filter(None, [held, f"{' and '.join(anew)} decoded anew for each pass" if anew else ""]))


def _of_labels(data: Any) -> str:
    """What the labels mean, with their classes, or with what is predicted."""
    names, counts = data.class_names, next(iter(data.counts.values()), None)
    classes = f"{len(names):,} classes ({_some(counts) if counts else _first(names)})"
    if data.task == "regression":
        return f"to predict {_first(names)}"
    return {"multilabel": "of any of ", "segmentation": "with masks of "}.get(data.task, "of ") + classes


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:PER_CLASS], "..."] if len(names) > PER_CLASS else names)


def _some(counts: Mapping[str, int]) -> str:
    some = [f"{name} {count:,}" for name, count in list(counts.items())[:PER_CLASS]]
    return ", ".join([*some, "..."] if len(counts) > PER_CLASS else some)
