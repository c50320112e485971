"""The directory of a run: who may write there, what is kept, and how a run that was killed goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import images
import keras
import numpy as np
import pytest
from attacks import damage_state

import keras_cnn as kc
from keras_cnn import cli, files
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.data import seen
from keras_cnn.errors import BadSpec, CannotWrite, CorruptFile, KerasCnnError, RunExists, RunInUse, RunWarning
from keras_cnn.training import state
from keras_cnn.training.callbacks import Best

QUIET = {"verbose": 0, "batch_size": 16}
RUN = {"epochs": 2, "learning_rate": 0.02, **QUIET}
ATTACK = Path(__file__).parent / "attacks" / "kill_runs.py"


def make(seed: int = 0, **head):
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", depths=(1, 1, 1), head=kc.Head(classes=2, **head), input_shape=(16, 16, 3))
    keras.utils.set_random_seed(seed)
    return model


def pair(count: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    return (rng.integers(0, 200, (count, 16, 16, 3)) + 50 * labels[:, None, None, None]).astype("uint8"), labels


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return kc.save_pretrained(make(), tmp_path_factory.mktemp("weights") / "net", provenance={"data": "noise"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from scratch that nothing happened to, and what it ended with."""
    out = tmp_path_factory.mktemp("run") / "whole"
    model = make(dropout=0.3)
    history = kc.train(model, pair(), pair(16, 1), out=out, **RUN)
    return out, arrays.arrays(model), history


class Crash(RuntimeError):
    pass


def crash_in(monkeypatch, epoch: int) -> None:
    end = Best.on_epoch_end

    def crash(self, number, logs=None):
        if number == epoch:
            monkeypatch.setattr(Best, "on_epoch_end", end)
            raise Crash
        end(self, number, logs)

    monkeypatch.setattr(Best, "on_epoch_end", crash)
    monkeypatch.setattr(state, "EVERY", 0.0)


# --- who may write --------------------------------------------------------------------------------------------------


def run_of(verb: str, model, out: Path, **told):
    if verb == "train":
        return kc.train(model, pair(), pair(), out=out, **{**RUN, **told})
    return kc.fine_tune(model, pair(), pair(), out=out, cache=False, **QUIET, **told)


@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_a_run_does_not_replace_what_is_there(saved, verb):
    before = contents(saved)
    with pytest.raises(RunExists, match=r"already holds a run or weights .*resume=True \(--resume\).*overwrite=True"):
        run_of(verb, make(), saved)
    with pytest.raises(RunExists, match=r"no state of a run .*overwrite=True \(--overwrite\) begins anew"):
        run_of(verb, make(), saved, resume=True)
    with pytest.raises(BadSpec, match="choose one of them"):
        run_of(verb, make(), saved, resume=True, overwrite=True)
    assert contents(saved) == before


@pytest.mark.parametrize("verb", ["finetune", "train", "demo"])
def test_the_command_line_says_so_before_anything_is_decoded(saved, tmp_path, verb, monkeypatch, capsys):
    gone = str(tmp_path / "gone")  # would be told first if it were looked at
    told = {"demo": ["demo"], "train": ["train", gone, "-m", "resnet20"], "finetune": ["finetune", gone, "-m", gone]}
    for out, sentence in ((str(saved), "already holds a run"), ("/proc/run", "cannot be written to (/proc")):
        monkeypatch.setattr(sys, "argv", ["keras-cnn", *told[verb], "--out", out])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2 and sentence in capsys.readouterr().err
    assert cli.runs.made_by("demo", str(saved)) is False


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(CannotWrite, match=r"cannot be written to .* name another directory"):
            state.check(out)
    state.check(tmp_path / "new" / "run")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


