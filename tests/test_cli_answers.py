"""`predict` and `evaluate` on the command line: any number of images, any names, and what is said of them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seeded
import test_card
from images import encode, folder, noise, zipped
from PIL import Image

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.cli import console, tables
from keras_cnn.data import seen
from keras_cnn.models.config import Preprocess
from keras_cnn.tasks import results
from keras_cnn.terminal import plain

HOSTILE = (
    *test_card.HOSTILE,
    "fox [red]",
    "fox [grey]",
    "[/x]",
    "\x1b[2J\x1b[31mred",
    "\u202etxt.exe",
    '=HYPERLINK("http://x")',
    "$\\frac{$",
)


def small(classes, path: Path) -> Path:
    pre = Preprocess(size=(16, 16), crop=1.0)
    model = kc.build("resnet20", input_shape=(16, 16, 3), classes=classes, preprocess=pre)
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return kc.save_pretrained(model, path, provenance={"source": "a test", "license": "mit"})


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return small(["cat", "dog"], tmp_path_factory.mktemp("weights") / "net")


def values(answer: tuple[int, str, str]):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- predict --------------------------------------------------------------------------------------------------------


def test_predict_takes_files_folders_and_zips_in_the_order_given(run, net, tmp_path):
    deep = folder(tmp_path / "photos", {"b/c": 2, "a": 1})
    (deep / "notes.txt").touch()
    os.mkfifo(deep / "pipe.png")
    archive = zipped(folder(tmp_path / "other", {"z": 1}), tmp_path / "other.zip")
    single = deep / "b" / "c" / "001.png"
    answers = values(run("predict", single, deep, archive, "-m", net, "--json", "--batch-size", 2))
    assert [answer["image"] for answer in answers] == [
        str(single),
        *(str(deep / name) for name in ("a/000.png", "b/c/000.png", "b/c/001.png")),
        f"{archive}/z/000.png",
    ]
    code, _, err = run("predict", tmp_path / "photos" / "b", "-m", net, "--out", tmp_path / "x.txt")
    assert (code, "ends in one of .csv, .parquet, .jsonl, .json" in err) == (2, True)
    (tmp_path / "none").mkdir()
    assert "none: no images found" in run("predict", tmp_path / "none", "-m", net)[2]


def test_a_bad_image_is_named_and_counted_and_ends_nothing(run, net, tmp_path):
    pets = folder(tmp_path / "pets", {".": 3})
    (pets / "001.png").write_bytes(b"this is a letter")
    out = tmp_path / "answers.csv"
    assert "--skip-bad" in run("predict", pets, "-m", net)[2]
    for told, wanted in (((), 2), (("--skip-bad",), 0)):
        code, printed, err = run("predict", pets, "-m", net, "--out", out, *told)
        assert code == wanted and "answers for 2 images" in printed
        assert "001.png: this is not an image" in err and "1 of 3 images could not be read" in err
    lines = rows(out)
    assert [Path(line["image"]).name for line in lines] == ["000.png", "001.png", "002.png"]
    assert [bool(line["class"]) for line in lines] == [True, False, True] and "not an image" in lines[1]["error"]
    assert run("predict", pets, "-m", net, "--out", tmp_path / "answers.json", "--skip-bad")[0] == 0
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert answers == values(run("predict", pets, "-m", net, "--json", "--skip-bad"))
    for line, answer in zip(lines, answers, strict=True):
        for guess, place in zip(answer.get("top", ()), ("", "_2"), strict=False):
            assert line[f"class{place}"] == guess["class"]
            assert float(line[f"probability{place}"]) == guess["probability"]


def test_answers_do_not_depend_on_the_batches(run, net, tmp_path):
    pets = folder(tmp_path / "pets", {".": 5})
    first, second = (values(run("predict", pets, "-m", net, "--json", "--batch-size", n)) for n in (1, 4))
    for one, other in zip(first, second, strict=True):
        assert one["image"] == other["image"]
        assert [g["probability"] for g in one["top"]] == pytest.approx(
            [g["probability"] for g in other["top"]], abs=1e-6
        )


@pytest.mark.parametrize("how", [["--json"], ["--out", "answers.csv"]], ids=["json", "file"])
def test_predict_shows_on_a_terminal_how_far_it_is(run, net, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    photos = folder(tmp_path / "photos", {"a": 3})
    assert "predicting" not in run("predict", photos, "-m", net, *how)[2]
    Path("answers.csv").unlink(missing_ok=True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    err = run("predict", photos, "-m", net, *how)[2]
    assert "predicting" in err and "3 of 3" in err


def test_a_long_path_is_whole_on_a_narrow_terminal(run, net, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    deep = folder(tmp_path / ("x" * 100) / ("y" * 100), {"a": 1}) / "a" / "000.png"
    assert len(str(deep)) > 200
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = run("predict", deep, "-m", net)
    assert code == 0 and out.splitlines()[0] == str(deep)


# The most memory of a process, told by itself: what its parent sees of it begins with the parent's own.
MEASURED = """
import atexit, sys
from keras_cnn.cli import main
atexit.register(lambda: sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))))
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell of memory")
def test_predict_takes_no_more_memory_for_more_images(tmp_path):
    pre = Preprocess(size=(160, 160), crop=1.0)
    shape = {"depths": (1, 1, 1), "input_shape": (160, 160, 3), "preprocess": pre}
    net = kc.save_pretrained(kc.build("resnet20", classes=["cat", "dog"], **shape), tmp_path / "net")
    (tmp_path / "one.png").write_bytes(encode(noise(64, 64)))
    peaks = []
    for number in (100, 1500):
        links, out = tmp_path / str(number), tmp_path / f"{number}.csv"
        links.mkdir()
        for i in range(number):
            (links / f"{i:04}.png").symlink_to(tmp_path / "one.png")
        told = ["predict", links, "-m", net, "--batch-size", "16", "--out", out]
        done = subprocess.run([sys.executable, "-c", MEASURED, *told], capture_output=True, text=True)
        assert done.returncode == 0 and len(rows(out)) == number, done.stderr
        peaks.append(int(done.stderr.split("VmHWM:")[1].split()[0]) / 1024)
    assert peaks[1] - peaks[0] < 60, peaks  # MiB; 1,400 images more are 103


