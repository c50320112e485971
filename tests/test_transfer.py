"""Freezing, heads, fine-tuning and training: who moves, who stays, and what is left behind."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec, NotFinite
from keras_cnn.models.heads import Head
from keras_cnn.training import optimizers, state
from keras_cnn.training.callbacks import Best
from keras_cnn.training.options import OPTIMIZERS, TrainOptions
from keras_cnn.training.schedules import OneCycle

COLOURS = ["dark", "light"]
STAGES = ["stem", "stage1", "stage2", "stage3", "head"]
QUIET = {"verbose": 0, "batch_size": 16}


def make(name: str = "resnet20", seed: bool = False, **keywords):
    model = kc.build(name, **{"input_shape": (16, 16, 3), "classes": COLOURS, **keywords})
    if seed:
        arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return model


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Noise, dark or light by class."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    images = rng.integers(0, 60, (count, 16, 16, 3)) + 190 * labels[:, None, None, None]
    return images.astype("uint8"), labels.astype("int32")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A weights directory of a network that knows three classes."""
    path = tmp_path_factory.mktemp("weights") / "net"
    return kc.save_pretrained(make(classes=3, seed=True), path, provenance={"source": "a test"})


def trainable(model) -> list[str]:
    """Stages with something to learn."""
    return [name for name, layers in kc.stages(model).items() if any(layer.trainable_weights for layer in layers)]


def moved(before: dict[str, np.ndarray], model) -> set[str]:
    return {key for key, value in arrays.arrays(model).items() if not np.array_equal(value, before[key])}


def fit(model, epochs: int = 1) -> None:
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    model.fit(*data(), batch_size=16, epochs=epochs, verbose=0)


# --- freezing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upto", [*STAGES, None])
def test_freeze_up_to_a_stage(upto):
    model = make()
    assert kc.freeze(model, upto) is model
    assert trainable(model) == STAGES[STAGES.index(upto or "stage3") + 1 :]
    assert trainable(make(freeze=upto)) == (trainable(model) if upto else STAGES)


@pytest.mark.parametrize("above", [*STAGES[:-1], None])
def test_unfreeze_above_a_stage(above):
    model = kc.freeze(make(), "head")
    assert trainable(model) == []
    assert kc.unfreeze(model, above) is model
    assert trainable(model) == (STAGES[STAGES.index(above) + 1 :] if above else STAGES)
    assert not model.get_layer("stem_preprocess").trainable


@pytest.mark.parametrize("change", [kc.freeze, kc.unfreeze, lambda m, s: kc.features(m, [s])])
def test_an_unknown_stage_lists_the_known(change):
    with pytest.raises(BadSpec, match=r"no stage 'stage7': this network has stem, stage1, stage2, stage3, head\.$"):
        change(make(), "stage7")


def test_bad_batch_norm_policy():
    with pytest.raises(BadSpec, match="bn='on': choose 'frozen' or 'train'"):
        kc.unfreeze(make(), bn="on")


@pytest.mark.parametrize(("bn", "statistics"), [("frozen", False), ("train", True), (None, False)])
def test_batch_norm_policy_of_pretrained_weights(pretrained, bn, statistics):
    model = kc.unfreeze(kc.freeze(kc.build(pretrained, classes=COLOURS)), "stage2", bn=bn)
    before = arrays.arrays(model)
    fit(model)
    changed = moved(before, model)
    assert {key.partition("_")[0] for key in changed} == {"stage3", "head"}
    norms = {key for key in changed if "_norm" in key}
    assert bool(norms) == statistics and any(key.endswith("moving_mean") for key in changed) == statistics


def test_batch_norm_of_random_weights_learns_by_default():
    model = kc.unfreeze(kc.freeze(make()))
    before = arrays.arrays(model)
    fit(model)
    assert any(key.endswith("moving_variance") for key in moved(before, model))


def test_what_a_run_of_ours_wrote_counts_as_pretrained(tmp_path):
    path = kc.save_pretrained(make(seed=True), tmp_path / "run", provenance={"metrics": {"val_accuracy": 0.9}})
    model = kc.unfreeze(kc.build(path))
    assert not any(layer.trainable for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))


@pytest.mark.parametrize("name", ["resnet20", "resnetv2_18"])
def test_frozen_stages_do_not_move_by_a_bit(name):
    model = make(name, seed=True)
    last = list(kc.stages(model))[-2]
    kc.freeze(model, last)
    before = arrays.arrays(model)
    fit(model)
    assert moved(before, model) == {"head_logits/kernel", "head_logits/bias"}


# --- heads and features ---------------------------------------------------------------------------------------------


