"""Sequences from arrays, files, long tables and windows of a series: what is understood, and what is refused."""

from __future__ import annotations

import builtins
import io
import re
import zipfile

import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.data.sequence_splits import SPLITS
from keras_cnn.errors import BadData, BadSpec, CorruptFile, MissingPackage

pytestmark = pytest.mark.no_keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 5, 2))


# --- arrays and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (["run", "walk"] * 10, "2 classes (run, walk)"),
        ([3, 7] * 10, "2 classes (3, 7)"),
        (RNG.integers(0, 3, (20, 5)), "3 classes (0, 1, 2) for every step"),
        (RNG.normal(size=20), "1 target (target1)"),
        (RNG.normal(size=(20, 2)), "2 targets (target1, target2)"),
        (RNG.normal(size=(20, 7, 3)), "3 targets (target1, target2, target3), 7 steps ahead"),
    ],
)
def test_arrays_are_told_apart_by_what_is_to_be_learnt(y, told):
    found = kc.load_sequences((X, y))
    assert str(found) == f"the array: 16 train, 4 val sequences of 5 steps, 2 channels (channel1, channel2); {told}"
    assert (found.input_shape, found.test) == ((5, 2), None)
    for x, answers in (found.train, found.val):
        assert x.dtype == "float32" and answers.dtype == ("int64" if found.class_names else "float32")
        assert len(x) == len(answers)


def test_splits_keep_pairs_together_and_classes_in_proportion():
    y = np.array(["a"] * 30 + ["b"] * 10)
    x = np.arange(40.0)[:, None, None] * np.ones((1, 3, 1))
    found = kc.load_sequences((x, y), val_split=0.2, test_split=0.1)
    parts = [getattr(found, name) for name in SPLITS]
    assert [np.bincount(labels).tolist() for _, labels in parts] == [[21, 7], [6, 2], [3, 1]]
    assert sorted(np.concatenate([x[:, 0, 0] for x, _ in parts])) == list(range(40))
    for x, labels in parts:
        np.testing.assert_array_equal(labels, x[:, 0, 0] >= 30)
    again, other = (kc.load_sequences((x, y), seed=seed) for seed in (0, 1) for x, y in [(parts[0][0], parts[0][1])])
    np.testing.assert_array_equal(again.val[0], kc.load_sequences(parts[0], seed=0).val[0])
    assert (again.val[0] != other.val[0]).any()


def test_splits_that_are_given_stay_as_they_are():
    y = np.arange(20) % 2
    found = kc.load_sequences({"train": (X, y), "test": (X[:4], y[:4])}, class_names=["low", "high"])
    assert found.class_names == ("low", "high") and found.val is None
    np.testing.assert_array_equal(found.test[0], X[:4].astype("float32"))
    np.testing.assert_array_equal(found.train[1], y)


def test_an_npz_that_claims_more_than_memory_holds(tmp_path):
    header = io.BytesIO()
    told = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 5, 2)}
    np.lib.format.write_array_header_1_0(header, told)
    with zipfile.ZipFile(tmp_path / "vast.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(CorruptFile, match=r"vast\.npz claims more numbers than memory holds: it is damaged"):
        kc.load_sequences(tmp_path / "vast.npz")


def test_npz_has_documented_keys(tmp_path):
    y = np.array(["yes", "no"] * 10)
    np.savez(tmp_path / "one.npz", x=X, y=y, channels=["left", "right"])
    found = kc.load_sequences(tmp_path / "one.npz", val_split=0.5)
    assert str(found) == (
        "one.npz: 10 train, 10 val sequences of 5 steps, 2 channels (left, right); 2 classes (no, yes)"
    )
    np.savez(tmp_path / "two.npz", x_train=X, y_train=y, x_val=X[:6], y_val=y[:6])
    found = kc.load_sequences(tmp_path / "two.npz")
    assert (len(found.train[0]), len(found.val[0])) == (20, 6)
    np.testing.assert_array_equal(found.val[1], [1, 0] * 3)


# --- tables -----------------------------------------------------------------------------------------------------------


def long_table(path, *, label=lambda i, t: ["calm", "storm"][i % 2], lengths=(4,) * 10, delimiter=",", order=1):
    """Ten sequences of four steps: `wind` is 10 id + time; rows in reverse where order is -1."""
    rows = [[f"s{i}", t, 10 * i + t, -t / 2, label(i, t)] for i, steps in enumerate(lengths) for t in range(steps)]
    lines = [["id", "time", "wind", "rain", "label"], *rows[::order]]
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in lines) + "\n")
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_long_table_is_put_in_order(tmp_path, name, delimiter):
    found = kc.load_sequences(long_table(tmp_path / name, delimiter=delimiter, order=-1), test_split=0.2)
    assert str(found) == (
        f"{name}: 6 train, 2 val, 2 test sequences of 4 steps, 2 channels (wind, rain); 2 classes (calm, storm)"
    )
    for x, y in (found.train, found.val, found.test):
        np.testing.assert_array_equal(np.diff(x[:, :, 0]), 1)
        np.testing.assert_array_equal(x[:, 0, 0] // 10 % 2, y)


def test_a_parquet_table_is_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = kc.load_sequences(long_table(tmp_path / "t.csv"))
    table = {"id": [], "time": [], "wind": [], "rain": [], "label": []}
    for i in range(10):
        for t in range(4):
            for key, value in zip(table, (f"s{i}", t, 10 * i + t, -t / 2, ["calm", "storm"][i % 2]), strict=True):
                table[key].append(value)
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    found = kc.load_sequences(tmp_path / "t.parquet")
    np.testing.assert_array_equal(found.train[0], expected.train[0])
    np.testing.assert_array_equal(found.train[1], expected.train[1])


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    real = builtins.__import__

    def without(name, *given, **told):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *given, **told)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackage, match="pip install pyarrow"):
        kc.load_sequences(tmp_path / "t.parquet")


