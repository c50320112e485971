"""Which images there are, and of which class: folders, zip files, TFDS, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from keras_cnn.data.files import Parts, Source, Spool, files_of
from keras_cnn.data.images import as_png, printable
from keras_cnn.errors import BadData, BadSpec, MissingPackage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_OF |= dict.fromkeys(("validation", "valid", "val", "dev"), "val")
# A name that is made of such a word and others: train2017, my_val, TestSet.
LIKE_A_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF)})(set|data|images)?(?![a-z])")
CHIRAL = frozenset({"mnist", "emnist", "kmnist", "omniglot", "svhn_cropped"})  # glyphs: a mirror image is another sign
# What `tfds build` does, which needs Apache Beam and more whatever it builds.
PREPARE = "import tensorflow_datasets as tfds; tfds.builder('{}').download_and_prepare()"


@dataclass(frozen=True)
class Split:
    """Images in order, and their labels: int32 (n,), indices into the class names."""

    sources: tuple[Source, ...]
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set by name. ignored: files that are no images, or in no class; chiral: images must not be mirrored.

    content: a hash of the images, where they are arrays and have no names of their own.

    train is None only where `index` was not asked for a data set to train on.
    """

    train: Split | None
    val: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    chiral: bool = False
    content: str = ""
    task: str = "classification"

    def items(self) -> list[tuple[str, Split]]:
        """(name, Split) of those that hold images, in the order train, val, test."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, split) for name, split in named if split is not None and split.sources]


Tree = dict[str, dict[str, list[Source]]]  # split -> class -> images


def index(data: str | os.PathLike[str], *, val_split: float = 0.2, seed: int = 0, training: bool = True) -> Splits:
    """Find the images and classes of a data set, without decoding any.

    data: folder, or zip of a folder (read in place), with one subfolder per class, or with train/, val/ and test/
    above them (also training/; valid/, validation/, dev/; testing/; in any case); "tfds:NAME" for a prepared
    TensorFlow data set; "digits" for the 1797 handwritten digits of scikit-learn. Class order: sorted names; that of
    TFDS. Links are followed, except back to a folder above; pipes and devices are not read.
    val_split: where there is no val, the share of each class's train images that becomes val: at least one image, if
    the class has two; chosen by a hash of seed and file name, so that other files do not change a file's side much
    and a folder and its zip split alike. 0 leaves val None.
    training: False for images to evaluate on: there may be one class, and no train; nothing is split.
    Raises BadData, naming the folder or class, for what cannot be trained on.
    """
    if not 0 <= val_split < 1:
        raise BadSpec(f"val_split={val_split!r}: give the share of images kept for validation, from 0 up to 1.")
    name, chiral = printable(data), False
    if name == "digits":
        tree, ignored, chiral = _digits(), [], True
    elif name.startswith("tfds:"):
        (tree, ignored), chiral = _tfds(name, training), name[5:].split("/")[0].split(":")[0] in CHIRAL
    else:
        tree, ignored = _arrange(Path(data), training)
    every = sorted({label for classes in tree.values() for label in classes})
    names = tuple(dict.fromkeys([*tree.get("train", ()), *every]))
    _check(tree, name, training)
    return replace(
        arranged(tree, name, names, val_split if training else 0.0, seed), ignored=tuple(ignored), chiral=chiral
    )


def arranged(tree: Tree, where: str, names: tuple[str, ...], val_split: float, seed: int) -> Splits:
    """A data set of sources by split and class; where there is no val, a share of train becomes that."""
    if "val" not in tree and val_split:
        tree |= _divide(tree["train"], val_split, seed)
        if not any(tree["val"].values()):
            raise BadData(f"{where}: no class has two images, so that none is left to validate on; add images.")
    splits = {split: _flatten(classes, names) for split, classes in tree.items()}
    return Splits(train=splits.get("train"), val=splits.get("val"), test=splits.get("test"), class_names=names)


def find_images(path: str | os.PathLike[str]) -> list[Source]:
    """The regular image files of a folder, at any depth and in order, or of a zip; another path is an image itself.

    Raises BadData for a folder or zip without images.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        return [Source(path.name, printable(path), partial(_regular, path))]
    files = files_of(path).files
    found = [files[parts] for parts in sorted(files) if PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES]
    if not found:
        raise BadData(f"{printable(path)}: no images found ({len(files)} other files).")
    return found


