"""Folders of images beside folders of masks with the same names, the splits above or below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from keras_cnn.data.files import Files, Parts, Source
from keras_cnn.data.labels import Labels, Wish
from keras_cnn.data.masks import legend_of_file, legend_of_values
from keras_cnn.data.splits import SPLIT_OF, Splits, agreed, in_list, labelled
from keras_cnn.errors import BadData

IMAGES, MASKS = "images", "masks"
NAMES = "classes.txt"


def found_in(files: Files) -> bool:
    """Whether there are folders `images` and `masks` that belong together, with images in both."""
    places = {kind: {parts[:at] for parts, at in _below(files, kind)} for kind in (IMAGES, MASKS)}
    return bool(places[IMAGES] & places[MASKS])


def read(where: str, files: Files, wish: Wish, **options: Any) -> Splits:
    """The data set of folders `images` and `masks`. options: see `splits.labelled`.

    Raises BadData, with up to ten of them, for images without a mask and masks without an image.
    """
    wish.choose(where, ["segmentation"], "it has folders of images and of masks")
    images, masks = (_by_name(where, files, kind) for kind in (IMAGES, MASKS))
    for some, others, what in ((images, masks, "images have no mask"), (masks, images, "masks have no image")):
        if lone := [some[key][0].name for key in sorted(some.keys() - others.keys())]:
            raise BadData(
                f"{where}: {len(lone)} {what} of the same name: {in_list(lone)}; add what is missing, or remove these."
            )
    keys = sorted(images)
    sources, drawn = (tuple(some[key][0] for key in keys) for some in (images, masks))
    words = agreed([images[key][1] for key in keys], [source.name for source in sources], where)
    named = [source for parts, source in sorted(files.files.items()) if parts[-1].lower() == NAMES]
    if len(named) > 1:
        raise BadData(f"{where}: {' and '.join(one.name for one in named)} name classes: keep one of them.")
    if named:
        legend = legend_of_file(named[0].text(), named[0].name)
        notes = tuple(f"{name!r} is ignored" for name in legend.ignored)
    else:
        legend, notes = legend_of_values(drawn, where), (f"no {NAMES}, so classes are the values that occur",)
    labels = Labels("segmentation", legend.names, np.zeros(len(keys), np.int32), notes)
    found = labelled(sources, labels, words, where, masks=drawn, legend=legend, **options)
    used = {source.name for source in (*sources, *drawn, *named)}
    others = [source.name for source in files.files.values() if source.name not in used]
    return replace(found, ignored=tuple(sorted([*files.skipped, *others])))


def _below(files: Files, kind: str) -> list[tuple[Parts, int]]:
    """(place, which part of it is the folder of this kind) of each image file in such a folder."""
    found = []
    for parts in files.images:
        folders = [part.lower() for part in parts[:-1]]
        if IMAGES in folders or MASKS in folders:
            at = next(i for i, part in enumerate(folders) if part in (IMAGES, MASKS))
            found += [(parts, at)] * (folders[at] == kind)
    return found


def _by_name(where: str, files: Files, kind: str) -> dict[Parts, tuple[Source, str | None]]:
    """(image, its split) by what an image and its mask share: their place without this folder and without a suffix."""
    found: dict[Parts, tuple[Source, str | None]] = {}
    for parts, at in _below(files, kind):
        around = [part.lower() for part in (*parts[max(at - 1, 0) : at], *parts[at + 1 : -1][:1])]
        key = (*parts[:at], *parts[at + 1 : -1], PurePosixPath(parts[-1]).stem)
        source = replace(files.files[parts], key="/".join(key))
        if key in found:
            raise BadData(f"{where}: {found[key][0].name} and {source.name} have the same name; keep one of them.")
        found[key] = source, next((SPLIT_OF[word] for word in around if word in SPLIT_OF), None)
    return found