def test_labels_of_a_table_are_classes_steps_or_numbers(tmp_path):
    steps = kc.load_sequences(long_table(tmp_path / "a.csv", label=lambda i, t: "up" if t > i % 3 else "down"))
    assert steps.class_names == ("down", "up") and steps.train[1].shape == (8, 4)
    number = kc.load_sequences(long_table(tmp_path / "b.csv", label=lambda i, t: i / 4))
    assert number.targets == ("label",) and number.train[1].shape == (8, 1)
    classes = kc.load_sequences(long_table(tmp_path / "c.csv", label=lambda i, t: 2 + i % 2))
    assert classes.class_names == ("2", "3")
    many = kc.load_sequences(
        long_table(tmp_path / "d.csv", label=lambda i, t: i), label=["label"], channels=["rain"], class_names=None
    )
    assert many.channels == ("rain",)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_are_cut_in_time_and_share_no_step():
    series = np.stack([np.arange(100.0), -np.arange(100.0)], axis=1)
    found = kc.load_sequences(
        series, window=6, horizon=3, stride=2, channels=["a", "b"], targets=["b"], val_split=0.2, test_split=0.2
    )
    assert str(found) == (
        "the array: 26 train, 6 val, 6 test sequences of 6 steps, 2 channels (a, b); 1 target (b), 3 steps ahead"
    )
    assert found.horizon == 3
    steps = []
    for x, y in (found.train, found.val, found.test):
        assert x.shape[1:] == (6, 2) and y.shape[1:] == (3, 1)
        np.testing.assert_array_equal(np.concatenate([x[:, :, 0], -y[:, :, 0]], axis=1), x[:, :1, 0] + np.arange(9))
        assert (np.diff(x[:, 0, 0]) == 2).all()
        steps.append({*x[:, :, 0].ravel(), *(-y).ravel()})
    assert not steps[0] & steps[1] and not steps[1] & steps[2]
    assert max(steps[0]) < min(steps[1]) and max(steps[1]) < min(steps[2])


def test_a_table_without_ids_is_one_series(tmp_path):
    days = [f"2026-01-{day:02}" for day in range(1, 32)]
    rows = [f"{day},{i},{i / 2}" for i, day in enumerate(days)]
    (tmp_path / "series.csv").write_text("\n".join(["time,load,sun", *rows[::-1]]))
    found = kc.load_sequences(tmp_path / "series.csv", window=4, horizon=2, targets=["load"])
    assert found.channels == ("load", "sun") and found.targets == ("load",)
    np.testing.assert_array_equal(found.train[0][0], [[0, 0], [1, 0.5], [2, 1], [3, 1.5]])
    np.testing.assert_array_equal(found.train[1][0], [[4], [5]])


# --- what is refused --------------------------------------------------------------------------------------------------

NAN = X.copy()
NAN[3, 2, 1] = np.nan
SERIES = np.arange(20.0)[:, None]