def test_replace_head_keeps_all_else_and_shares_nothing():
    model = kc.freeze(make(seed=True), "stage1")
    before, flags = arrays.arrays(model), {layer.name: layer.trainable for layer in model.layers}
    new = kc.replace_head(model, Head(classes=4, hidden=(8,), dropout=0.5), ["a", "b", "c", "d"])
    after = arrays.arrays(new)
    assert {k for k in after if not k.startswith("head_")} == {k for k in before if not k.startswith("head_")}
    assert all(np.array_equal(after[k], v) for k, v in before.items() if not k.startswith("head_"))
    assert {layer.name: layer.trainable for layer in new.layers if layer.name[:5] != "head_"} == {
        k: v for k, v in flags.items() if k[:5] != "head_"
    }
    assert all(layer.trainable for layer in kc.stages(new)["head"])
    assert new.output_shape == (None, 4) and config_of(new).class_names == ("a", "b", "c", "d")
    fit(new)
    assert moved(before, model) == set() and model.output_shape == (None, 2)
    assert config_of(model).class_names == tuple(COLOURS)
    assert {layer.name: layer.trainable for layer in model.layers} == flags


def test_replace_head_counts_the_names():
    with pytest.raises(BadSpec, match=r"2 class names for 3 classes\."):
        kc.replace_head(make(), Head(classes=3), ["a", "b"])


def test_features_are_the_maps_of_the_stages():
    model = make(seed=True)
    maps = kc.features(model, ["stage3", "stem", "stage1"])
    outputs = maps(data(2)[0])
    assert [tuple(f.shape) for f in outputs] == [(2, 4, 4, 64), (2, 16, 16, 16), (2, 16, 16, 16)]
    pooled = kc.build("resnet20", input_shape=(16, 16, 3), classes=0)
    arrays.assign(pooled, {k: v for k, v in arrays.arrays(model).items() if not k.startswith("head_")})
    np.testing.assert_allclose(np.mean(outputs[0], (1, 2)), pooled(data(2)[0]), rtol=1e-5)
    names = ["stem", *[f"stage{s}" for s in range(1, 5)], "top"]
    shapes = [f.shape[1:] for f in kc.features(make("resnetv2_18", input_shape=(64, 64, 3)), names).outputs]
    assert shapes == [(32, 32, 64), (16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512), (2, 2, 512)]


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 5, 100, 1001])
def test_one_cycle_rises_to_its_peak_and_falls_to_nothing(steps):
    rates = np.array([float(OneCycle(0.4, steps)(step)) for step in range(steps)])
    assert (rates > 0).all() and rates.max() == pytest.approx(0.4)
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top + 1 :]) < 0).all()
    if steps >= 100:
        assert top == pytest.approx(0.2 * steps, abs=2) and rates[-1] < 0.4 * 1e-3 and rates[0] < 0.4 / 10
    assert float(OneCycle(0.4, steps)(steps)) == pytest.approx(0, abs=1e-6)


def test_a_schedule_serialises():
    serialize, part = keras.saving.serialize_keras_object, OneCycle(0.3, 50, 0.1)
    assert serialize(keras.saving.deserialize_keras_object(serialize(part))) == serialize(part)


