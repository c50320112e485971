"""Which images there are, and of which class: folders, zip files, TFDS, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from keras_cnn.errors import BadData, BadSpec, MissingPackage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NOISE = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
CHIRAL = frozenset({"mnist", "emnist", "kmnist", "omniglot", "svhn_cropped"})  # glyphs: a mirror image is another sign


@dataclass(frozen=True)
class Source:
    """One image, not decoded yet. key: place in the data set; name: what messages call it; read: gives its bytes."""

    key: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Split:
    """Images in order, and their labels: int32 (n,), indices into the class names."""

    sources: tuple[Source, ...]
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set by name. ignored: files that are no images, or in no class; chiral: images must not be mirrored."""

    train: Split
    val: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    chiral: bool = False

    def items(self) -> list[tuple[str, Split]]:
        """(name, Split) of those that hold images, in the order train, val, test."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return [(name, split) for name, split in named if split is not None and split.sources]


Tree = dict[str, dict[str, list[Source]]]  # split -> class -> images


def index(data: str | os.PathLike[str], *, val_split: float = 0.2, seed: int = 0, training: bool = True) -> Splits:
    """Find the images and classes of a data set, without decoding any.

    data: folder, or zip of a folder (read in place), with one subfolder per class, or with train/ and val/ (also
    valid/, validation/) and test/ above them; "tfds:NAME" for a prepared TensorFlow data set; "digits" for the 1797
    handwritten digits of scikit-learn. Class order: sorted names; that of TFDS.
    val_split: where there is no val, the share of each class's train images that becomes val: at least one image, if
    the class has two; chosen by a hash of seed and file name, so that other files do not change a file's side much
    and a folder and its zip split alike. 0 leaves val None.
    training: False where the images are only to be scored: one class will do, and no train is needed; it is then empty.
    Raises BadData, naming the folder or class, for what cannot be trained on.
    """
    if not 0 <= val_split < 1:
        raise BadSpec(f"val_split={val_split!r}: give the share of images kept for validation, from 0 up to 1.")
    name = os.fspath(data)
    if name == "digits":
        tree, ignored, chiral = _digits(), [], True
    elif name.startswith("tfds:"):
        (tree, ignored), chiral = _tfds(name), name[5:].split("/")[0].split(":")[0] in CHIRAL
    else:
        (tree, ignored), chiral = _arrange(Path(name), training), False
    _check(tree, name, training)
    if "val" not in tree and val_split:
        tree |= _divide(tree["train"], val_split, seed)
        if not any(tree["val"].values()):
            raise BadData(f"{name}: no class has two images, so that none is left to validate on; add images.")
    if not training:
        tree.setdefault("train", {})
    names = tuple(tree["train"])
    if others := set().union(*tree.values()) - set(names):  # only where training is False
        names = tuple(sorted({*names, *others}))
    splits = {split: _flatten(classes, names) for split, classes in tree.items()}
    return Splits(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        class_names=names,
        ignored=tuple(ignored),
        chiral=chiral,
    )


def find_images(path: str | os.PathLike[str]) -> list[Source]:
    """The regular image files of a folder, at any depth and in order, or of a zip; another path is an image itself.

    Raises BadData for a folder or zip without images.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        return [Source(path.name, str(path), partial(_regular, path))]
    _, files = _folder(path) if path.is_dir() else _zip(path)
    found = [files[parts] for parts in sorted(files) if PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES]
    found = [source for source in found if path.is_file() or os.path.isfile(source.name)]
    if not found:
        raise BadData(f"{path}: no images found ({len(files)} other files).")
    return found


