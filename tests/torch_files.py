"""Files as `torch.save` writes them, made without PyTorch: a zip with a pickle, and the numbers of each array."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u1": "Byte", "b1": "Bool", "c8": "ComplexFloat"}


@dataclass
class Raw:
    """Operations of a pickle as they are."""

    code: bytes


@dataclass
class View:
    """A tensor of a storage, by what it claims. parameter: as `torch.nn.Parameter`s are."""

    numbers: np.ndarray
    size: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    storage: str = ""
    parameter: bool = False


def name(module: str, called: str) -> bytes:
    return f"c{module}\n{called}\n".encode()


def save(path: Path, content: Any, *, method: int = zipfile.ZIP_STORED, root: str = "archive", order="little") -> Path:
    """Write a value with arrays in it."""
    storages: list[np.ndarray] = []
    pickled = b"\x80\x02" + _code(content, storages) + b"."
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", order)
        for key, numbers in enumerate(storages):
            archive.writestr(f"{root}/data/{key}", numbers.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return path


def _code(value: Any, storages: list[np.ndarray]) -> bytes:
    if isinstance(value, Raw):
        return value.code
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        short = -(2**31) <= value < 2**31
        return b"J" + struct.pack("<i", value) if short else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return b"}(" + b"".join(_code(one, storages) for item in value.items() for one in item) + b"u"
    if isinstance(value, list | tuple):
        inner = b"(" + b"".join(_code(one, storages) for one in value)
        return inner + b"t" if isinstance(value, tuple) else b"]" + inner + b"e"
    if isinstance(value, np.ndarray | np.generic):
        value = np.ascontiguousarray(value) if value.ndim else np.asarray(value)
        steps = tuple(step // value.itemsize for step in value.strides)
        return _code(View(value.reshape(-1), value.shape, steps), storages)
    kind = value.storage or STORAGES[value.numbers.dtype.str[1:]]
    told = ("storage", Raw(name("torch", f"{kind}Storage")), str(len(storages)), "cpu", value.numbers.size)
    storages.append(value.numbers)
    hooks = Raw(name("collections", "OrderedDict") + b")R")
    given = (Raw(_code(told, storages) + b"Q"), value.offset, value.size, value.strides, False, hooks)
    tensor = name("torch._utils", "_rebuild_tensor_v2") + _code(given, storages) + b"R"
    return (
        name("torch._utils", "_rebuild_parameter") + _code((Raw(tensor), True, hooks), storages) + b"R"
        if value.parameter
        else tensor
    )