@pytest.mark.parametrize("name", [None, *OPTIMIZERS])
def test_vectors_do_not_decay(name):
    model, told = make(), TrainOptions(optimizer=name or "sgd", learning_rate=0.1, weight_decay=0.1)
    optimizer = optimizers.of(told, steps=1) if name else optimizers.adamw(0.1)
    optimizer.build(model.trainable_variables)
    decays = {v.path: optimizer._use_weight_decay(v) for v in model.trainable_variables}
    assert {path for path, decay in decays.items() if decay} == {path for path in decays if path.endswith("/kernel")}


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def test_fine_tune_learns_and_leaves_a_weights_directory(pretrained, tmp_path):
    out, train, val = tmp_path / "out", data(64), data(32)
    model = kc.build(pretrained, classes=COLOURS)
    history = kc.fine_tune(
        model, train, val, head_epochs=2, epochs=2, out=out, learning_rate=1e-3, provenance={"data": "greys"}, **QUIET
    ).history
    assert history["phase"] == ["head", "head", "all", "all"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= history.keys()
    assert {len(values) for values in history.values()} == {4}
    assert max(history["val_accuracy"]) > 0.9
    accuracy = float((model.predict(val[0], verbose=0).argmax(1) == val[1]).mean())
    assert accuracy == pytest.approx(max(history["val_accuracy"]))
    again = kc.build(out)
    np.testing.assert_array_equal(again.predict(val[0], verbose=0), model.predict(val[0], verbose=0))
    known = config_of(again)
    assert known.class_names == tuple(COLOURS) and known.provenance["data"] == "greys"
    assert known.provenance["metrics"]["val_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("bad", [{"above": "stage7"}, {"bn": "on"}])
def test_bad_options_are_told_before_anything_is_trained(pretrained, tmp_path, bad):
    model = kc.build(pretrained, classes=COLOURS)
    before = arrays.arrays(model)
    with pytest.raises(BadSpec):
        kc.fine_tune(model, data(), data(), head_epochs=1, epochs=1, out=tmp_path / "out", **bad, **QUIET)
    assert moved(before, model) == set() and not (tmp_path / "out").exists()


class Spoil(keras.callbacks.Callback):
    """Harms the weights before the epochs that it is told."""

    def __init__(self, *epochs: int, by: float) -> None:
        super().__init__()
        self.epochs, self.by = epochs, by

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.epochs:
            kernel = self.model.get_layer("head_logits").kernel
            kernel.assign(kernel * self.by)


def test_the_best_epoch_is_restored_and_written(pretrained, tmp_path):
    model = kc.build(pretrained, classes=COLOURS)
    kept = []
    remember = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append((logs["val_accuracy"], arrays.arrays(model)))
    )
    callbacks = [remember, Spoil(2, by=-100.0)]
    kc.fine_tune(
        model,
        data(64),
        data(),
        head_epochs=3,
        epochs=0,
        head_learning_rate=5e-2,
        out=tmp_path,
        callbacks=callbacks,
        **QUIET,
    )
    best = max(accuracy for accuracy, _ in kept)
    assert kept[2][0] < best
    expected = [values for accuracy, values in kept if accuracy == best][-1]
    assert moved(expected, model) == set() and moved(expected, kc.build(tmp_path)) == set()


def test_a_callback_may_stop_a_phase_early(pretrained):
    stop = keras.callbacks.LambdaCallback()
    stop.on_epoch_end = lambda epoch, logs=None: setattr(stop.model, "stop_training", True)
    model = kc.build(pretrained, classes=COLOURS)
    history = kc.fine_tune(model, data(), data(), head_epochs=3, epochs=3, callbacks=[stop], **QUIET)
    assert history.history["phase"] == ["head", "all"]


def test_without_validation_data_the_last_epoch_counts(pretrained, tmp_path):
    model = kc.build(pretrained, classes=COLOURS)
    history = kc.fine_tune(model, data(), head_epochs=1, epochs=1, above="stage2", out=tmp_path, **QUIET)
    assert "val_loss" not in history.history
    assert moved(arrays.arrays(kc.build(tmp_path)), model) == set()
    assert trainable(model) == ["stage3", "head"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(pretrained, tmp_path):
    out = tmp_path / "out"
    kc.fine_tune(kc.build(pretrained, classes=COLOURS), data(), data(), head_epochs=1, epochs=0, out=out, **QUIET)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    spoil = Spoil(0, by=float("nan"))
    with pytest.raises(
        NotFinite, match=r"after batch 1: lower the learning rate\. The last good weights are in .*out\."
    ):
        kc.fine_tune(
            kc.build(pretrained, classes=COLOURS),
            data(),
            data(),
            probe=False,
            out=out,
            overwrite=True,
            callbacks=[spoil],
            **QUIET,
        )
    weights = ("README.md", "config.json", "model.safetensors")
    assert all((out / name).read_bytes() == before[name] for name in weights)
    with pytest.raises(NotFinite, match=r"lower the learning rate\.$"):
        kc.train(spoiled(), data(), epochs=1, verbose=0)


def spoiled():
    model = make()
    kernel = model.get_layer("head_logits").kernel
    kernel.assign(kernel * float("nan"))
    return model


# --- training from scratch ------------------------------------------------------------------------------------------


class Crash(RuntimeError):
    pass


def crashing(monkeypatch, after: int, judge=lambda epoch, logs: logs):
    """Training crashes once, at the end of an epoch; its state is written at every one. Returns the epochs seen."""
    seen: list[int] = []
    end = Best.on_epoch_end

    def crash(self, epoch, logs=None):
        end(self, epoch, judge(epoch, logs or {}))
        seen.append(epoch)
        if seen == list(range(after + 1)):
            raise Crash

    monkeypatch.setattr(Best, "on_epoch_end", crash)
    monkeypatch.setattr(state, "EVERY", 0.0)
    return seen


@pytest.mark.slow
def test_training_that_goes_on_keeps_its_best_epoch(tmp_path, monkeypatch):
    run = {"epochs": 4, "learning_rate": 0.02, "out": tmp_path / "out", **QUIET}
    crashing(monkeypatch, 2, lambda epoch, logs: {**logs, "val_accuracy": 0.9 if epoch == 0 else 0.5})
    with pytest.raises(Crash):
        kc.train(make(), data(64), data(), **run)
    best = arrays.arrays(kc.build(tmp_path / "out"))
    model = make()
    assert kc.train(model, data(64), data(), resume=True, **run).epoch == [0, 1, 2, 3]
    for found in (model, kc.build(tmp_path / "out")):
        assert moved(best, found) == set()


@pytest.mark.slow
def test_training_goes_on_after_a_crash(tmp_path, monkeypatch):
    run = {"epochs": 4, "learning_rate": 0.02, "out": tmp_path / "out", **QUIET}
    seen = crashing(monkeypatch, 2)
    with pytest.raises(Crash):
        kc.train(make(), data(64), data(), **run)
    assert kc.build(tmp_path / "out").output_shape == (None, 2)
    model = make()
    history = kc.train(model, data(64), data(), resume=True, **run)
    assert seen == [0, 1, 2, 2, 3] and history.epoch == [0, 1, 2, 3]
    assert {len(values) for values in history.history.values()} == {4}
    assert int(model.optimizer.iterations) == 4 * 4
    names = ["README.md", "config.json", "log.csv", "model.safetensors", "run.json", "seen.txt"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    lines = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3"]
    np.testing.assert_array_equal(
        kc.build(tmp_path / "out").predict(data()[0], verbose=0), model.predict(data()[0], verbose=0)
    )