def _regular(path: Path) -> bytes:
    """A pipe or a device would be read for ever."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.read_bytes()


def _flatten(classes: dict[str, list[Source]], names: tuple[str, ...]) -> Split:
    sources = [sorted(classes.get(name, []), key=lambda source: source.key) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(some) for some in sources])
    return Split(tuple(source for some in sources for source in some), labels)


def _divide(classes: dict[str, list[Source]], val_split: float, seed: int) -> Tree:
    parts: Tree = {"train": {}, "val": {}}
    for name, sources in classes.items():
        ranked = sorted(sources, key=lambda source: hashlib.sha256(f"{seed}/{source.key}".encode()).digest())
        count = min(max(round(len(ranked) * val_split), 1), len(ranked) - 1)
        parts["val"][name], parts["train"][name] = ranked[:count], ranked[count:]
    return parts


def _check(tree: Tree, where: str, training: bool) -> None:
    names = tree["train"].keys() if training else set().union(*tree.values())
    for split, classes in tree.items():
        if unknown := sorted(classes.keys() - names):
            raise BadData(
                f"{where}: {split} has the class {unknown[0]!r}, which train lacks; add it there or remove it."
            )
        if empty := [name for name, sources in classes.items() if not sources]:
            raise BadData(f"{where}: the class {empty[0]!r} of {split} holds no images; add some or remove it.")
    if len(names) < 1 + training:
        found = f"only one class ({next(iter(names))!r})" if names else "no class folders"
        raise BadData(
            f"{where}: {found} found; give a folder with one subfolder of images for each of two classes or more."
        )


def _arrange(root: Path, training: bool) -> tuple[Tree, list[str]]:
    """Sort a folder's or zip's files into splits and classes; the rest are ignored, and listed."""
    if not root.exists():
        raise BadData(f"{root}: no such file or folder; give a folder, a zip, tfds:NAME or digits.")
    folders, files = _folder(root) if root.is_dir() else _zip(root)
    images = {parts: source for parts, source in files.items() if PurePosixPath(parts[-1]).suffix.lower() in SUFFIXES}
    if not images:
        raise BadData(f"{root}: no images found ({len(files)} other files); give one subfolder of images per class.")
    ignored = [files[parts].name for parts in files.keys() - images.keys()]

    def holds_folders_only(prefix: tuple[str, ...]) -> bool:
        inside = len(prefix) + 1
        direct = any(len(parts) == inside and parts[:-1] == prefix for parts in images)
        return not direct and any(len(parts) == inside and parts[:-1] == prefix for parts in folders)

    # A single folder around everything, as zips have it, is stepped into.
    top: tuple[str, ...] = ()
    while (
        len(inner := _below(folders, top)) == 1
        and inner[0].lower() not in SPLIT_OF
        and holds_folders_only((*top, *inner))
    ):
        top = (*top, *inner)
    split_folders = [name for name in inner if name.lower() in SPLIT_OF and holds_folders_only((*top, name))]
    prefixes = {SPLIT_OF[name.lower()]: (*top, name) for name in split_folders}
    if len(prefixes) < len(split_folders):
        raise BadData(f"{root}: {' and '.join(split_folders)} mean the same split; keep one of them.")
    if training and prefixes and "train" not in prefixes:
        raise BadData(f"{root}: has {' and '.join(split_folders)} but no train folder; add one.")
    prefixes = prefixes or {"train": top}

    tree: Tree = {split: {name: [] for name in _below(folders, prefix)} for split, prefix in prefixes.items()}
    place: dict[tuple[str, ...], list[Source]] = {
        (*prefix, name): tree[split][name] for split, prefix in prefixes.items() for name in tree[split]
    }
    depths = {len(prefix) + 1 for prefix in prefixes.values()}
    for parts, source in images.items():
        home = next((place[parts[:n]] for n in depths if len(parts) > n and parts[:n] in place), None)
        if home is None:
            ignored.append(source.name)
        else:
            home.append(Source("/".join(parts[len(top) :]), source.name, source.read))
    return tree, sorted(ignored)


def _below(folders: set[tuple[str, ...]], prefix: tuple[str, ...]) -> list[str]:
    return sorted(parts[-1] for parts in folders if parts[:-1] == prefix)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in NOISE


def _folder(root: Path) -> tuple[set[tuple[str, ...]], dict[tuple[str, ...], Source]]:
    folders, files = set(), {}
    for here, names, leaves in os.walk(root, followlinks=True):
        names[:] = [name for name in names if not _hidden(name)]
        above = Path(here).relative_to(root).parts
        folders |= {(*above, name) for name in names}
        for leaf in leaves:
            if not _hidden(leaf):
                path = Path(here, leaf)
                files[(*above, leaf)] = Source("", str(path), path.read_bytes)
    return folders, files


def _zip(path: Path) -> tuple[set[tuple[str, ...]], dict[tuple[str, ...], Source]]:
    """Members are read where they are: nothing is unpacked, so that there is no path to escape from."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadData(f"{path}: neither a folder nor a readable zip ({error}).") from error
    folders, files = set(), {}
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if ".." in parts or member.filename.startswith("/"):
            raise BadData(f"{path}: the member {member.filename!r} points outside of the zip; it is not to be trusted.")
        if member.flag_bits & 1:
            raise BadData(f"{path}: the zip is protected by a password; unpack it and give the folder.")
        if not parts or any(map(_hidden, parts)):
            continue
        depth = len(parts) + member.is_dir()
        folders |= {parts[:n] for n in range(1, depth)}
        if not member.is_dir():
            files[parts] = Source("", f"{path}/{member.filename}", partial(archive.read, member))
    return folders, files


def _digits() -> Tree:
    """As PNG bytes, so that all that follows knows one kind of image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackage("digits come with scikit-learn; pip install scikit-learn.") from error
    digits: Any = load_digits()
    classes: dict[str, list[Source]] = {str(name): [] for name in digits.target_names}
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = io.BytesIO()
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(file, "PNG")
        classes[str(label)].append(Source(f"{i:04}", f"digits[{i}]", file.getvalue))
    return {"train": classes}


def _tfds(name: str) -> tuple[Tree, list[str]]:
    """Reads prepared files only: neither downloads nor runs the data set's own code. The encoded images are kept."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files
    except ImportError as error:
        raise MissingPackage(f"{name} needs tensorflow-datasets; pip install tensorflow-datasets.") from error
    try:
        builder: Any = builder_from_files(name.removeprefix("tfds:"))
    except Exception as error:  # absent, or a name that TFDS cannot parse
        mend = f"prepare it once with `tfds build {name[5:]}`, or set TFDS_DATA_DIR to where it is"
        raise BadData(f"{name}: not found among the prepared TensorFlow data sets; {mend}.") from error
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise BadData(f"{name}: needs the features 'image' and 'label'; it has {', '.join(features)}.")
    tree: Tree = {}
    for split in sorted(builder.info.splits.keys() & SPLIT_OF.keys()):
        classes = tree.setdefault(SPLIT_OF[split], {name: [] for name in label.names})
        rows = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for i, row in enumerate(rows.as_numpy_iterator()):
            source = Source(f"{i:08}", f"{name}[{split}][{i}]", io.BytesIO(row["image"]).getvalue)
            classes[label.names[row["label"]]].append(source)
    if "train" not in tree:
        raise BadData(f"{name}: has no train split (but {', '.join(builder.info.splits)}).")
    # A class may be missing from val or test, never from train.
    tree |= {split: {k: v for k, v in tree[split].items() if v} for split in tree if split != "train"}
    return tree, [f"{name}[{split}]" for split in builder.info.splits if split not in SPLIT_OF]
