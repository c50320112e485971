"""The command line as one meets it: help, options of all commands, tables of any width, Ctrl-C, pictures."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from images import folder

import keras_cnn as kc
from keras_cnn import cli
from keras_cnn.cli import console
from keras_cnn.cli.tables import Table

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.no_keras


# --- help and options of all ----------------------------------------------------------------------------------------


def test_every_command_has_short_help(run):
    code, out, _ = run("-h")
    assert code == 0 and all(verb in out for verb in cli.VERBS) and not any(alias in out for alias in cli.ALIASES)
    for verb in (*cli.VERBS, *cli.ALIASES):
        code, out, _ = run(verb, "-h")
        assert code == 0 and all(option in out for option in ("-v, --verbose", "-q, --quiet", "-h, --help"))
    assert run("-V")[:2] == (0, f"keras-cnn {kc.__version__}\n")
    code, out, err = run()
    assert "fine-tune" in out + err
    code, _, err = run("predit", "x")
    assert code == 2 and "Did you mean 'predict'?" in err


def test_the_shell_can_complete_commands(run, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    code, out, _ = run("--show-completion")
    assert code == 0 and "_KERAS_CNN_COMPLETE" in out
    monkeypatch.setenv("_KERAS_CNN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "keras-cnn fi")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run()[1].split() == ["fine-tune"]


def test_verbose_shows_where_an_error_arose(run):
    code, _, err = run("info", "resnet5")
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err
    code, _, err = run("info", "resnet5", "-v")
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run("info", "resnet5")[2]


def test_quiet_shows_no_progress(run, monkeypatch, capsys):
    from keras_cnn.terminal import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("info", "resnet18", "-q")[0] == 0
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3] and "counting" not in capsys.readouterr().err
    assert run("info", "resnet18")[0] == 0
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3] and "of 3" in capsys.readouterr().err


def test_results_stay_on_stdout_while_a_bar_shows(monkeypatch, capsys):
    from keras_cnn.terminal import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for step in progress([1, 2], "counting"):
        print(f"result {step}")
    assert capsys.readouterr().out == "result 1\nresult 2\n"


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80])
def test_tables_are_whole_in_a_pipe_and_on_a_narrow_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    tags = kc.list_models("*", pretrained=True)
    code, out, _ = run("list", "--pretrained")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1 : len(tags) + 1]] == tags
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = run("list", "--pretrained")[1]
    assert set(tags) <= set(out.split())
    if columns == 40:
        assert all(len(line) <= columns or line.split()[-1] in tags for line in out.splitlines())


def test_a_narrow_terminal_has_the_columns_below_each_other():
    table = Table(("file", "bytes"), [("a.bin", "12"), ("b.bin", "3")])
    assert table.lines() == table.lines(12) == ["file   bytes", "a.bin     12", "b.bin      3"]
    assert table.lines(11) == ["file", "a.bin", "  bytes 12", "b.bin", "  bytes 3"]
    assert Table(("x", "n"), [("東京", "1")]).lines() == ["x     n", "東京  1"]


@pytest.mark.parametrize(
    "option", ["--sizes", pytest.param("--json", marks=pytest.mark.slow), pytest.param("-q", marks=pytest.mark.slow)]
)
def test_a_study_tells_which_of_its_runs_it_is_at(run, monkeypatch, tmp_path, option):
    import json

    from keras_cnn.training import study

    monkeypatch.setattr(study, "_curve", lambda *_: [0.5])
    pets = folder(tmp_path / "pets", {"cat": 6, "dog": 6}, size=(16, 16))
    line = ["fine-tune", "--study", pets, "-m", "resnet20", "--out", tmp_path / "out", "--seeds", 1, "--sizes", "2"]
    code, out, err = run(*line, *([] if option == "--sizes" else [option]))
    assert code == 0, err
    told = [f"run {n} of {len(study.METHODS)}: 2 images a class, seed 0: " for n in range(1, len(study.METHODS) + 1)]
    assert all(text in out for text in told) if option == "--sizes" else "run 1 of" not in out
    if option == "--json":
        assert json.loads(out)["methods"]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "options", "sentence"),
    [
        ("progress.safetensors", [], "keeps what is done: the same command with --resume goes on."),
        ("model.safetensors", [], "holds the best epoch so far."),
        (None, [], "nothing is kept in"),
    ],
)
def test_a_run_that_is_stopped_tells_what_is_kept(run, monkeypatch, tmp_path, left, options, sentence):
    def stopped(*_, out, **__):
        if left:
            Path(out).mkdir(exist_ok=True)
            Path(out, left).touch()
        raise KeyboardInterrupt

    import keras_cnn.cli.runs as runs

    nothing = runs.Learner(None, kc.load_sequences(np.arange(50.0)[:, None], window=8, horizon=2), {})
    monkeypatch.setattr(runs, "pretrained", lambda *_: nothing)
    monkeypatch.setattr("keras_cnn.fine_tune", stopped, raising=False)
    pets = folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    code, _, err = run("fine-tune", pets, "-m", "resnet20", "--out", tmp_path / "my run", *options)
    assert code == 130 and err.startswith("stopped; ") and sentence in err and f"'{tmp_path / 'my run'}'" in err


@pytest.mark.parametrize("left", ["progress.safetensors", "study.json", None])
@pytest.mark.parametrize("verb", ["train", "study"])
def test_a_training_and_a_study_that_are_stopped_tell_what_is_kept(run, monkeypatch, tmp_path, verb, left):
    def stopped(*given, out=None, **_):
        place = Path(out or given[2])
        place.mkdir(exist_ok=True)
        if left:
            (place / left).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(f"keras_cnn.{verb}", stopped, raising=False)
    pets, out = folder(tmp_path / "pets", {"cat": 4, "dog": 4}), tmp_path / "out"
    line = ("train",) if verb == "train" else ("fine-tune", "--study")
    code, _, err = run(*line, pets, "-m", "resnet20", "--out", out)
    again = "the same command" if verb == "study" else "the same command with --resume"
    kept = f"{out} keeps what is done: {again} goes on." if left else f"nothing is kept in {out}."
    assert code == 130 and err.splitlines()[-1] == f"stopped; {kept}"


@pytest.mark.parametrize("line", [("fine-tune",), ("fine-tune", "--study"), ("train",), ("lr-find",)])
def test_data_that_is_stopped_while_it_is_read_is_told(run, monkeypatch, tmp_path, line):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_cnn.data.load_data", stopped)
    pets = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    code, _, err = run(*line, pets, "-m", "resnet20", "--out", tmp_path / "out")
    assert code == 130 and f"stopped; {pets} was still being read: nothing of it was learnt or written" in err


def test_packing_that_is_stopped_goes_on(run, monkeypatch, tmp_path):
    from keras_cnn.data import packing

    finish = packing._finish

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "_finish", stopped)
    pets, out = folder(tmp_path / "pets", {"cat": 4, "dog": 4}), tmp_path / "out"
    sentence = f"stopped; {out} keeps the shards that are done: the same command goes on.\n"
    assert run("pack", pets, out) == (130, "", sentence)
    monkeypatch.setattr(packing, "_finish", finish)
    assert run("pack", pets, out)[0] == 0


@pytest.mark.slow
def test_ctrl_c_stops_a_real_run_which_then_goes_on(tmp_path):
    pets = folder(tmp_path / "pets", {"cat": 40, "dog": 40}, size=(32, 32))
    line = [sys.executable, "-m", "keras_cnn.cli", "fine-tune", str(pets), "-m", "resnet20", "--out", "run"]
    line += ["--size", "32", "--epochs", "40"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **options)
    while not (tmp_path / "run" / "progress.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.splitlines()[-1]) == (
        *(130, "stopped; run keeps what is done: the same command with --resume goes on."),
    )
    done = subprocess.run([*line, "--resume"], capture_output=True, timeout=600, **options)
    assert done.returncode == 0, done.stderr


# --- pictures -------------------------------------------------------------------------------------------------------


def test_epochs_are_whole_numbers_on_axes(monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    from keras_cnn.insight import plots

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    for epochs in (1, 2, 3, 40):
        history = {f"{part}{name}": [0.5] * epochs for part in ("", "val_") for name in ("loss", "accuracy")}
        plots.learning_curves(history, tmp_path / "curves.png", "accuracy")
        for axis in drawn[-1].axes:
            assert all(float(tick).is_integer() for tick in axis.get_xticks())


@pytest.mark.parametrize("highest, shown", [(0.9, 1.0), (70.0, 70.0)])
def test_curves_are_shown_whole_beyond_1_too(monkeypatch, tmp_path, highest, shown):
    from matplotlib.figure import Figure

    from keras_cnn.insight import plots

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    plots.learning_curves({"loss": [2.0, 1.0], "val_mae": [highest, highest / 2]}, tmp_path / "curves.png", "mae")
    assert drawn[0].axes[1].get_ylim()[1] >= shown and (highest > 1 or drawn[0].axes[1].get_ylim()[1] == 1)


@pytest.mark.parametrize("spec, shown, gain", [(".1%", "81.2%", "+12.5%"), (".3f", "0.812", "+0.125")])
def test_figures_are_shown_as_the_task_has_them(spec, shown, gain):
    from keras_cnn.cli import tables

    results = {"figure": "f", "before": None, "linear_probe": 0.8125, "val f": 0.8125}
    assert "\n".join(tables.gained(results, spec).lines()).count(shown) == 2
    scores = dict.fromkeys(("first", "slope", "best", "spread"), 0.8125)
    found = {
        "methods": [{"images": 4, "method": "scratch", **scores}],
        "gains": [{"images": 4, **dict.fromkeys(("start", "slope", "asymptote"), 0.125)}],
    }
    summary, gains = ("\n".join(table.lines()) for table in tables.study(found, "runs/x", spec))
    assert summary.count(shown) == 4 and gains.count(gain) == 3


def test_names_of_classes_are_no_mathematics(tmp_path):
    import numpy as np

    from keras_cnn.insight import plots

    names = ["$\\frac{$", "a$b$", "\x1b[31m"]
    assert plots.confusion_matrix(np.eye(3, dtype=int), names, tmp_path / "confusion.png").is_file()


# --- text -----------------------------------------------------------------------------------------------------------


def text_files_without_encoding(path: Path) -> list[int]:
    """Lines that open a text file without saying how it is encoded."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        source = ast.unparse(node)
        named = "encoding" in source or "utf-8" in source
        if name in ("read_text", "write_text") and not named and not source.startswith(("files.", "write_text")):
            found.append(node.lineno)
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        text = (modes and re.fullmatch(r"[rwax]\+?", modes[-1])) or any(k.arg == "newline" for k in node.keywords)
        if name == "open" and text and not named:
            found.append(node.lineno)
    return found


def test_text_files_are_utf8_on_every_machine():
    found = {path.name: text_files_without_encoding(path) for path in (ROOT / "keras_cnn").rglob("*.py")}
    assert len(found) > 50 and not {name: lines for name, lines in found.items() if lines}


def test_a_command_that_is_shown_can_be_pasted():
    assert (console.quoted("runs/my photos"), console.quoted("runs/photos")) == ("'runs/my photos'", "runs/photos")