HOLD = """
import sys, time
from keras_cnn import files
with files.holding(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_at_once_and_one_that_was_killed(tmp_path):
    out = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    for run in (lambda: state.check(out), lambda: kc.train(make(), pair(), out=out, **RUN)):
        with pytest.raises(RunInUse, match=f"{out} is in use by another run"):
            run()
    other.kill()
    other.wait()
    with state.Run(out, {}):
        pass
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_a_directory_is_held_as_long_as_the_run_lasts(saved, tmp_path, verb):
    out, found = tmp_path / "run", list[str]()
    hold = "import sys; from keras_cnn import files\nwith files.holding(sys.argv[1]): pass"

    def another(*_) -> None:
        found.append(subprocess.run([sys.executable, "-c", hold, out], capture_output=True, text=True).stderr)

    told = {"epochs": 1} if verb == "train" else {"schedule": "head", "head_epochs": 1, "probe": False}
    watch = keras.callbacks.LambdaCallback(on_epoch_end=another)
    run_of(verb, make() if verb == "train" else kc.build(saved, classes=2), out, callbacks=[watch], **told)
    another()
    assert ["is in use by another run" in said for said in found] == [True, False] and not found[1]


def test_a_run_of_an_earlier_version_is_told(tmp_path):
    arrays.write_arrays({"network/0": np.zeros(3)}, tmp_path / state.STATE, {"state": json.dumps({"options": {}})})
    with pytest.raises(RunExists, match="another version of keras_cnn"):
        kc.train(make(), pair(), out=tmp_path, resume=True, **RUN)
    (tmp_path / state.STATE).unlink()
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "training_metadata.json").write_text("{}")
    with pytest.raises(RunExists, match="no state of a run that this version"):
        kc.train(make(), pair(), out=tmp_path, resume=True, **RUN)


# --- going on -------------------------------------------------------------------------------------------------------


def test_training_that_crashed_ends_as_if_nothing_had_happened(whole, tmp_path, monkeypatch):
    """Dropout, the order of images, the optimiser and the history go on; the seed of the process does not matter."""
    out, expected, history = whole
    crash_in(monkeypatch, 1)
    with pytest.raises(Crash):
        kc.train(make(dropout=0.3), pair(), pair(16, 1), out=tmp_path / "run", **RUN)
    model = make(7, dropout=0.3)
    again = kc.train(model, pair(), pair(16, 1), out=tmp_path / "run", resume=True, **RUN)
    for key, value in arrays.arrays(model).items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)
    assert again.history == history.history and again.epoch == history.epoch
    assert (tmp_path / "run" / "log.csv").read_bytes() == (out / "log.csv").read_bytes()
    assert contents(tmp_path / "run").keys() == contents(out).keys()


@pytest.mark.parametrize(
    "told",
    [
        {"accumulate": 2, "clipnorm": 0.5},
        pytest.param({"optimizer": "muon", "ema": 0.5}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "lamb", "initial_scale": 0.5}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adamw", "streamed": True}, marks=pytest.mark.slow),
    ],
    ids=lambda told: "-".join(told),
)
def test_every_option_of_a_training_survives_a_crash(tmp_path, monkeypatch, told):
    """What an option adds to the state: moments, sums of gradients, mean weights, the size of images, random parts."""
    options = {**RUN, **told}
    data, folder = {"train": pair(), "val": pair(16, 1)}, {}
    if options.pop("streamed", False):
        data = images.folder(tmp_path / "photos", {"a": 16, "b": 16}, size=(40, 50))
        folder = {"augment": "heavy", "cache_bytes": 0}

    def learn(place, **more):
        model = make(dropout=0.3)
        loaded = kc.load_data(data, model, batch_size=8, **folder)
        kc.train(model, loaded, out=tmp_path / place, **{**options, **more})
        return arrays.arrays(model)

    expected = learn("whole")
    crash_in(monkeypatch, 1)
    with pytest.raises(Crash):
        learn("run")
    for key, value in learn("run", resume=True).items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_weights_that_are_damaged_before_a_run_goes_on_are_written_anew(saved, tmp_path, monkeypatch, verb):
    """After the best epoch, so that no later one replaces them."""
    told = {} if verb == "train" else {"schedule": "head", "head_epochs": 2, "probe": False}
    offer = Best.offer
    # The first epoch is best: the figures of others are worse.
    monkeypatch.setattr(Best, "offer", lambda self, logs: offer(self, {**logs, self.monitor: float(not self.logs)}))
    crash_in(monkeypatch, 1)
    out, model = tmp_path / "run", make() if verb == "train" else kc.build(saved, classes=2)
    with pytest.raises(Crash):
        run_of(verb, model, out, **told)
    weights, config = (out / directory.WEIGHTS).read_bytes(), (out / directory.CONFIG).read_bytes()
    (out / directory.WEIGHTS).write_bytes(weights[: len(weights) // 2])
    run_of(verb, make() if verb == "train" else kc.build(saved, classes=2), out, resume=True, **told)
    assert ((out / directory.WEIGHTS).read_bytes(), (out / directory.CONFIG).read_bytes()) == (weights, config)
    assert kc.build(out).output_shape == (None, 2)


def test_a_run_that_is_complete_is_not_run_again(whole):
    out, expected, history = whole
    before = contents(out)
    model = make(7, dropout=0.3)
    again = kc.train(model, pair(), pair(16, 1), out=out, resume=True, **RUN)
    assert again.history == history.history and contents(out) == before
    for key, value in arrays.arrays(model).items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_a_run_goes_on_only_as_it_began(whole):
    out, before = whole[0], contents(whole[0])
    for other in ({"learning_rate": 0.1}, {"epochs": 3}, {"batch_size": 8}, {"seed": 1}):
        with pytest.raises(BadSpec, match=rf"{next(iter(other))} was .* and is .*overwrite=True"):
            kc.train(make(dropout=0.3), pair(), pair(16, 1), out=out, resume=True, **{**RUN, **other})
    with pytest.raises(BadSpec, match="network was"):
        kc.train(make(), pair(), pair(16, 1), out=out, resume=True, **RUN)
    with pytest.raises(BadSpec, match="data was"):
        kc.train(make(dropout=0.3), pair(seed=5), pair(16, 1), out=out, resume=True, **RUN)
    assert contents(out) == before


def test_a_data_set_goes_on_in_its_own_order_and_says_so(tmp_path, monkeypatch):
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices(pair()).batch(16)
    crash_in(monkeypatch, 1)
    with pytest.raises(Crash):
        kc.train(make(), batches, out=tmp_path / "run", **RUN)
    with pytest.warns(RunWarning, match="only Data and arrays repeat it"):
        kc.train(make(), batches, out=tmp_path / "run", resume=True, **RUN)
    assert not seen.read(tmp_path / "run" / seen.FILE)


def test_fine_tuning_that_is_cut_short_after_its_last_epoch_repeats_none(saved, tmp_path, monkeypatch):
    told = {"schedule": "head", "head_epochs": 2, "probe": False}
    finish = state.Run.finish

    def cut(self, facts):
        monkeypatch.setattr(state.Run, "finish", finish)
        raise Crash

    monkeypatch.setattr(state.Run, "finish", cut)
    with pytest.raises(Crash):
        run_of("fine_tune", kc.build(saved, classes=2), tmp_path / "run", **told)
    epochs = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    for _ in range(2):  # the second time, it is complete
        model = kc.build(saved, classes=2)
        history = run_of("fine_tune", model, tmp_path / "run", resume=True, callbacks=[watch], **told)
        assert history.history["phase"] == ["head", "head"] and not epochs
        for key, value in arrays.arrays(kc.build(tmp_path / "run")).items():
            np.testing.assert_array_equal(value, arrays.arrays(model)[key], err_msg=key)
    assert model.evaluate(*pair(), verbose=0)  # compiled


def test_a_full_disk_leaves_the_last_state(small_disk):
    out = small_disk / "run"
    with pytest.raises(CannotWrite, match=r"the disk is full .*resume=True \(--resume\)"), state.Run(out, {}) as run:
        run.keep(lambda: ({"a": np.ones(100)}, {"epoch": 1}), now=True)
        run.keep(lambda: ({"a": np.ones(100_000)}, {"epoch": 2}), now=True)
    with state.Run(out, {}, resume=True) as run:
        assert run.state and run.state[1]["epoch"] == 1
        assert {file.name for file in out.glob("[!.]*")} == {state.STATE, state.PREVIOUS}


@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_a_run_on_a_disk_that_was_full_ends_as_if_nothing_had_happened(saved, tmp_path, monkeypatch, verb):
    """The disk is full amid the writing of a state; there is room again when the run goes on."""
    told = {} if verb == "train" else {"schedule": "all", "epochs": 2, "probe": False}
    monkeypatch.setattr(state, "EVERY", 0.0)
    new = (lambda: make()) if verb == "train" else (lambda: kc.build(saved, classes=2))
    keras.utils.set_random_seed(0)
    run_of(verb, first := new(), tmp_path / "whole", **told)
    left, flush = [3], files.flush

    def full(path):
        if Path(path).name == state.STATE and not left.append(left.pop() - 1) and left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        flush(path)

    keras.utils.set_random_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(files, "flush", full)
        with pytest.raises(CannotWrite, match=r"the disk is full .*resume=True \(--resume\)"):
            run_of(verb, new(), tmp_path / "run", **told)
    assert state.read(tmp_path / "run" / state.STATE)
    keras.utils.set_random_seed(0)
    run_of(verb, again := new(), tmp_path / "run", resume=True, **told)
    for key, value in arrays.arrays(again).items():
        np.testing.assert_array_equal(value, arrays.arrays(first)[key], err_msg=key)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_hashes_of_its_images(whole):
    found, (pixels, _) = seen.read(whole[0] / seen.FILE).hashes, pair()
    assert found == set(seen.of(pixels)) == set(seen.of(pixels.astype("float32"))) and len(found) == len(pixels)
    assert not found & set(seen.of(pair(16, 1)[0])) and seen.read(whole[0] / "gone") is None


def test_images_of_a_folder_are_known_again_where_they_are_decoded_anew(tmp_path, saved):
    folder = images.folder(tmp_path / "pets", {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2}, size=(16, 16))
    model = kc.build(saved, classes=["a", "b"])
    data = kc.load_data(folder, model, augment="light", cache_bytes=0)
    kc.fine_tune(model, data, schedule="head", head_epochs=1, cache=False, out=tmp_path / "run", verbose=0)
    again = kc.load_data(folder, model)
    found = seen.read(tmp_path / "run" / seen.FILE).hashes
    assert found == set(seen.of(again.arrays("train").images))
    assert not found & set(seen.of(again.arrays("val").images))


def test_what_is_written_follows_the_umask_and_is_utf8(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "text", "naïve\n")
        out = kc.save_pretrained(make(), tmp_path / "net", provenance={"data": "naïve"})
    finally:
        os.umask(before)
    assert (tmp_path / "text").read_bytes() == "naïve\n".encode()
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "text", *out.iterdir())} == {0o640}


# --- a save is one rename -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renames", [1, 2])
def test_a_save_that_is_cut_short_is_whole_all_the_same(tmp_path, monkeypatch, renames):
    out, replace, done = tmp_path / "net", os.replace, []
    kc.save_pretrained(make(), out, provenance={"number": 1})

    def cut(source, target):
        if Path(target).parent == out:
            done.append(target)
            if len(done) > renames:
                raise OSError(errno.EIO, "as if killed", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    new = make(hidden=(4,))
    with pytest.raises(OSError, match="as if killed"):
        kc.save_pretrained(new, out, provenance={"number": 2})
    again = kc.build(out)
    assert directory.config_of(again).provenance["number"] == 2 == kc.info(str(out))["provenance"]["number"]
    for key, value in arrays.arrays(again).items():
        np.testing.assert_array_equal(value, arrays.arrays(new)[key], err_msg=key)


def test_the_weights_alone_are_complete_and_vouch_for_themselves(saved, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    assert directory.config_of(kc.build(tmp_path)).provenance["data"] == "noise"
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptFile, match="its checksum differs"):
        kc.build(tmp_path)


def test_what_a_killed_save_left_is_removed(tmp_path):
    out = kc.save_pretrained(make(), tmp_path / "net")
    (out / ".model.safetensors.abcdefgh").mkdir()
    (out / ".model.safetensors.abcdefgh" / "model.safetensors").write_bytes(b"half")
    (out / ".lock").touch()
    kc.save_pretrained(make(), out)
    assert sorted(contents(out)) == ["README.md", "config.json", "model.safetensors"]


# --- attacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", damage_state.KINDS)
def test_nothing_damaged_is_believed(kind):
    outcomes = damage_state.attack(kind, 40)
    assert not damage_state.bad(outcomes), outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", damage_state.KINDS)
def test_nothing_damaged_is_believed_often(kind):
    outcomes = damage_state.attack(kind, 1250)
    assert not damage_state.bad(outcomes), outcomes


@pytest.mark.parametrize(
    ("verb", "count"),
    [("save", 5), *[pytest.param(verb, 100, marks=pytest.mark.slow) for verb in ("train", "fine_tune", "save")]],
)
def test_killed_processes_lose_nothing(verb, count):
    done = subprocess.run(
        [sys.executable, ATTACK, "--verb", verb, "--count", str(count)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_errors_are_ours():
    assert all(issubclass(error, KerasCnnError) for error in (RunExists, RunInUse, CannotWrite))


# --- earlier releases -----------------------------------------------------------------------------------------------


def test_a_run_of_an_earlier_release_does_not_go_on_but_its_weights_load(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "fixtures" / "format1" / "run", out)
    before = contents(out)
    model = kc.build(out)
    with pytest.raises(RunExists, match=r"written by another version .*overwrite=True \(--overwrite\) begins anew"):
        kc.fine_tune(model, pair(), pair(), out=out, resume=True, **QUIET)
    assert {name: data for name, data in contents(out).items() if name != files.LOCK} == before
    assert np.isfinite(model.predict(pair(2)[0], verbose=0)).all()
    kc.fine_tune(model, pair(), pair(), schedule="head", head_epochs=1, out=out, overwrite=True, **QUIET)
    assert (out / "run.json").exists() and not (out / "progress.safetensors").exists()