def _regular(path: Path) -> IO[bytes]:
    """A pipe or a device would be read for ever."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.open("rb")


def _flatten(classes: dict[str, list[Source]], names: tuple[str, ...]) -> Split:
    sources = [sorted(classes.get(name, []), key=lambda source: source.key) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(some) for some in sources])
    return Split(tuple(source for some in sources for source in some), labels)


def _divide(classes: dict[str, list[Source]], val_split: float, seed: int) -> Tree:
    parts: Tree = {"train": {}, "val": {}}
    for name, sources in classes.items():
        ranked = sorted(
            sources, key=lambda source: hashlib.sha256(f"{seed}/{source.key}".encode("utf-8", "surrogatepass")).digest()
        )
        count = min(max(round(len(ranked) * val_split), 1), len(ranked) - 1)
        parts["val"][name], parts["train"][name] = ranked[:count], ranked[count:]
    return parts


def _draw(seed: int, key: str) -> bytes:
    """A hash of a key, whatever bytes it holds."""
    return hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogatepass")).digest()


def _check(tree: Tree, where: str, training: bool) -> None:
    names = tree.get("train", {}).keys()
    for split, classes in tree.items():
        if training and (unknown := sorted(classes.keys() - names)):
            raise BadData(
                f"{where}: {split} has the class {unknown[0]!r}, which train lacks; add it there or remove it."
            )
        if empty := [name for name, sources in classes.items() if not sources]:
            raise BadData(f"{where}: the class {empty[0]!r} of {split} holds no images; add some or remove it.")
        for name in classes:
            if (shown := printable(name)) != name:
                raise BadData(f"{where}: the class folder {shown} has a name that is not UTF-8; rename it.")
    if training and len(names) < 2:
        found = f"only one class ({next(iter(names))!r})" if names else "no class folders"
        raise BadData(
            f"{where}: {found} found; give a folder with one subfolder of images for each of two classes or more."
        )
    if not any(tree.values()):
        raise BadData(f"{where}: no class folders found; give a folder with one subfolder of images for each class.")


def _arrange(root: Path, training: bool) -> tuple[Tree, list[str]]:
    """Sort a folder's or zip's files into splits and classes; the rest are ignored, and listed."""
    where, found = printable(root), files_of(root)
    images = {
        parts: source for parts, source in found.files.items() if PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES
    }
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


def _tfds(name: str, training: bool) -> tuple[Tree, list[str]]:
    """Reads prepared files only: neither downloads nor runs the data set's own code.

    Its files can be read in order only, so that the encoded images are laid down on disk.
    """
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files
    except ImportError as error:
        raise MissingPackage(f"{name} needs tensorflow-datasets; pip install tensorflow-datasets.") from error
    try:
        builder: Any = builder_from_files(name.removeprefix("tfds:"))
    except Exception as error:  # absent, or a name that TFDS cannot parse
        mend = f'prepare it once with `python -c "{PREPARE.format(name[5:])}"`, or set TFDS_DATA_DIR to where it is'
        raise BadData(f"{name}: not found among the prepared TensorFlow data sets; {mend}.") from error
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise BadData(f"{name}: needs the features 'image' and 'label'; it has {', '.join(features)}.")
    named = {meaning: split for split, meaning in reversed(SPLIT_OF.items()) if split in builder.info.splits}
    tree, spool = cast(Tree, {}), Spool()
    for meaning, split in named.items():
        classes = tree[meaning] = {name: [] for name in label.names}
        rows = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for i, row in enumerate(rows.as_numpy_iterator()):
            source = Source(f"{i:08}", f"{name}[{split}][{i}]", spool.add(row["image"]))
            classes[label.names[row["label"]]].append(source)
    if training and "train" not in tree:
        raise BadData(f"{name}: has no train split (but {', '.join(builder.info.splits)}).")
    # A class may be missing from val or test, never from train.
    tree |= {split: {k: v for k, v in tree[split].items() if v} for split in tree if split != "train"}
    return tree, [f"{name}[{split}]" for split in builder.info.splits if split not in named.values()]