def test_random_weights_are_told(run, tmp_path):
    pets = folder(tmp_path / "pets", {".": 1})
    code, _, err = run("predict", pets, "-m", "resnet20", "--size", 16)
    assert code == 0 and "resnet20 has random weights" in err and err.count("\n") == 1


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_tells_by_class_what_is_confused_and_how_sure_the_figures_are(run, net, tmp_path):
    pets = folder(tmp_path / "my pets", {"cat": 6, "dog": 7})
    facts = values(run("evaluate", pets, "-m", net, "--json", "--out", tmp_path / "report"))
    model = kc.build(net)
    files = [(file, label) for label, c in enumerate(("cat", "dog")) for file in sorted((pets / c).iterdir())]
    images = np.stack([kc.load_image(file, config_of(model).preprocess) for file, _ in files])
    labels = np.array([label for _, label in files])
    scores = model.predict(images, verbose=0)
    taken = scores.argmax(1)
    right = int((taken == labels).sum())
    assert facts["accuracy_interval"] == pytest.approx(results.wilson(right, 13))
    low, high = facts["accuracy_interval"]
    assert low < facts["accuracy"] < high
    counts = np.array([[((labels == t) & (taken == p)).sum() for p in (0, 1)] for t in (0, 1)])
    assert facts["confusion"] == counts.tolist()
    for i, row in enumerate(facts["classes"]):
        assert (row["class"], row["images"]) == (("cat", "dog")[i], int(counts[i].sum()))
        assert row["recall"] == pytest.approx(counts[i, i] / counts[i].sum())
        share = counts[i, i] / counts[:, i].sum() if counts[:, i].any() else None
        assert row["precision"] == (share if share is None else pytest.approx(share))
    wrong = sorted(np.flatnonzero(taken != labels), key=lambda i: -scores[i].max())
    assert [line["image"] for line in facts["worst"]] == [str(files[i][0]) for i in wrong[:10]]
    assert sum(pair["images"] for pair in facts["confused"]) == len(wrong) > 0
    assert Image.open(tmp_path / "report" / "confusion.png").size[0] > 300
    code, out, _ = run("evaluate", pets, "-m", net)
    assert code == 0 and f"{low:.4f} to {high:.4f}" in out
    assert all(word in out for word in ("precision", "recall", "most confused", "worst mistakes", "my pets/"))


def test_evaluate_takes_a_folder_of_one_class_or_without_training_images(run, net, tmp_path):
    one = folder(tmp_path / "one", {"dog": 3})
    val = folder(tmp_path / "set", {"val/cat": 2, "val/dog": 2})
    assert [values(run("evaluate", path, "-m", net, "--json"))["images"] for path in (one, val)] == [3, 4]
    code, _, err = run("fine-tune", val, "-m", net, "--out", tmp_path / "out")
    assert (code, "no train folder" in err) == (2, True)


