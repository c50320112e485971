"""Named arrays and models: strict both ways.

A variable's key is `layer/variable`, such as `stage2_block3_conv1/kernel`: layer names are unique and
stable, so a file stays readable however the layers are ordered, with `safetensors.numpy` alone.

NumPy and safetensors are imported where arrays are touched: `list` and `info` come through here and touch none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn.errors import BadSpec, CorruptFile, WeightsMismatch
from keras_cnn.files import write_beside
from keras_cnn.models import naming

if TYPE_CHECKING:
    import numpy as np

Arrays = dict[str, "np.ndarray"]


def variables(model: Any) -> dict[str, Any]:
    """Every weight of a Keras model under its key; seeds and metrics are not weights."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}


def arrays(model: Any) -> Arrays:
    """The weights of a model as NumPy arrays under their keys."""
    import numpy as np
    from keras import ops

    return {key: np.asarray(ops.convert_to_numpy(v.value)) for key, v in variables(model).items()}


def fingerprint(model: Any) -> str:
    """A hash of a model's keys and shapes, and of the values of all but what hangs on the classes."""
    return digest(arrays(model), by_shape=naming.of_classes)[:16]


def digest(values: Mapping[str, np.ndarray], by_shape: Callable[[str], bool] = lambda key: False) -> str:
    """A hash of arrays under their keys; of those whose keys `by_shape` chooses, of the shapes alone."""
    import numpy as np

    whole = hashlib.sha256()
    for key, array in values.items():
        whole.update(f"{key} {array.dtype} {array.shape}".encode())
        if not by_shape(key):
            whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


def assign(model: Any, values: Mapping[str, np.ndarray], *, skip: Iterable[str] = ()) -> None:
    """Give every variable of a model its array; nothing is assigned unless all keys and shapes fit.

    skip: keys that keep what the model has. Raises WeightsMismatch with the list of what differs.
    """
    skip = set(skip)
    targets = {key: v for key, v in variables(model).items() if key not in skip}
    check({key: tuple(v.shape) for key, v in targets.items()}, values)
    for key, variable in targets.items():
        variable.assign(values[key].astype(str(variable.dtype), copy=False))


def check(expected: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsMismatch unless `values` has exactly the expected keys and shapes."""
    lines = [f"- {key} {shape}" for key, shape in expected.items() if key not in values]
    lines += [f"+ {key} {value.shape}" for key, value in values.items() if key not in expected]
    for key, shape in expected.items():
        if key in values and values[key].shape != shape:
            lines += [f"- {key} {shape}", f"+ {key} {values[key].shape}"]
    if lines:
        raise WeightsMismatch(report(lines))


def report(lines: list[str], most: int = 20) -> str:
    """The -/+ list as one message, cut to `most` lines."""
    more = [f"  and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(["the weights do not fit the network (- the network has, + the file has):", *lines[:most], *more])


# Kinds of numbers of safetensors that NumPy has, and those that ml_dtypes has, which Keras brings; these are read as
# float32. What else there is (scales of eight bits, numbers of four) belongs to quantised networks.
KINDS = {"F64": "f8", "F32": "f4", "F16": "f2", "C64": "c8", "BOOL": "?"}
KINDS |= {f"{letter.upper()}{8 * size}": f"{letter}{size}" for letter in "iu" for size in (1, 2, 4, 8)}
NARROW = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def load(path: str | Path) -> Arrays:
    """Read a safetensors file; CorruptFile says what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CorruptFile(f"{path}: there is no such file.")
    if not path.stat().st_size:
        raise CorruptFile(f"{path} is empty: fetch it again.")
    try:
        with safe_open(path, framework="np") as file:
            kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
            if odd := [key for key, kind in kinds.items() if kind not in (*KINDS, *NARROW)]:
                raise CorruptFile(f"{path}: {odd[0]} holds numbers of the kind {kinds[odd[0]]}, which are not read.")
            if not set(kinds.values()) & NARROW.keys():
                return file.get_tensors()
        return _with_narrow(path)
    except SafetensorError as error:
        raise CorruptFile(f"{path} is truncated or not a safetensors file ({error}): fetch it again.") from None


def _with_narrow(path: Path) -> Arrays:
    """The arrays of a file in which some are narrower than NumPy's own: these as float32, which holds each exactly."""
    import ml_dtypes
    import numpy as np
    from safetensors import deserialize

    def array(told: Mapping[str, Any]) -> np.ndarray:
        narrow = NARROW.get(told["dtype"])
        kind = getattr(ml_dtypes, narrow) if narrow else KINDS[told["dtype"]]
        value = np.frombuffer(told["data"], kind).reshape(told["shape"])
        return value.astype("float32") if narrow else value

    return {key: array(told) for key, told in deserialize(path.read_bytes())}


def check_floats(values: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsMismatch unless all arrays hold floating-point numbers."""
    if odd := [key for key, value in values.items() if value.dtype.kind != "f"]:
        raise WeightsMismatch(
            f"{odd[0]} holds {values[odd[0]].dtype} numbers, and weights are floating-point ones: "
            "a quantised network has to be turned back first."
        )


def not_finite(values: Mapping[str, np.ndarray]) -> list[str]:
    """Keys of the arrays that hold NaN, infinite values, or values that are infinite in float32."""
    import numpy as np

    with np.errstate(over="ignore"):
        return [key for key, value in values.items() if not np.isfinite(value.astype("float32", copy=False)).all()]


def save(values: Mapping[str, np.ndarray], path: str | Path, *, half: bool = False) -> None:
    """Write a safetensors file beside the target, then rename it: readers never see half of one. half: see `stored`."""
    write_arrays(stored(values, half), path, {"format": "keras"})


def stored(values: Mapping[str, np.ndarray], half: bool = False) -> Arrays:
    """Arrays as a file has them.

    half: kernels as float16 (relative error 2**-11); vectors stay float32, since a small variance would vanish.
    BadSpec where a number is beyond float16's largest, 65,504: it would become infinite.
    """
    import numpy as np

    halved = {key: value for key, value in values.items() if half and value.ndim > 1}
    with np.errstate(over="ignore"):
        halved = {key: value.astype("float16") for key, value in halved.items()}
    if over := [key for key, value in halved.items() if (np.isinf(value) & np.isfinite(values[key])).any()]:
        raise BadSpec(f"{over[0]} holds numbers beyond 65,504, which float16 cannot hold: save with half=False.")
    return {key: np.ascontiguousarray(value) for key, value in {**values, **halved}.items()}


def write_arrays(values: Mapping[str, np.ndarray], path: str | Path, about: Mapping[str, str]) -> None:
    """Write arrays as they are, with metadata; OSError names the path where the system refuses.

    about: of one key, since safetensors gives several of them another order, and the file another hash, each time.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    def write(temporary: str) -> None:
        try:
            save_file(dict(values), temporary, metadata=dict(about))
        except SafetensorError as error:  # it words the system's refusals itself
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None

    write_beside(path, write)
