"""Keras' legacy `.h5` weights files, from strangers too."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn.errors import CorruptFile, KerasCnnError, UnsafeFile

if TYPE_CHECKING:
    import numpy as np

MOST_NAMES = 4_096  # in one attribute, of which Keras writes at most 64,512 bytes: 16 for each
MOST_ARRAYS = 20_000
MOST_MEMBERS = 100_000  # with the groups that Keras 3 puts each layer's arrays into
# HDF5 keeps texts in heaps. It makes none as large as this but for a larger text, and thousands of names may be the
# same text of the file: only the size of the heaps tells beforehand how much memory reading the names takes.
LARGEST_HEAP = 2**16
HEAP = re.compile(
    rb"GCOL\x01\x00\x00\x00(.{8})", re.DOTALL
)  # "global heap collection" in HDF5's file format, version 1


def read_h5(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a legacy Keras `.h5` weights file under `layer/variable`, in the order of the file.

    HDF5 can name other files of this machine as the place of an array, and claim sizes that it does not hold. So only
    what Keras itself writes is read, plain arrays inside the file, and none before the sizes of all are known.
    Raises CorruptFile, UnsafeFile.
    """
    import h5py
    import numpy as np

    try:
        _check_heaps(Path(path))
        with h5py.File(path, "r") as file:
            found, size = {}, Path(path).stat().st_size
            for n, (key, dataset) in enumerate(_datasets(file, path)):
                if n == MOST_ARRAYS:
                    raise CorruptFile(f"{path} lists more than {MOST_ARRAYS} arrays: it was not read.")
                found[key] = dataset
            claimed = sum(math.prod(dataset.shape) * dataset.dtype.itemsize for dataset in found.values())
            if claimed > size:
                raise CorruptFile(f"{path} has {size} bytes and claims arrays of {claimed} bytes: it was not read.")
            return {key: np.asarray(dataset) for key, dataset in found.items()}
    except KerasCnnError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:  # as h5py tells a damaged file
        raise CorruptFile(f"{path} is truncated or not an HDF5 file ({error}): fetch it again.") from None


def check_file(path: Path) -> int:
    """Refuse an HDF5 file that holds anything but plain arrays inside it, whatever Keras would look for in it.

    Returns how many floats there are below `layers`, where Keras 3 has a model's own.
    """
    import h5py

    _check_heaps(path)
    with h5py.File(path, "r") as file:
        groups: list[Any] = [file]
        claimed = count = floats = 0
        while groups:
            group = groups.pop()
            for name in group:
                found = _member(group, name, path)
                count += 1
                if count > MOST_MEMBERS:
                    raise CorruptFile(f"{path} lists more than {MOST_MEMBERS} groups and arrays: it was not read.")
                if isinstance(found, h5py.Group):
                    groups.append(found)
                else:
                    _check_plain(found, f"{path}: {found.name}")
                    claimed += math.prod(found.shape) * found.dtype.itemsize
                    floats += math.prod(found.shape) * (found.dtype.kind == "f" and found.name.startswith("/layers/"))
        if claimed > (size := path.stat().st_size):
            raise CorruptFile(f"{path} has {size} bytes and claims arrays of {claimed} bytes: it was not read.")
        return floats


def _check_heaps(path: Path) -> None:
    """Refuse heaps of texts that are vast, or on which HDF5 would search without end, as on an entry of no length."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for heap in HEAP.finditer(content):
            size = int.from_bytes(heap[1], "little")
            if size > LARGEST_HEAP:
                raise CorruptFile(f"{path} holds texts that are longer than any name: it was not read.")
            at, end = heap.end(), heap.start() + size
            while at + 16 <= end:  # an entry: index (0: what is free), 6 more bytes, length; then the text, to 8 bytes
                index, length = content[at : at + 2], int.from_bytes(content[at + 8 : at + 16], "little")
                step = 16 + (length + 7) // 8 * 8 if any(index) else length
                if step < 16 or at + step > min(end, len(content)):
                    raise CorruptFile(f"{path} is truncated or damaged (its heap of texts): fetch it again.")
                at += step


def _datasets(file: Any, path: str | Path) -> Iterator[tuple[str, Any]]:
    """Every array that the file lists, by key; only its description is read."""
    whole_model = file.id.links.exists(b"model_weights")
    root = _member(file, "model_weights", path) if whole_model else file
    if "layer_names" not in root.attrs:
        raise CorruptFile(
            f"{path} is not a legacy Keras weights file of keras.applications: "
            "it has no layer names (a .weights.h5 of Keras 3 has none; load it into the Keras model itself)."
        )
    for layer in _names(root, "layer_names", path):
        group = _member(root, layer, path)
        for weight in _names(group, "weight_names", path):
            dataset = _member(group, weight, path)
            _check_plain(dataset, f"{path}: {layer}/{weight}")
            layer_name, variable = f"{layer}/{weight}".removesuffix(":0").split("/")[-2:]
            variable = variable.removeprefix("depthwise_")  # Keras 2 names a depthwise kernel so
            yield f"{layer_name}/{variable}", dataset


def _names(group: Any, attribute: str, path: str | Path) -> list[str]:
    """Names in an attribute."""
    import h5py

    if attribute not in group.attrs:
        raise CorruptFile(f"{path}: {group.name} has no {attribute}: fetch it again.")
    stored = group.attrs.get_id(attribute)
    if stored.shape == (0,):
        return []
    if h5py.check_string_dtype(stored.dtype) is None or len(stored.shape) != 1 or stored.shape[0] > MOST_NAMES:
        raise CorruptFile(f"{path}: the {attribute} of {group.name} are no names as Keras writes them: fetch it again.")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _member(group: Any, name: str, path: str | Path) -> Any:
    """What a group holds under a name, on a way that does not leave the file."""
    import h5py

    found = group
    for part in filter(None, name.split("/")):
        if not isinstance(found, h5py.Group) or not found.id.links.exists(part.encode()):
            raise CorruptFile(f"{path} lists {name!r} in {group.name}, and does not hold it: fetch it again.")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise UnsafeFile(
                f"{path}: {name!r} in {group.name} is a link that may lead to other files: it was not read."
            )
        found = found[part]
    return found


def _check_plain(dataset: Any, where: str) -> None:
    """Refuse all but numbers that lie in the file as they are."""
    import h5py

    nothing = CorruptFile(f"{where} is no array of numbers: fetch the file again.")
    if not isinstance(dataset, h5py.Dataset):
        raise nothing
    plan = dataset.id.get_create_plist()  # before the shape, for which HDF5 may look into the other files
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise UnsafeFile(f"{where} has its numbers in other files: it was not read.")
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise nothing
    if plan.get_nfilters():
        raise CorruptFile(f"{where} is compressed, as keras.applications' files never are: save it uncompressed.")
