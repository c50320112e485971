"""TensorFlow data sets that are prepared on this machine: read as they lie there, without their own code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import IO, Any

import numpy as np

from keras_cnn.data.files import Source, Spool
from keras_cnn.data.frames import Frame, pick
from keras_cnn.data.labels import Wish
from keras_cnn.data.splits import SPLIT_OF, Splits
from keras_cnn.data.tables import Table, of_columns
from keras_cnn.errors import BadData, MissingPackage

TFDS = "tfds:"
CHIRAL = frozenset({"mnist", "emnist", "kmnist", "omniglot", "svhn_cropped"})  # glyphs: a mirror image is another sign
# What `tfds build` does, which needs Apache Beam and more whatever it builds.
PREPARE = "import tensorflow_datasets as tfds; tfds.builder('{}').download_and_prepare()"


def read(table: Table, wish: Wish, *, training: bool, **options: Any) -> Splits:
    """The data set "tfds:NAME" of a table's path: neither downloads nor runs the data set's own code.

    Images of ArrayRecord files are read at their places; other files can be read in order only, so that the encoded
    images are laid down on disk. options: see `splits.labelled`.
    """
    name = str(table.path)
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files
    except ImportError as error:
        raise MissingPackage(f"{name} needs tensorflow-datasets; pip install tensorflow-datasets.") from error
    try:
        builder: Any = builder_from_files(name.removeprefix(TFDS))
    except Exception as error:  # absent, or a name that TFDS cannot parse
        mend = f'prepare it once with `python -c "{PREPARE.format(name[5:])}"`, or set TFDS_DATA_DIR to where it is'
        raise BadData(f"{name}: not found among the prepared TensorFlow data sets; {mend}.") from error
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    kinds = {column: kind for column, feature in features.items() if (kind := _kind(feature))}
    if "image" not in kinds.values():
        raise BadData(f"{name}: needs a feature 'image'; it has {', '.join(features)}.")
    columns = pick(kinds, name, wish, table.given)._replace(split=None)
    named = {meaning: split for split, meaning in reversed(SPLIT_OF.items()) if split in builder.info.splits}
    if training and "train" not in named:
        raise BadData(f"{name}: has no train split (but {', '.join(builder.info.splits)}).")
    wanted = (columns.image, *columns.labels)
    images: Any = {column: tfds.decode.SkipDecoding() for column in wanted if kinds[column] == "image"}
    decoders = tfds.decode.PartialDecoding(dict.fromkeys(wanted, True), decoders=images)
    cells: dict[str, list[Any]] = {column: [] for column in wanted}
    words: list[str] = []
    places: list[str] = []
    spool = Spool()
    for meaning, split in named.items():
        lying = _lying(builder, split, images)
        rows = lying or builder.as_dataset(split=split, decoders=decoders).as_numpy_iterator()
        for i, row in enumerate(rows):
            places.append(f"{name}[{split}][{i}]")
            words.append(meaning)
            for column in wanted:
                cell = row[column]
                if column in images:
                    opened = partial(_open, lying, i, column) if lying else spool.add(cell)
                    cell = Source(f"{i:08}", places[-1], opened)
                cells[column].append(_plain(cell))
    classes = {column: names for column in columns.labels if (names := _classes(features[column]))}
    frame = Frame(name, cells, places.__getitem__, classes)
    found = of_columns(frame, columns, lambda text: None, wish, table, words=words, training=training, **options)
    unused = tuple(f"{name}[{split}]" for split in builder.info.splits if split not in named.values())
    return replace(found, ignored=unused, chiral=name[5:].split("/")[0].split(":")[0] in CHIRAL)


def _lying(builder: Any, split: str, decoders: Any) -> Sequence[Any] | None:
    """The rows of a split, each of which can be read by itself; None where its files are for reading in order."""
    if getattr(builder.info.file_format, "value", None) != "array_record":
        return None
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except ImportError as error:
        raise MissingPackage(f"{builder.name} is of ArrayRecord files; pip install array-record.") from error


def _open(rows: Sequence[Any], number: int, column: str) -> IO[bytes]:
    return io.BytesIO(rows[number][column])


def _kind(feature: Any) -> str | None:
    """What a feature holds, as `Frame.kinds` has it; None for what is neither image nor label."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return "image"
    if _classes(feature):
        return "class"
    if isinstance(feature, tfds.features.Text):
        return "text"
    shape: Any = getattr(feature, "shape", None)
    if isinstance(feature, tfds.features.Tensor) and len(shape) < 2 and feature.np_dtype is not object:
        return "number"
    return None


def _classes(feature: Any) -> Sequence[str] | None:
    """The names of the classes that a feature numbers: each image's, those of its list, or those of a mask."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _plain(cell: Any) -> Any:
    """A cell of NumPy as Python has it, texts decoded."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell
