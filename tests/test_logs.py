"""What runs tell TensorBoard and others, on one axis of epochs through phases and kills; callbacks that users bring."""

import json

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec, MissingPackage
from keras_cnn.training import logs, state
from keras_cnn.training.options import LOGS, logs_of

Y = np.arange(24) % 2
X = (np.random.default_rng(0).integers(0, 200, (24, 8, 8, 3)) + 50 * Y[:, None, None, None]).astype("uint8")
TRAIN, VAL = (X[:16], Y[:16]), (X[16:], Y[16:])
TOLD = {"batch_size": 8, "verbose": 0}


def network(**told):
    keras.utils.set_random_seed(0)
    told = {"classes": ["cat", "dog"], **told}
    return kc.build("resnet20", depths=(1, 1), widths=(8, 8), strides=(1, 2), input_shape=(8, 8, 3), **told)


def run(verb, out, **told):
    """The History of a run of three epochs, of fine-tuning in two phases."""
    of_verb = {"epochs": 3} if verb == "train" else {"head_epochs": 1, "epochs": 2, "cache": False, "probe": False}
    return getattr(kc, verb)(network(), TRAIN, VAL, out=out, **{**of_verb, **TOLD, **told})


def events(folder):
    """Every (tag, step, value) of the event files below a folder, as TensorFlow reads them."""
    import tensorflow as tf

    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(one.tag, event.step, tf.make_ndarray(one.tensor)) for one in event.summary.value]
    return found


def scalars(folder, tag):
    return [(step, float(value)) for name, step, value in events(folder) if name == tag]


def _read_by_tensorboard(folder, losses):
    """TensorBoard itself, where it is installed, finds the same."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return
    import tensorflow as tf

    told = EventAccumulator(str(folder), {"tensors": 0}).Reload().Tensors("epoch_loss")
    values = [float(tf.make_ndarray(one.tensor_proto)) for one in told]
    assert [one.step for one in told] == [0, 1, 2]
    np.testing.assert_allclose(values, losses, rtol=1e-5)


def test_a_profile_of_the_graph_is_had_on_request(tmp_path):
    """By Keras' own callback, as the README has it."""
    run("train", tmp_path / "run", callbacks=[keras.callbacks.TensorBoard(tmp_path / "board", profile_batch=(1, 2))])
    [file] = (tmp_path / "board").rglob("*.xplane.pb")
    assert file.stat().st_size > 1000


