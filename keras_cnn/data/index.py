"""Which images there are, and what their labels are: folders, zip files, tables, TFDS, scikit-learn's digits."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.data import hub_sets, mask_folders, prepared, shards, tables
from keras_cnn.data.files import Files, Parts, Source, files_of, local, regular
from keras_cnn.data.images import as_png, printable
from keras_cnn.data.labels import ANY, Wish
from keras_cnn.data.splits import SPLIT_OF, Split, Splits, Tree, arranged, check_classes, check_share
from keras_cnn.data.tables import Table
from keras_cnn.errors import BadData, BadSpec, MissingPackage

__all__ = ["Split", "Splits", "arranged", "find_images", "index"]

# A name that is made of such a word and others: train2017, my_val, TestSet.
LIKE_A_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF)})(set|data|images)?(?![a-z])")


def index(
    data: str | os.PathLike[str] | Table,
    *,
    val_split: float = 0.2,
    seed: int = 0,
    training: bool = True,
    wish: Wish = ANY,
    skip_bad: bool = False,
) -> Splits:
    """Find the images and labels of a data set, without decoding any.

    data: one of
        a folder, or zip of a folder (read in place), with one subfolder per class, or with train/, val/ and test/
        above them (also training/; valid/, validation/, dev/; testing/; in any case);
        a folder or zip with images/ and masks/ of the same names, the splits above or below, and `classes.txt`: a name
        a line, by the number that masks have, or `name red green blue`. 255, and classes called unlabelled, void,
        ignore or unknown, do not count; without the file, classes are the values that occur;
        a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`), or a `Table` that names its columns;
        a folder that `pack` wrote; a `.tar`, or a folder of them, as WebDataset has them, see `shards.foreign`;
        a data set of the Hub in its usual layouts: a folder with `metadata.csv` or `.jsonl`, or of Parquet files with
        images in them; by name, "hf://datasets/OWNER/NAME", where the package `datasets` is installed;
        for a network whose task is reconstruction, a folder of images at any depth, or of splits of them;
        "tfds:NAME", a prepared TensorFlow data set; "digits", the 1797 handwritten digits of scikit-learn.
    Class order: sorted names; that of TFDS and of the Hub; that of `classes.txt`. Links are followed, except back to a
    folder above; pipes and devices are not read.
    val_split: where there is no val, the share of each class's train images that becomes val: at least one image, if
    the class has two; chosen by a hash of seed and file name, so that other files do not change a file's side much
    and a folder and its zip split alike. 0 leaves val None. Where an image has no single class, of all train images.
    training: False for images to evaluate on: there may be one class, and no train; nothing is split.
    wish: what the labels are to be; see `Wish`. skip_bad: leave damaged shards out, which a note counts.
    Raises BadData, naming the folder, the row or the class, for what cannot be trained on.
    """
    check_share(val_split)
    table = data if isinstance(data, Table) else Table(data)
    name, options = printable(table.path), {"val_split": val_split, "seed": seed, "training": training}
    if name.startswith(prepared.TFDS):
        return prepared.read(table, wish, **options)
    if name.startswith(hub_sets.HUB):
        return hub_sets.by_name(table, wish, **options)
    if name == "digits":
        return replace(_of_classes(name, _digits(), wish, **options), chiral=True)
    if (path := Path(table.path)).suffix.lower() in tables.KINDS and not path.is_dir():
        return tables.read(table, wish, **options)
    if shards.packed_at(path) or shards.damaged_at(path):
        return shards.read(path, wish, skip_bad=skip_bad, **options)
    if path.suffix.lower() == ".tar" and path.is_file():
        lone = Source(path.name, name, partial(open, path, "rb"))
        return shards.foreign(name, [((path.name,), lone)], Files(), table, wish, skip_bad=skip_bad, **options)
    found = files_of(path)
    if path.is_dir() and (tars := shards.tars_in(found)):
        return shards.foreign(name, tars, found, table, wish, skip_bad=skip_bad, **options)
    if metadata := hub_sets.metadata_in(found):
        return hub_sets.image_folder(name, found, metadata, table, wish, **options)
    if not (images := found.images) and (parquet := hub_sets.parquet_in(found)):
        return hub_sets.parquet_folder(name, found, parquet, table, wish, **options)
    if isinstance(data, Table):
        raise BadSpec(f"{name}: there is no table in it; give the folder itself, without kc.Table (no --labels).")
    if wish.task != "classification" and mask_folders.found_in(found):
        return mask_folders.read(name, found, wish, **options)
    if wish.likely == "reconstruction":
        return _unlabelled(name, found, images, **options)
    tree, ignored = _arrange(name, found, images, training)
    return replace(_of_classes(name, tree, wish, **options), ignored=tuple(ignored))


def _of_classes(where: str, tree: Tree, wish: Wish, *, val_split: float, seed: int, training: bool) -> Splits:
    wish.choose(where, ["classification"], "each image is in one class")
    every = sorted({label for classes in tree.values() for label in classes})
    names = tuple(dict.fromkeys([*tree.get("train", ()), *every]))
    check_classes(tree, where, training)
    if not any(tree.values()):
        raise BadData(f"{where}: no class folders found; give a folder with one subfolder of images for each class.")
    return arranged(tree, where, names, val_split if training else 0.0, seed)


def _unlabelled(
    where: str, found: Files, images: dict[Parts, Source], *, val_split: float, seed: int, training: bool
) -> Splits:
    """All images, at any depth, for a network that learns the images themselves; outermost folders may be splits."""
    if not images:
        raise BadData(f"{where}: no images found ({len(found.files)} other files).")
    # A single folder around everything, as zips have it, is stepped into.
    levels = zip(*(parts[:-1] for parts in images), strict=False)  # as deep as the image that lies highest
    around = takewhile(lambda names: len(set(names)) == 1 and names[0].lower() not in SPLIT_OF, levels)
    top = len(list(around))
    split_of = {parts: SPLIT_OF.get(parts[top].lower()) if len(parts) > top + 1 else None for parts in images}
    tree: Tree = {}
    for parts, split in sorted(split_of.items()):
        if split is None and any(split_of.values()):
            raise BadData(f"{where}: {images[parts].name} is in none of its splits; move it into one.")
        every = tree.setdefault(split or "train", {"image": []})
        every["image"].append(replace(images[parts], key="/".join(parts[top:])))
    if training and "train" not in tree:
        raise BadData(f"{where}: has {' and '.join(tree)} but no train folder; add one.")
    ignored = [*found.skipped, *(found.files[parts].name for parts in found.files.keys() - images.keys())]
    splits = arranged(tree, where, ("image",), val_split if training else 0.0, seed)
    return replace(splits, ignored=tuple(sorted(ignored)))


def find_images(path: str | os.PathLike[str]) -> list[Source]:
    """The regular image files of a folder, at any depth and in order, or of a zip; another path is an image itself.

    path: also as a `file://` address. Raises BadData for a folder or zip without images, and for another machine's.
    """
    path = local(path)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        return [Source(path.name, printable(path), partial(regular, path))]
    files = files_of(path)
    found = files.images
    if not found:
        raise BadData(f"{printable(path)}: no images found ({len(files.files)} other files).")
    return [replace(found[parts], key="/".join(parts)) for parts in sorted(found)]


def _arrange(where: str, found: Files, images: dict[Parts, Source], training: bool) -> tuple[Tree, list[str]]:
    """Sort the images of a folder or zip into splits and classes; other files are ignored, and listed."""
    if not images:
        others = len(found.files)
        raise BadData(f"{where}: no images found ({others} other files); give one subfolder of images per class.")
    ignored = [*found.skipped, *(found.files[parts].name for parts in found.files.keys() - images.keys())]
    direct, full = {parts[:-1] for parts in images}, {parts[:n] for parts in images for n in range(1, len(parts))}

    def holds_folders_only(prefix: Parts) -> bool:
        return prefix not in direct and any(parts[:-1] == prefix for parts in found.folders)

    # A single folder around everything, as zips have it, is stepped into.
    top: Parts = ()
    while (
        len(inner := _below(found.folders, top)) == 1
        and inner[0].lower() not in SPLIT_OF
        and holds_folders_only((*top, *inner))
    ):
        top = (*top, *inner)
    split_folders = [name for name in inner if name.lower() in SPLIT_OF and holds_folders_only((*top, name))]
    prefixes = {SPLIT_OF[name.lower()]: (*top, name) for name in split_folders}
    if len(prefixes) < len(split_folders):
        raise BadData(f"{where}: {' and '.join(split_folders)} mean the same split; keep one of them.")
    _check_names(where, [name for name in inner if (*top, name) in full], split_folders)
    if training and prefixes and "train" not in prefixes:
        raise BadData(f"{where}: has {' and '.join(split_folders)} but no train folder; add one.")
    prefixes = prefixes or {"train": top}

    tree: Tree = {split: {name: [] for name in _below(found.folders, prefix)} for split, prefix in prefixes.items()}
    for name in (name for classes in tree.values() for name in classes):
        if (shown := printable(name)) != name:
            raise BadData(f"{where}: the class folder {shown} has a name that is not UTF-8; rename it.")
    place: dict[Parts, list[Source]] = {
        (*prefix, name): tree[split][name] for split, prefix in prefixes.items() for name in tree[split]
    }
    depths = {len(prefix) + 1 for prefix in prefixes.values()}
    for parts, source in images.items():
        home = next((place[parts[:n]] for n in depths if len(parts) > n and parts[:n] in place), None)
        if home is None:
            ignored.append(source.name)
        else:
            home.append(Source("/".join(parts[len(top) :]), source.name, source.open))
    return tree, sorted(ignored)


def _check_names(where: str, folders: list[str], splits: list[str]) -> None:
    """Refuse folders of images that are splits by their names, but would be taken for classes or left out.

    folders: those that hold images. splits: those of them that were understood. A class may be called "train".
    """
    like = {name: SPLIT_OF[found[1]] for name in folders if (found := LIKE_A_SPLIT.search(name.lower()))}
    left = [name for name in like if name not in splits]
    taken_for_classes = not splits and len(set(like.values())) > 1 and 2 * len(like) >= len(folders)
    if left and (splits or taken_for_classes):
        names, one = " and ".join(map(printable, left)), len(left) == 1
        raise BadData(
            f"{where}: {f'{names} looks like a split' if one else f'{names} look like splits'}, not like "
            f"{'a class' if one else 'classes'}; call splits train, val and test, and give each one subfolder of "
            "images for each class."
        )


def _below(folders: set[Parts], prefix: Parts) -> list[str]:
    return sorted(parts[-1] for parts in folders if parts[:-1] == prefix)


def _digits() -> Tree:
    """As PNG bytes, so that all that follows knows one kind of image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackage("digits come with scikit-learn; pip install scikit-learn.") from error
    digits: Any = load_digits()
    classes: dict[str, list[Source]] = {str(name): [] for name in digits.target_names}
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels = (image * 255 / 16).round().astype(np.uint8)
        classes[str(label)].append(Source(f"{i:04}", f"digits[{i}]", partial(as_png, pixels)))
    return {"train": classes}
