"""A `.keras` file of a network of ours, as `model.save` writes it: its record, and its arrays.

Nothing in the file is executed, and none of its layers is made from what it says: the record inside it says which
network it holds, that one is built as always, and the arrays are read into it.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import Source, finite
from keras_cnn.errors import CorruptFile, KerasCnnError, UnsafeFile
from keras_cnn.models import registry
from keras_cnn.models.config import Config

LAYER = "keras_cnn>Preprocessing"  # the registered name of the layer that carries the record
MOST = 64 << 20  # bytes of the file's configuration; resnet1202's has 3 MiB


def is_one(path: Path) -> bool:
    return path.suffix == ".keras" and path.is_file()


def read(path: Path) -> Source:
    """The Source in a file. Raises CorruptFile where it is damaged, UnsafeFile where it holds other layers."""
    config = _config(path)
    return Source(config, lambda: finite(config, _arrays(path, config)))


def _config(path: Path) -> Config:
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        member = archive.getinfo("config.json")
        if member.file_size > MOST:
            raise CorruptFile(f"{path}: its configuration has {member.file_size} bytes: it is no network of ours.")
        model = json.loads(archive.read(member))
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
    from keras_cnn.models.assemble import assemble

    model = assemble(config)
    with _damage_told(path):
        model.load_weights(path)
    return arrays.arrays(model)


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (KerasCnnError, MemoryError):
        raise
    except Exception as error:  # zip, JSON, HDF5 and Keras raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CorruptFile(f"{path} is not a whole .keras file of a network of ours ({reason}).") from error
