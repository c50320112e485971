"""A `.keras` file of a network of ours, as `model.save` writes it: its record, and its arrays.

Nothing in the file is executed, and none of its layers is made from what it says: the record inside it says which
network it holds, that one is built as always, and the arrays are read into it.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.convert.legacy_h5 import check_file
from keras_cnn.checkpoints.directory import Source, finite
from keras_cnn.errors import CorruptFile, KerasCnnError, UnsafeFile
from keras_cnn.models import registry, shapes
from keras_cnn.models.config import Config

LAYER = "keras_cnn>Preprocessing"  # the registered name of the layer that carries the record
WEIGHTS = "model.weights.h5"
MOST = 16 << 20  # bytes of the file's configuration, as of config.json; resnet1202's has 3 MiB


def is_one(path: Path) -> bool:
    return path.suffix == ".keras" and path.is_file()


def read(path: Path) -> Source:
    """The Source in a file. Raises CorruptFile where it is damaged, UnsafeFile where it holds other layers."""
    config = _config(path)
    return Source(config, lambda: finite(config, _arrays(path, config)))


def _config(path: Path) -> Config:
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        with _member(archive, "config.json") as member:
            content = member.read(MOST + 1)  # whatever size it claims
        if len(content) > MOST:
            raise CorruptFile(f"{path}: its configuration has more than {MOST} bytes: it is no network of ours.")
        model = json.loads(content)
        layers = model["config"].get("layers", ())
        records = [layer for layer in layers if layer.get("registered_name") == LAYER]
        if not records:
            raise UnsafeFile(
                f"{path} was not made by keras_cnn.build: only networks of ours are read from a .keras file. Load it "
                "with keras.saving.load_model, if you trust it."
            )
        config = registry.config_from_dict(records[0]["config"]["record"])
        shape = tuple(layers[0]["config"]["batch_shape"][1:])
    source = {"source": path.name, **config.provenance}
    return config.at(shape).with_(provenance=source)


def _arrays(path: Path, config: Config) -> arrays.Arrays:
    numbers = sum(map(math.prod, shapes.variables(shapes.tally(config)).values()))
    with _damage_told(path), tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS
        with zipfile.ZipFile(path) as archive, _member(archive, WEIGHTS) as member, weights.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
        try:
            found = check_file(weights)
        except KerasCnnError as error:
            raise type(error)(str(error).replace(str(weights), f"{path}, {WEIGHTS}")) from None
        if found < numbers:  # before a network is made that a record of a few bytes may describe
            raise CorruptFile(f"{path}: its weights are {found:,} floats, and {config.name} has {numbers:,}.")
        from keras_cnn.models.assemble import assemble

        model = assemble(config)
        model.load_weights(weights)
    return arrays.arrays(model)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A member that is stored, as Keras does it: so nothing can be larger than the file itself."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CorruptFile(
            f"{archive.filename}: {name} is compressed, as Keras' own files never are: it was not read. Unzip the "
            "file, and zip it with `zip -0`."
        )
    return archive.open(info)


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (KerasCnnError, MemoryError):
        raise
    except Exception as error:  # zip, JSON, HDF5 and Keras raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CorruptFile(f"{path} is not a whole .keras file of a network of ours ({reason}).") from error
