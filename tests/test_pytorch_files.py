"""`.pth` files without PyTorch: what arrays are in them is read, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_files import Raw, View, name, save

from keras_cnn.checkpoints.convert import read_state
from keras_cnn.errors import CorruptFile, MissingPackage, UnsafeFile

pytestmark = pytest.mark.no_keras
ONES = np.ones(3, "float32")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_arrays_come_back(tmp_path, wrap):
    some = {
        "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
        "a.half": np.arange(5).astype("float16"),
        "a.double": np.array(0.1),
        "num_batches_tracked": np.array(7),
        "none": np.zeros((0, 3), "float32"),
        "mask": np.array([True, False]),
    }
    found = read_state(save(tmp_path / "w.pth", wrap(some)))
    assert found.keys() == some.keys()
    for key, value in some.items():
        assert found[key].dtype == ("float32" if value.dtype.kind == "f" else value.dtype)
        np.testing.assert_array_equal(found[key], value.astype(found[key].dtype))


def test_views_parameters_and_kinds_that_numpy_lacks(tmp_path):
    numbers = np.arange(12, dtype="float32")
    state = {
        "turned": View(numbers, (4, 3), (1, 4)),
        "part": View(numbers, (2, 2), (3, 1), 4),
        "one": View(numbers, (), (), 5),
        "learnt": View(numbers, (12,), (1,), parameter=True),
        "narrow": View(numbers.astype(ml_dtypes.bfloat16), (12,), (1,), storage="BFloat16"),
    }
    found = read_state(save(tmp_path / "w.pth", state))
    np.testing.assert_array_equal(found["turned"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [[4, 5], [7, 8]])
    assert found["one"] == 5
    for key in ("learnt", "narrow"):
        np.testing.assert_array_equal(found[key], numbers)


def test_numbers_of_a_machine_of_the_other_byte_order(tmp_path):
    state = {"x": View(ONES.astype(">f4"), (3,), (1,), storage="Float")}
    np.testing.assert_array_equal(read_state(save(tmp_path / "w.pth", state, order="big"))["x"], ONES)


EVIL = b"cos\nsystem\n(X\x04\x00\x00\x00truetR"


@pytest.mark.parametrize(
    "code",
    [
        EVIL,
        name("builtins", "eval") + b"(X\x01\x00\x00\x001tR",
        name("torch._utils", "_import_dotted_name") + b"(X\x02\x00\x00\x00ostR",
        name("collections", "Counter") + b")R",
        b"(X\x04\x00\x00\x00trueios\nsystem\n",  # INST
        b"cos\nsystem\n)\x81",  # NEWOBJ
        b"\x8c\x02os\x8c\x06system\x93",  # STACK_GLOBAL
        b"\x82\x01",  # EXT1
        b"I99\n",  # texts of numbers, whose digits take time
    ],
)
def test_whatever_would_be_executed_is_refused(tmp_path, code):
    path = save(tmp_path / "w.pth", {"x": ONES, "y": Raw(code)})
    with pytest.raises(UnsafeFile, match=r"would have to execute code to be read: it was not opened\. Ask its author"):
        read_state(path)


def test_a_pickle_that_would_run_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    code = pickle.dumps(Evil(), 2)[2:-1]
    with pytest.raises(UnsafeFile):
        read_state(save(tmp_path / "w.pth", {"x": Raw(code)}))
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(Evil()))  # it would have run
    assert (tmp_path / "harm").exists()


def test_what_a_pickle_may_name_it_cannot_change(tmp_path):
    function = name("torch._utils", "_rebuild_tensor_v2")
    state = b"N}X\x08\x00\x00\x00functionNs\x86b"  # of slots: function=None
    with pytest.raises(CorruptFile):
        read_state(save(tmp_path / "bad.pth", {"x": ONES, "y": Raw(function + state)}))
    np.testing.assert_array_equal(read_state(save(tmp_path / "w.pth", {"x": ONES}))["x"], ONES)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Raw(name("torch._utils", "_rebuild_sparse_tensor") + b"(N]tR"), "x is sparse, quantised or without numbers"),
        (Raw(name("torch._utils", "_rebuild_meta_tensor_no_storage") + b")R"), "x is sparse, quantised or without"),
        (View(ONES, (3,), (1,), storage="ComplexHalf"), "x is an array of numbers that cannot be read"),
        (View(ONES, (10**9,), (0,)), "claims tensors of 4000000000 bytes: it was not read"),
        (View(ONES, (4,), (1,)), "is truncated or not a PyTorch file"),
        (View(ONES, (2,), (1,), 2), "is truncated or not a PyTorch file"),
        (View(ONES, (2,), (-1,), 1), "is truncated or not a PyTorch file"),
        (View(ONES, (3,), (1,), -1), "is truncated or not a PyTorch file"),
        (View(ONES, (3,), (2**62,)), "is truncated or not a PyTorch file"),
        (View(ONES, (3,), (1, 1)), "is truncated or not a PyTorch file"),
        ([ONES], "holds no named tensors"),
    ],
)
def test_tensors_that_are_no_plain_arrays(tmp_path, tensor, says):
    with pytest.raises(CorruptFile, match=rf"w\.pth.*{says}"):
        read_state(save(tmp_path / "w.pth", {"x": tensor}))


@pytest.mark.parametrize("content", [[1, 2], {0: ONES}, None, {"x": 3}])
def test_files_without_named_tensors(tmp_path, content):
    with pytest.raises(CorruptFile, match=r"w\.pth holds no named tensors"):
        read_state(save(tmp_path / "w.pth", content))


def damaged(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "checksum":
        content[content.index(ONES.tobytes()) + 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "half" else content)
    return path


@pytest.mark.parametrize(
    ("damage", "says"),
    [("checksum", r"is damaged \(the checksum of 'archive/data/0' differs\)"), ("half", "truncated")],
)
def test_damage_is_told(tmp_path, damage, says):
    with pytest.raises(CorruptFile, match=says):
        read_state(damaged(save(tmp_path / "w.pth", {"x": ONES}), damage))


def test_compressed_files_are_refused(tmp_path):
    zeros = np.zeros(10_000_000, "float32")
    path = save(tmp_path / "w.pth", {"x": zeros}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptFile, match="is compressed, as PyTorch's files never are"):
        read_state(path)


@pytest.mark.parametrize(
    "code",
    [
        b"Nr" + struct.pack("<I", 2**32 - 1),  # a memo of four billion entries
        b"X" + struct.pack("<I", 2**32 - 1) + b"x",  # a text that is not there
        b"\x8a\xff" + bytes(9),
        b"h\x07",  # what was never put
        b"tR" * 3,
        b"Q",
    ],
)
def test_pickles_that_claim_what_they_do_not_have(tmp_path, code):
    path = save(tmp_path / "w.pth", {"x": ONES, "y": Raw(code)})
    before = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
    with pytest.raises(CorruptFile, match="is truncated or not a PyTorch file"):
        read_state(path)
    assert tracemalloc.get_traced_memory()[1] - before < 10_000_000
    tracemalloc.stop()


def test_members_on_top_of_each_other(tmp_path):
    """A thousand names for the same numbers would be as many copies of them."""
    path = save(tmp_path / "w.pth", {str(i): ONES for i in range(2)})
    content = path.read_bytes()
    first = content.rindex(b"archive/data/0") - 46
    entry = content[first : first + 46 + len("archive/data/0")]
    size = struct.pack("<I", len(content))
    path.write_bytes(content.replace(entry, entry[:20] + size * 2 + entry[28:]))
    with pytest.raises(CorruptFile, match="is truncated or not a PyTorch file"):
        read_state(path)


def test_older_files_need_torch(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": 1}, 2))
    with pytest.raises(MissingPackage, match=r"^w\.pth is an older PyTorch file, or none: `pip install torch`"):
        read_state(tmp_path / "w.pth")