class Crash(keras.callbacks.Callback):
    """Ends the process' part of a run in its last epoch, before anyone is told of it."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("crash")


@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_tensorboard_has_each_epoch_once_through_phases_and_a_crash(verb, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "EVERY", 1000.0)  # so that the state is the first one, and all epochs are repeated
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="crash"):
        run(verb, out, log="tensorboard", callbacks=[Crash()])
    assert [step for step, _ in scalars(out / "tensorboard" / "train", "epoch_loss")] == [0, 1]
    history = run(verb, out, log="tensorboard", resume=True).history
    for place, tag, key in (("train", "epoch_loss", "loss"), ("validation", "epoch_accuracy", "val_accuracy")):
        told = scalars(out / "tensorboard" / place, tag)
        assert [step for step, _ in told] == [0, 1, 2]
        np.testing.assert_allclose([value for _, value in told], history[key], rtol=1e-5)
    _read_by_tensorboard(out / "tensorboard" / "train", history["loss"])
    rates = {tag for tag, *_ in events(out / "tensorboard" / "train") if "learning_rate" in tag}
    stages = ("stem", "stage1", "stage2", "head")
    by_stage = {f"epoch_learning_rate_{stage}" for stage in stages}
    assert rates == ({"epoch_learning_rate"} if verb == "train" else by_stage)
    if verb == "fine_tune":  # the head's alone, then each stage's
        folder = out / "tensorboard" / "train"
        steps = {tag: [step for step, _ in scalars(folder, tag)] for tag in rates}
        assert steps["epoch_learning_rate_head"] == [0, 1, 2] and steps["epoch_learning_rate_stem"] == [1, 2]
    [(_, step, picture)] = [one for one in events(out / "tensorboard" / "validation") if one[0] == "validation images"]
    assert step == 3 and picture[2].startswith(b"\x89PNG")


def test_what_another_run_told_is_removed(tmp_path):
    (tmp_path / "run" / "tensorboard" / "train").mkdir(parents=True)
    for name in ("logs.json", "tensorboard/train/events.out.tfevents.1", "tensorboard/train/mine.txt"):
        (tmp_path / "run" / name).write_text("{}")
    run("train", tmp_path / "run", epochs=1, overwrite=True)
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "mine.txt" in left and not {"logs.json", "events.out.tfevents.1"} & set(left)


def test_logs_that_cannot_be_meant(tmp_path, monkeypatch):
    for verb in ("train", "fine_tune"):
        with pytest.raises(BadSpec, match=r"log='tensorbord': choose one of 'tensorboard', 'wandb', 'mlflow'"):
            run(verb, tmp_path / "run", log="tensorbord")
        with pytest.raises(BadSpec, match="writes into the directory of the run: give out"):
            run(verb, None, log=["tensorboard"])
    monkeypatch.setitem(LOGS, "wandb", "a_package_that_is_not_here")
    with pytest.raises(MissingPackage, match=r"log='wandb' needs .*: pip install a_package_that_is_not_here"):
        logs_of("tensorboard, wandb", tmp_path)
    assert logs_of("tensorboard, tensorboard", tmp_path) == ("tensorboard",) and logs_of(None, None) == ()
    assert not (tmp_path / "run").exists() and set(logs.TOLD) == set(LOGS)


def test_mlflow_has_one_run_with_each_epoch_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(state, "EVERY", 1000.0)
    with pytest.raises(RuntimeError, match="crash"):
        run("fine_tune", tmp_path / "run", log="mlflow", callbacks=[Crash()])
    history = run("fine_tune", tmp_path / "run", log="mlflow", resume=True).history
    number = json.loads((tmp_path / "run" / logs.NOTES).read_text())["mlflow"]
    client = mlflow.MlflowClient()
    told = client.get_metric_history(number, "val_accuracy")
    assert [one.step for one in told] == [0, 1, 2]
    np.testing.assert_allclose([one.value for one in told], history["val_accuracy"], rtol=1e-5)
    found = client.get_run(number)
    assert found.info.status == "FINISHED" and found.data.params["schedule"] == "two-phase"


@pytest.mark.slow
def test_wandb_keeps_a_run_without_a_network(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    told = []
    monkeypatch.setattr(wandb, "log", told.append)
    run("fine_tune", tmp_path / "run", log="wandb")
    assert [one["epoch/epoch"] for one in told] == [0, 1, 2] and "epoch/learning_rate_head" in told[0]
    number = json.loads((tmp_path / "run" / logs.NOTES).read_text())["wandb"]
    assert [*(tmp_path / "wandb").glob(f"offline-run-*-{number}")] and wandb.run is None


# --- pictures -------------------------------------------------------------------------------------------------------


class Given:
    """Stands for a training set, of which only the validation images are asked for."""

    def __init__(self, *pair):
        self.pair = pair

    def held_out(self):
        return [self.pair] if self.pair else None


def test_pictures_for_each_kind_of_network():
    told = {"depths": (1, 1), "widths": (8, 8), "strides": (1, 2), "input_shape": (8, 8, 3)}
    both = np.stack([Y, 1 - Y], 1)
    for more, labels in (
        ({"classes": 2}, Y),
        ({"classes": 2, "classifier_activation": None}, Y),
        ({"classes": 2, "task": "multilabel"}, both),
        ({"targets": ("age",), "task": "regression"}, Y[:, None].astype("float32")),
        ({"head": kc.UNet(classes=2, decoder=(8, 8))}, X[..., 0] // 200),
    ):
        found = logs.pictures(kc.build("resnet20", **told, **more), Given(X, labels), most=6)
        assert len(found) == 1, more
        for picture in found.values():
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 0
    assert logs.pictures(network(), Given()) == {}


# --- callbacks that users bring, and what the terminal shows --------------------------------------------------------


def test_callbacks_see_what_is_logged_and_the_terminal_images_a_second(capsys):
    passes = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: passes.append((epoch, logs["val_loss"])))
    history = run("train", None, callbacks=[watch], verbose=2).history
    assert passes == [*enumerate(history["val_loss"])] and "images/s" not in history
    shown = capsys.readouterr().out
    assert shown.count("images/s: ") == 3 and "Epoch 3/3" in shown


def test_a_phase_that_ends_early_leaves_no_gap(tmp_path, capsys):
    seen = []

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)
            self.model.stop_training = epoch == 1

    told = {"head_epochs": 4, "log": "tensorboard", "callbacks": [Stop()], "verbose": 2}
    history = run("fine_tune", tmp_path / "run", **told).history
    assert seen == [0, 1, 2, 3] and history["phase"] == ["head", "head", "all", "all"]
    steps = [step for step, _ in scalars(tmp_path / "run" / "tensorboard" / "train", "epoch_loss")]
    shown = capsys.readouterr().out
    assert steps == seen and shown.count("images/s: ") == 4 and "Epoch 4/4" in shown