def test_images_that_the_run_was_trained_on_are_named_and_counted_apart(run, net, tmp_path):
    pets = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    code, out, err = run("evaluate", pets, "-m", net, "--json")
    whole = json.loads(out)
    assert (code, whole["images"], whole["trained_on"]) == (0, 8, None)
    assert f"nothing tells whether {net} was trained on some of these images" in err
    pre = config_of(kc.build(net)).preprocess
    known = [kc.load_image(pets / "cat" / f"{i:03}.png", pre) for i in (0, 2, 3)]
    again = small(["cat", "dog"], tmp_path / "run")
    seen.write(again / seen.FILE, seen.of(np.stack(known)))
    facts = values(run("evaluate", pets, "-m", again, "--json"))
    assert (facts["images"], facts["trained_on"]["images"]) == (5, 3)
    assert facts["correct"] + facts["trained_on"]["correct"] == whole["correct"]
    assert [Path(name).name for name in facts["trained_on"]["names"]] == ["000.png", "002.png", "003.png"]
    code, out, _ = run("evaluate", pets, "-m", again)
    assert code == 0 and "images that it was trained on" in out and "cat/000.png" in out


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_the_interval_of_a_share(hits, of, low, high):
    """Values of R's `prop.test(hits, of, correct=FALSE)`."""
    assert results.wilson(hits, of) == pytest.approx((low, high), abs=1e-4)


# --- names of strangers ---------------------------------------------------------------------------------------------


def test_hostile_names_are_shown_as_text(run, tmp_path):
    net = small(list(HOSTILE), tmp_path / "net")
    pictures = folder(tmp_path / "pictures", {"[/x]": 1, "\x1b[31mred": 1})
    odd = Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    odd.write_bytes(encode(noise()))
    code, out, err = run("predict", pictures, odd, "-m", net, "--top", len(HOSTILE))
    assert code == 0, err
    assert all(plain(name) in out for name in HOSTILE) and "[/x]/000.png" in out and "\\xff.png" in out
    told = values(run("predict", pictures, odd, "-m", net, "--top", len(HOSTILE), "--json"))
    assert {guess["class"] for guess in told[0]["top"]} == set(HOSTILE) and told[-1]["image"] == f"{pictures}/\\xff.png"
    shown = [out, err, *run("predict", pictures, odd, "-m", net, "--json")[1:], *run("info", net)[1:]]
    path = tmp_path / "answers.csv"
    shown += [*run("predict", pictures, odd, "-m", net, "--top", len(HOSTILE), "--out", path)[1:]]
    shown.append(path.read_text(encoding="utf-8"))
    labelled = folder(tmp_path / "labelled", {name: 1 for name in HOSTILE if "/" not in name})
    shown += [*run("evaluate", labelled, "-m", net, "--out", tmp_path / "report")[1:]]
    assert (tmp_path / "report" / "confusion.png").is_file()
    assert not [text for text in shown if "\x1b" in text or "\u202e" in text]
    assert not [value for line in rows(path) for value in line.values() if value.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("verb, name", [("predict", "answers.csv"), ("evaluate", "figures")])
def test_a_place_that_cannot_be_written_to_is_told_first(run, net, tmp_path, verb, name):
    pets = folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    (tmp_path / "file").write_text("in the way")
    code, out, err = run(verb, pets, "-m", net, "--out", tmp_path / "file" / name)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "cannot be written to" in err and "it is no folder" in err and "name another directory" in err


def test_hostile_names_are_text_in_the_report_of_a_run(run, net, tmp_path):
    names = [name for name in HOSTILE if "/" not in name]
    labelled = folder(tmp_path / "labelled", {f"{split}/{name}": 1 for split in ("train", "val") for name in names})
    told = ["-m", net, "--head-epochs", 1, "--epochs", 0]
    assert run("fine-tune", labelled, "--out", tmp_path / "run", *told)[0] == 0
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    page = test_card.Tags(text)
    elements = "html head meta title style body h1 h2 table tr th td p img figure figcaption br"
    assert page.names <= set(elements.split()) and text.count("<h1>") == 1
    assert sum(plain(name) in page.text for name in names) > 5  # those of the worst mistakes
    assert "\x1b" not in text and "\u202e" not in text


def test_hostile_names_in_errors_are_shown_as_text(run, net, tmp_path):
    for name in ("\x1b]0;title\x07.png", "[x].png", "\u202e.png", "a\nerror: b.png"):
        (tmp_path / name).write_bytes(b"no image")
        code, _, err = run("predict", tmp_path / name, "-m", net)
        assert code == 2 and err.count("\n") == 1 and plain(name) in err and not set(err) & {"\x1b", "\x07", "\u202e"}


def test_a_stream_that_cannot_write_a_character_shows_it_otherwise(run, monkeypatch, tmp_path):
    import io

    latin = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", latin)
        console.begin()
        console.show("münchen")
    assert latin.buffer.getvalue() == b"m\\xfcnchen\n"


@pytest.mark.parametrize("text", ["plain", "naïve 東京 👩‍👩‍👧", "C:\\photos\\x.png", "fox [red]", ":smile:"])
def test_ordinary_text_stays_as_it_is(text):
    assert plain(text) == text


def test_no_cell_is_a_formula():
    for text in ("=1", "+1", "-1", "@x", "\t=1", "\r=1"):
        assert not str(tables.cell(text)).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (tables.cell(-1.5), tables.cell(None), tables.cell("rose")) == (-1.5, None, "rose")
