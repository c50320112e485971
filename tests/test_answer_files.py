"""Answers to many images as a file: whole or not there, gone on with after a kill, nothing answered twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from images import folder

import keras_cnn as kc
from keras_cnn.deploy import answer_files
from keras_cnn.errors import BadSpec, MissingPackage, RunInUse


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    place = tmp_path_factory.mktemp("net") / "net"
    kc.save_pretrained(kc.build("resnet20", depths=(1, 1, 1), classes=["cat", "dog", "emu"]), place)
    return place


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_kinds_of_files_say_the_same(run, net, tmp_path):
    arrow = pytest.importorskip("pyarrow.parquet")
    pets = folder(tmp_path / "pets", {".": 5})
    (pets / "000.png").write_bytes(b"no image")  # the first: columns are known later
    told = ("predict", pets, "-m", net, "--batch-size", 2, "--skip-bad", "--out")
    for suffix in answer_files.WRITERS:
        assert run(*told, tmp_path / f"answers{suffix}")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"pets", *(f"answers{s}" for s in answer_files.WRITERS)}
    facts = json.loads((tmp_path / "answers.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == facts
    table = arrow.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [row["image"] for row in table] == [row["image"] for row in facts] and len(table) == 5
    assert table[0]["error"] and table[0]["probability"] is None and table[1]["error"] is None
    for row, line in zip(table, lines(tmp_path / "answers.csv"), strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == line


def test_a_run_that_is_killed_goes_on(run, net, tmp_path):
    pets, out = folder(tmp_path / "pets", {".": 3, "more": 157}), tmp_path / "answers.csv"
    (pets / "more" / "003.png").write_bytes(b"no image")
    command = ["predict", pets, "-m", net, "--batch-size", 4, "--out"]
    whole = tmp_path / "whole.csv"
    assert run(*command, whole)[0] == 2
    partial = tmp_path / "answers.csv.partial"
    program = "from keras_cnn.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, command), out], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (partial.exists() and partial.read_bytes().count(b"\n") > 20) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    done = partial.read_bytes().count(b"\n") - 1
    with partial.open("ab") as file:  # as a kill in the middle of a line leaves it
        file.write(b'{"image": "')
    code, _, err = run(*command, out)
    assert code == 2 and f"{done} of 160 images were answered before" in err and "1 of 160 images could not" in err
    assert lines(out) == lines(whole) and not partial.exists()


def test_only_the_same_work_is_gone_on_with(run, net, tmp_path):
    pets, out = folder(tmp_path / "pets", {".": 3}), tmp_path / "answers.jsonl"
    command = ("predict", pets, "-m", net, "--out", out)
    assert run(*command)[0] == 0
    rows = out.read_text()
    partial = tmp_path / "answers.jsonl.partial"
    model = kc.build(net)
    work = {"network": [answer_files.identity(model), list(model.input_shape)], "top": 5, "tile": None}
    with answer_files.partial(out, {**work, "precision": "float32"}) as kept:
        kept.extend(kc.predictor(model).stream([pets / "000.png"]), 1)
        with pytest.raises(RunInUse, match="is written by another process"), answer_files.partial(out, work):
            pass
    assert partial.exists()
    code, _, err = run(*command, "--top", 2)
    assert code == 2 and "of other work (top was 5 and is 2)" in err and out.read_text() == rows
    other = tmp_path / "other"
    kc.save_pretrained(kc.build("resnet20", depths=(1, 1, 1), classes=["cat", "dog", "emu"]), other)
    assert run("predict", pets, "-m", other, "--out", out)[0] == 2
    partial.write_text("a letter")
    assert "no answers that could be gone on with" in run(*command)[2]
    partial.unlink()
    assert run(*command)[0] == 0 and out.read_text() == rows


def test_an_image_that_is_named_twice_is_answered_twice(run, net, tmp_path):
    pets, out = folder(tmp_path / "pets", {".": 2}), tmp_path / "answers.jsonl"
    assert run("predict", pets, pets / "001.png", "-m", net, "--out", out)[0] == 0
    names = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert names == [str(pets / name) for name in ("000.png", "001.png", "001.png")]


def test_sequences_are_begun_anew(run, tmp_path):
    kc.save_pretrained(kc.build("tcn", input_shape=(16, 2), classes=3), tmp_path / "net")
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 16, 2), "float32"))
    out = tmp_path / "answers.csv"
    (tmp_path / "answers.csv.partial").write_text('{"work": {}}\n{"image": "a", "error": ""}\n')
    assert run("predict", tmp_path / "x.npz", "-m", tmp_path / "net", "--out", out)[0] == 0
    assert len(lines(out)) == 3 and not (tmp_path / "answers.csv.partial").exists()


def test_what_cannot_be_written_is_told_before_anything_is_answered(run, net, tmp_path, monkeypatch):
    pets = folder(tmp_path / "pets", {".": 1})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match="pip install pyarrow"), answer_files.partial(tmp_path / "a.parquet", {}):
        pass
    (tmp_path / "file").touch()
    code, _, err = run("predict", pets, "-m", net, "--out", tmp_path / "file" / "a.csv")
    assert code == 2 and "file" in err and len(err.splitlines()) == 1
    with pytest.raises(BadSpec, match="other work"):
        with answer_files.partial(tmp_path / "a.csv", {"top": 1}) as kept:
            kept.extend(kc.predictor(net).stream(pets), 1)
        with answer_files.partial(tmp_path / "a.csv", {"top": 2}):
            pass
