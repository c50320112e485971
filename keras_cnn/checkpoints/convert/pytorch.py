"""PyTorch's files, from strangers too: a zip with a pickle that tells of arrays, whose numbers lie beside it.

What `torch.save` writes since PyTorch 1.6 is read here, without PyTorch and without executing anything: of a pickle's
operations only those that make texts, numbers, lists and dictionaries are let through, and of its names only the few
below, each of which stands for a function of this file. What is older is no zip, and needs PyTorch itself.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn.errors import CorruptFile, KerasCnnError, MissingPackage, UnsafeFile

if TYPE_CHECKING:
    import numpy as np

MOST = 4 << 20  # bytes of the pickle; that of 20,000 arrays has as many. In memory each may become a hundred
# NumPy's kind of each of PyTorch's, as its storages and its dtypes are called.
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
DTYPES = {kind: kind for kind in (*STORAGES.values(), "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")}
# Of a pickle's operations those that `torch.save` uses, as pickletools calls them.
OPERATIONS = frozenset(
    "PROTO STOP MARK GLOBAL BINPERSID REDUCE BUILD NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "  # noqa: SIM905
    "BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)
ODD = "sparse, quantised or without numbers, not a plain array"


@dataclass(frozen=True)
class Storage:
    """Numbers of the file. kind: NumPy's; None of bytes, where the tensor tells it, and of what NumPy lacks."""

    key: str
    kind: str | None


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, in numbers. fault: why it is no array."""

    storage: Storage = Storage("", None)
    kind: str = ""
    offset: int = 0
    size: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    fault: str = ""


def read(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a file, those of floats as float32. Raises CorruptFile, UnsafeFile, MissingPackage."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return _older(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _arrays(path, archive)
    except KerasCnnError:
        raise
    except Exception:  # of a damaged one, zipfile and pickle raise anything
        raise _truncated(path) from None


def _truncated(path: Path) -> CorruptFile:
    return CorruptFile(f"{path} is truncated or not a PyTorch file: fetch it again.")


def _unsafe(path: Path) -> UnsafeFile:
    return UnsafeFile(
        f"{path} holds more than arrays and would have to execute code to be read: it was not opened. "
        "Ask its author for a .safetensors file."
    )


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CorruptFile(f"{path} is compressed, as PyTorch's files never are: save it uncompressed.")
    if sum(member.file_size for member in members) > path.stat().st_size:  # members may lie on top of each other
        raise _truncated(path)
    if bad := archive.testzip():  # PyTorch itself does not look at its checksums
        raise CorruptFile(f"{path} is damaged (the checksum of {bad!r} differs): fetch it again.")
    [root] = [one.filename.removesuffix("data.pkl") for one in members if one.filename.endswith("/data.pkl")]
    if archive.getinfo(f"{root}data.pkl").file_size > MOST:
        raise CorruptFile(f"{path} tells of its arrays in more than {MOST} bytes: it was not read.")
    tensors = _named(path, _unpickled(archive.read(f"{root}data.pkl"), _unsafe(path)), Tensor)
    if odd := [key for key, tensor in tensors.items() if tensor.fault]:
        raise CorruptFile(f"{path}: {odd[0]} is {tensors[odd[0]].fault}: it was not read.")
    _check_claims(path, sum(math.prod(tensor.size) * _kind(tensor).itemsize for tensor in tensors.values()))
    swapped = any(one.filename == f"{root}byteorder" and archive.read(one) == b"big" for one in members)
    contents = {key: archive.read(f"{root}data/{key}") for key in {one.storage.key for one in tensors.values()}}
    return {key: _array(tensor, contents[tensor.storage.key], swapped) for key, tensor in tensors.items()}


def _named(path: Path, loaded: Any, kind: type) -> dict[str, Any]:
    """The tensors of a checkpoint, which may hold them in a dictionary of their own."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, kind)} if isinstance(loaded, dict) else {}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise CorruptFile(f"{path} holds no named tensors.")
    return tensors


def _check_claims(path: Path, claimed: int) -> None:
    """A tensor may be a view that repeats a few numbers of the file without end."""
    if claimed > (size := path.stat().st_size):
        raise CorruptFile(f"{path} has {size} bytes and claims tensors of {claimed} bytes: it was not read.")


def _kind(tensor: Tensor) -> np.dtype:
    import ml_dtypes
    import numpy as np

    return np.dtype(getattr(ml_dtypes, tensor.kind, tensor.kind))