@pytest.mark.parametrize(
    ("source", "told", "sentence"),
    [
        ((X[..., 0], [0, 1] * 10), {}, "x of train has the shape (20, 5): give (n, time, channels), such as x[..."),
        ((X.astype(str), [0, 1] * 10), {}, "no numbers"),
        ((NAN, [0, 1] * 10), {}, "x of train is NaN or infinite at sequence 3, step 2, channel 1, and 0 others"),
        ((X, [0] * 20), {}, "all is of one class, 0: there is nothing to tell apart"),
        ((X, [1.5] * 20), {}, "target1 is 1.5 in all training sequences: leave it out"),
        ((X, [np.nan, 1.0] * 10), {}, "it has NaN"),
        ((X, [0, 1]), {}, "train has 20 sequences and 2 labels"),
        ((X, [[0, 1, 0]] * 20), {}, "give (n,) classes, or (n, time), here (20, 5)"),
        ((X, [0, 5] * 10), {"class_names": ["a", "b"]}, "has the class 5, which class_names lacks: a, b"),
        ((X, [0.5, 1] * 10), {"class_names": ["a", "b"]}, "are decimal numbers where classes are needed"),
        ((X, [0, 1] * 10), {"channels": ["a"]}, "1 names for 2 channels"),
        (([X[0], X[1, :3]], [0, 1]), {}, "sequences of different length, from 3 steps (1) to 5 (0): cut all to one"),
        ({"train": (X, [0, 1] * 10), "val": (X[:, :3], [0, 1] * 10)}, {}, "sequences of other shapes"),
        ({"train": (X, [0, 1] * 10), "val": (X[:2], [0, 2])}, {}, "no training sequence has the class 2"),
        ({"train": (X, [0, 1] * 10), "dev": (X, [0, 1] * 10)}, {}, "there is no split 'dev'"),
        ({"x": X}, {}, "there is no array 'y'"),
        ({"train": X}, {}, "train is no pair"),
        (SERIES, {"window": 30, "horizon": 1}, "20 steps, of which 16 are for train: a window of 30 and the 1 behind"),
        (SERIES, {"window": 4, "horizon": 2}, "of which 4 are for val"),
        (SERIES, {"window": 4, "horizon": 1, "targets": ["load"]}, "no channel 'load' to forecast: it has channel1"),
        (X, {"window": 4, "horizon": 1}, "a series is (time, channels)"),
    ],
)  # fmt: skip
def test_bad_data_is_one_sentence(source, told, sentence):
    with pytest.raises(BadData, match=re.escape(sentence)):
        kc.load_sequences(source, **told)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"window": 4}, "window and horizon belong together"),
        ({"window": 0, "horizon": 1}, "window=0: give a number of steps from 1."),
        ({"stride": 1.5}, "stride=1.5: give a number of steps from 1."),
        ({"val_split": 0.6, "test_split": 0.4}, "give shares that leave some for training"),
    ],
)
def test_bad_options_are_one_sentence(told, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        kc.load_sequences((X, [0, 1] * 10), **told)


@pytest.mark.parametrize(
    ("text", "told", "sentence"),
    [
        ("", {}, "t.csv has no rows"),
        ("id,time,a,label\n", {}, "t.csv has no rows"),
        ("id,time,a,a,label\n1,1,2,3,x\n", {}, "has two columns 'a'"),
        ("id,time,a,label\n1,1,2\n", {}, "row 1 has 3 entries, and there are 4 columns"),
        ("id,time,a,label\n1,1,2,x\n1,2,two,x\n", {}, "row 2 of the column 'a' is 'two', which is no number"),
        ("id,time,a,label\n1,1,2,x\n1,2,,x\n", {}, "row 2 of the column 'a' is empty"),
        ("id,time,a,label\n1,1,2,x\n1,1,3,x\n2,1,2,y\n2,2,2,y\n", {}, "1 has two rows of the time 1"),
        ("id,time,a,label\n1,1,2,x\n2,1,3,y\n2,2,2,y\n", {}, "from 1 step (1) to 2 (2)"),
        ("id,time,a,label\n1,1,2,x\n1,2,2,\n", {}, "the column 'label' is empty in a row"),
        ("id,time,a,label\n1,1,2,x\n", {"id": "name"}, "has no column 'name': it has id, time, a, label."),
        ("id,time,a,kind\n1,1,2,x\n", {}, "which column is learnt? give label="),
        ("id,time,label\n1,1,x\n", {}, "has no column left for a channel"),
        ("id,time,a,label\n1,1,2,0.5\n1,2,2,0.7\n", {}, "the numbers of 'label' change within a sequence"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, text, told, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadData, match=re.escape(sentence)):
        kc.load_sequences(tmp_path / "t.csv", **told)


@pytest.mark.parametrize("odd", ["encrypted", "method", "npy"])
def test_npz_files_that_numpy_does_not_unpack(tmp_path, odd):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((4, 6, 1)), y=np.arange(4))
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"x.npy") - 46
    whole[entry + 8] |= odd == "encrypted"
    whole[entry + 10] = 77 * (odd == "method")
    path.write_bytes(whole)
    if odd == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(CorruptFile, match=r"a\.npz is damaged, or holds objects"):
        kc.load_sequences(path)


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"PK\3\4 no zip")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object), y=[1])
    (tmp_path / "t.csv").write_bytes(b"id,time\xff\xfe\n1,2\n")
    for name in ("t.npz", "objects.npz", "t.csv"):
        with pytest.raises(CorruptFile, match=re.escape(name)):
            kc.load_sequences(tmp_path / name)
    for name in ("none.npz", "none.csv"):
        with pytest.raises(BadData, match="there is no such file"):
            kc.load_sequences(tmp_path / name)
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(BadData, match=r"files that end in \.npz, \.csv, \.tsv, \.parquet"):
        kc.load_sequences(tmp_path / "t.xlsx")


def test_no_framework_is_imported():
    """Loading sequences takes NumPy alone."""
    import subprocess
    import sys

    code = "import sys, keras_cnn.data.sequences; sys.exit(bool({'tensorflow', 'keras', 'torch'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