def _array(tensor: Tensor, content: bytes, swapped: bool) -> np.ndarray:
    """A tensor's numbers in memory of their own; ValueError where they are not all in its storage."""
    import numpy as np

    kind = _kind(tensor)
    numbers = np.frombuffer(content, kind, len(content) // kind.itemsize)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.size, *tensor.strides)) < 0 or (all(tensor.size) and last >= len(numbers)):
        raise ValueError("a tensor goes beyond its storage")
    steps = [step * kind.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.size, steps, writeable=False)
    view = view.byteswap() if swapped else view
    with np.errstate(over="ignore"):  # whoever takes them as weights tells of what is infinite
        return view.copy() if kind.kind in "iubc" else view.astype("float32")


# --- the pickle ------------------------------------------------------------------------------------------------------


def _unpickled(content: bytes, unsafe: UnsafeFile) -> Any:
    """What a pickle tells, in dictionaries, lists and `Tensor`s; raises `unsafe` where it would take more than that."""
    for operation, value, _ in pickletools.genops(content):
        if operation.name not in OPERATIONS:
            raise unsafe
        if operation.name == "LONG_BINPUT" and int(value or 0) > len(
            content
        ):  # a memo of so many entries would be made
            raise ValueError("a memo beyond all entries")
    return _Reader(io.BytesIO(content), unsafe).load()


class _Known:
    """A function that a pickle may name, and may not change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *given: Any) -> Any:
        return self.function(*given)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function has no state")


class _Reader(pickle.Unpickler):
    """The standard library's, for which only what is named here exists."""

    def __init__(self, file: io.BytesIO, unsafe: UnsafeFile) -> None:
        super().__init__(file)
        self.unsafe = unsafe

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return Storage("", STORAGES.get(name.removesuffix("Storage")))
        if module == "torch" and (name in DTYPES or name in OTHER_DTYPES):
            return DTYPES.get(name)
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return ODDITY
        raise self.unsafe

    def persistent_load(self, pid: Any) -> Storage:
        what, kind, key, *_ = pid
        if what != "storage" or not isinstance(kind, Storage) or not isinstance(key, str):
            raise ValueError("a reference to something else than numbers")
        return Storage(key, kind.kind)


def _tensor(storage: Any, offset: Any, size: Any, strides: Any, *more: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: requires_grad, hooks, and what a view of complex numbers remembers."""
    return _view(storage, storage.kind, offset, size, strides, *more[2:3])


def _typed(storage: Any, offset: Any, size: Any, strides: Any, grad: Any, hooks: Any, kind: Any, *more: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v3`, of kinds that have no storage of their own."""
    return _view(storage, kind, offset, size, strides, *more)


def _view(storage: Storage, kind: str | None, offset: int, size: Any, strides: Any, remembered: Any = None) -> Tensor:
    numbers = (offset, *size, *strides)
    if not isinstance(storage, Storage) or not all(type(one) is int for one in numbers) or len(size) != len(strides):
        raise ValueError("a tensor that is no view of numbers")
    if not kind or remembered:
        return Tensor(fault="an array of numbers that cannot be read")
    return Tensor(storage, kind, offset, tuple(size), tuple(strides))


OTHER_DTYPES = ("complex32", "quint8", "qint8", "qint32", "quint4x2", "quint2x4", "float8_e4m3fnuz", "float8_e5m2fnuz")
ODDITY = _Known(lambda *_: Tensor(fault=ODD))
KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Known(_typed),
    ("torch._utils", "_rebuild_parameter"): _Known(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Known(lambda data, *_: data),
    # Devices, layouts and bytes, on which nothing depends here.
    **{
        name: _Known(lambda *_: None)
        for name in (
            ("torch", "device"),
            ("torch.serialization", "_get_layout"),
            ("_codecs", "encode"),
            ("__builtin__", "bytearray"),
        )
    },
    **{("torch", name): None for name in ("per_tensor_affine", "per_channel_affine")},
}


# --- what is older ---------------------------------------------------------------------------------------------------


def _older(path: Path) -> dict[str, np.ndarray]:
    """A file of before PyTorch 1.6 through PyTorch's weights-only loader, which executes nothing from the file."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingPackage(
            f"{path.name} is an older PyTorch file, or none: `pip install torch` to read it, or turn it into "
            ".safetensors elsewhere."
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        unsafe = "weights_only" in str(error) or "Unsupported" in str(error)
        raise (_unsafe(path) if unsafe else _truncated(path)) from None
    tensors = _named(path, loaded, torch.Tensor)
    plain = (torch.strided, False, False, False)
    if odd := [k for k, v in tensors.items() if (v.layout, v.is_quantized, v.is_nested, v.is_meta) != plain]:
        raise CorruptFile(f"{path}: {odd[0]} is {ODD}: it was not read.")
    _check_claims(path, sum(v.numel() * v.element_size() for v in tensors.values()))
    try:
        found = {key: value.detach().resolve_conj() for key, value in tensors.items()}
        return {k: (v.float() if v.is_floating_point() else v).numpy() for k, v in found.items()}
    except (RuntimeError, TypeError) as error:  # kinds of numbers that NumPy lacks
        raise CorruptFile(f"{path} holds an array that cannot be read ({error}).") from None
