"""Schedules, rates by stage, resuming and the other choices of `fine_tune`; the plain call is in test_transfer.py."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec

import images
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData, BadImage, BadSpec, NotFinite, WeightsWarning
from keras_cnn.tasks import classification
from keras_cnn.training import evaluation
from keras_cnn.training.optimizers import StageOptimizers
from keras_cnn.training.options import SCHEDULES, FineTuneOptions
from keras_cnn.training.phases import Phase, plan, settled
from keras_cnn.training.schedules import OneCycle

NAMES = ["stem", "stage1", "stage2", "stage3", "head"]
QUIET = {"verbose": 0, "batch_size": 16, "cache": False}


def pair(count: int = 32, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose brightness is the class."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % classes
    pixels = rng.integers(0, 60, (count, 16, 16, 3)) + (190 // (classes - 1)) * labels[:, None, None, None]
    return pixels.astype("uint8"), labels.astype("int32")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    keras.utils.set_random_seed(1)
    net = kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=3)
    return kc.save_pretrained(net, tmp_path_factory.mktemp("weights") / "net", provenance={"source": "a test"})


@pytest.fixture
def net(weights):
    return kc.build(weights, classes=["dark", "light"])


def moved(before, model) -> set[str]:
    return {key for key, value in arrays.arrays(model).items() if not np.array_equal(value, before[key])}


# --- schedules ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    head_epochs=st.integers(0, 5),
    epochs=st.integers(0, 20),
    rate=st.floats(1e-6, 1),
    decay=st.floats(0.1, 1),
    above=st.sampled_from([None, *NAMES[:-1]]),
)
def test_every_schedule_spends_its_epochs_and_only_ever_adds_stages(schedule, head_epochs, epochs, rate, decay, above):
    told = {"head_epochs": head_epochs, "epochs": epochs, "head_learning_rate": 0.3}
    told |= {"schedule": schedule, "learning_rate": rate, "layer_decay": decay, "above": above}
    phases = plan(NAMES, FineTuneOptions(**told))
    learning = NAMES[NAMES.index(above) + 1 : -1] if above else NAMES[:-1]
    with_head = head_epochs if schedule != "all" else 0
    assert sum(phase.epochs for phase in phases) == with_head + (epochs if schedule != "head" else 0)
    assert all(phase.epochs > 0 for phase in phases)
    for before, after in itertools.pairwise(phases):
        assert before.rates.keys() < after.rates.keys() or not learning
    for phase in phases:
        assert phase.rates.keys() <= {*learning, "head"}
        if phase.name == "head":
            assert phase.rates == {"head": 0.3}
            continue
        below = [phase.rates[name] for name in reversed(learning) if name in phase.rates]
        np.testing.assert_allclose(below, [rate * decay ** (i + 1) for i in range(len(below))])
        assert phase.rates["head"] == rate
    if phases and schedule in ("gradual", "two-phase") and epochs and learning:
        assert set(phases[-1].rates) == {*learning, "head"}


@pytest.mark.parametrize(
    ("images", "batch_size", "told", "bn", "rate"),
    [
        (500, 16, {}, "train", 1e-3),
        (499, 16, {}, "frozen", 5e-4),
        (500, 15, {}, "frozen", 5e-4),
        (9, 2, {"bn": "recalibrate"}, "recalibrate", 1e-3),
        (500, 16, {"bn": "frozen"}, "frozen", 5e-4),
        (500, 16, {"learning_rate": 0.1}, "train", 0.1),
    ],
)
def test_few_images_keep_batch_norm_and_learn_at_half_the_rate(net, images, batch_size, told, bn, rate):
    found = settled(FineTuneOptions(**told), net, images, batch_size)
    assert (found.bn, found.learning_rate) == (bn, rate)


def test_gradual_unfreezing_goes_down_a_stage_an_epoch():
    told = {"head_epochs": 2, "epochs": 6, "schedule": "gradual", "learning_rate": 1e-3}
    assert [(phase.name, phase.epochs) for phase in plan(NAMES, FineTuneOptions(**told))] == [
        *[("head", 2), ("stage3", 1), ("stage2", 1), ("stage1", 1), ("all", 3)]
    ]


@pytest.mark.parametrize(
    "told,names",
    [
        ({"schedule": "slow"}, ["gradual", "two-phase", "all", "head"]),
        ({"warmup": 2}, ["warmup=2: give 0 or more, at most 1."]),
        ({"above": "stage9"}, NAMES[:-1]),
        ({"bn": "off"}, ["frozen", "train", "recalibrate"]),
        ({"class_weight": "fair"}, ["balanced"]),
        ({"ema": 1.5}, ["ema=1.5: give 0 or more, at most 0.9999"]),
        ({"epochs": "many"}, ["epochs='many': give a whole number."]),
        ({"views": -1}, ["views=-1: give 0 or more."]),
        ({"head_epochs": 0, "epochs": 0}, ["no epoch to learn in"]),
    ],
)
def test_bad_options_name_the_choices_before_anything_moves(net, told, names):
    before = arrays.arrays(net)
    with pytest.raises(BadSpec) as error:
        kc.fine_tune(net, pair(), pair(), **told, **QUIET)
    assert all(name in str(error.value) for name in names) and moved(before, net) == set()


@pytest.mark.parametrize("told", [{"above": "stage9"}, {"schedule": "head", "head_epochs": 0}])
def test_bad_options_are_told_before_data_is_read(net, told):
    def unread():
        raise AssertionError("data was read")
        yield

    with pytest.raises(BadSpec, match=r"no stage|no epoch"):
        kc.fine_tune(net, unread(), **told, **QUIET)


def test_stages_learn_when_their_phase_comes(net):
    states = [arrays.arrays(net)]
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: states.append(arrays.arrays(net)))
    kc.fine_tune(net, pair(), schedule="gradual", head_epochs=1, epochs=4, probe=False, callbacks=[watch], **QUIET)
    changed = [
        {key.partition("_")[0] for key, value in after.items() if not np.array_equal(value, before[key])}
        for before, after in itertools.pairwise(states)
    ]
    assert changed == [set(NAMES[-n:]) for n in (1, 2, 3, 4, 5)]


# --- rates by stage -------------------------------------------------------------------------------------------------


def test_the_first_step_of_each_stage_is_its_rate(net):
    """Adam's first step is the rate, whatever the gradient: so rates by stage are real, as scaled gradients are not."""
    phase = Phase("all", 1, {name: 0.1 * 0.5**i for i, name in enumerate(reversed(NAMES))})
    optimizers = StageOptimizers(weight_decay=0.0)
    kc.unfreeze(net)
    optimizers.enter(net, phase)
    optimizer = optimizers.of_phase(phase, steps=1, warmup=1.0)
    before = {v.path: np.array(v) for v in net.trainable_variables}
    gradients = [keras.ops.ones_like(v) * 1e3 ** (i % 2) for i, v in enumerate(net.trainable_variables)]
    keras.optimizers.MultiOptimizer.apply(optimizer, gradients, net.trainable_variables)  # not clipped
    for variable in net.trainable_variables:
        step = before[variable.path] - np.array(variable)
        np.testing.assert_allclose(step, phase.rates[variable.path.partition("_")[0]], rtol=2e-3)


def test_gradients_are_clipped_over_all_stages(net):
    """Of a gradient of ones, whose norm is to be 1; Adam's first moment is a tenth of what it was given."""
    phase = Phase("all", 1, dict.fromkeys(NAMES, 0.1))
    optimizers = StageOptimizers(weight_decay=0.0)
    kc.unfreeze(net)
    optimizers.enter(net, phase)
    optimizer = optimizers.of_phase(phase, steps=1, warmup=1.0)
    optimizer.apply([keras.ops.ones_like(v) for v in net.trainable_variables], net.trainable_variables)
    moments = [np.array(v) for v in optimizer.variables if v.path.endswith("momentum")]
    assert len(moments) == len(net.trainable_variables)
    many = sum(moment.size for moment in moments)
    np.testing.assert_allclose(np.concatenate([m.ravel() for m in moments]), 0.1 / many**0.5, rtol=1e-4)


def test_moments_survive_a_change_of_freezing(net):
    seen = {}

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            head = self.model.optimizer.optimizers[0]
            seen[len(seen)] = {v.path: np.array(v) for v in head.variables}

        def on_train_end(self, logs=None):
            self.last = {v.path: np.array(v) for v in self.model.optimizer.optimizers[0].variables}

    watch = Watch()
    ends = []
    keep = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: ends.append(getattr(watch, "last", None)))
    kc.fine_tune(net, pair(), schedule="two-phase", head_epochs=2, epochs=1, callbacks=[keep, watch], **QUIET)
    assert all(not value.any() for value in seen[0].values())
    assert seen[1].keys() == ends[1].keys() and all((seen[1][path] == ends[1][path]).all() for path in seen[1])
    assert any(path.endswith("momentum") and value.any() for path, value in seen[1].items())


def test_a_cycle_may_begin_late():
    first, late = OneCycle(0.4, 50), OneCycle(0.4, 50, start=70)
    assert [float(first(step)) for step in range(50)] == [float(late(step + 70)) for step in range(50)]


def test_a_model_that_was_fine_tuned_is_saved_and_loaded_with_its_optimisers(net, tmp_path):
    kc.fine_tune(net, pair(), pair(), head_epochs=1, epochs=1, schedule="two-phase", **QUIET)
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again.predict(pair()[0], verbose=0), net.predict(pair()[0], verbose=0))
    states = [[np.array(v) for v in model.optimizer.variables if v.path.endswith("momentum")] for model in (net, again)]
    assert len(states[0]) == len(net.trainable_variables) and all(map(np.array_equal, *states))
    inputs, labels = pair()
    again.fit(inputs, labels, batch_size=16, verbose=0)


@pytest.mark.parametrize("call", ["fine_tune", "train"])
def test_a_model_that_has_learnt_goes_on_in_keras_with_labels_as_data_has_them(call, net):
    inputs, labels = pair()
    how = {"head_epochs": 1, "probe": False, "cache": False} if call == "fine_tune" else {}
    getattr(kc, call)(net, inputs, labels, validation_data=(inputs, labels), epochs=1, verbose=0, **how)
    told = net.evaluate(inputs, labels, return_dict=True, verbose=0)
    right = (net.predict(inputs, verbose=0).argmax(1) == labels).mean()
    assert told["accuracy"] == pytest.approx(right) and "accuracy" in net.fit(inputs, labels, verbose=0).history


# --- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["stage2", "stage3"])
def test_features_computed_once_come_to_the_same_as_the_whole_network(weights, tmp_path, above, monkeypatch):
    """The same epochs, batches and weights, whether the frozen part is run once or in every epoch."""
    from keras_cnn.transfer import split

    found = []
    for divided in (True, False):
        keras.utils.set_random_seed(3)
        model = kc.build(weights, classes=["dark", "light"])
        if not divided:
            monkeypatch.setattr(split, "divide", lambda model: None)
        history = kc.fine_tune(
            model, pair(), pair(24, seed=1), above=above, head_epochs=2, epochs=2, schedule="two-phase", **QUIET
        )
        found.append((history.history, arrays.arrays(model)))
    (one, weights_one), (two, weights_two) = found
    assert one["phase"] == two["phase"]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
    for key, value in weights_one.items():
        np.testing.assert_allclose(value, weights_two[key], atol=2e-4, err_msg=key)


def test_a_frozen_backbone_is_run_once(net, tmp_path, monkeypatch):
    from keras_cnn.transfer import cache

    counted = []
    real = cache.features

    def counting(network, batches, store=None):
        counted.append(0)

        def count():
            for batch in batches:
                counted[-1] += len(batch)
                yield batch

        return real(network, count(), store)

    monkeypatch.setattr("keras_cnn.transfer.precomputed.features", counting)
    kc.fine_tune(net, pair(48), pair(20), head_epochs=6, epochs=0, **{**QUIET, "cache": tmp_path})
    assert counted == [48, 20]
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_views_are_augmented_and_as_many_as_wanted(weights, tmp_path):
    folder = images.folder(tmp_path / "pets", {"a": 9, "b": 9}, size=(16, 16))
    model = kc.build(weights, classes=["a", "b"])
    data = kc.load_data(folder, model, augment="light", batch_size=4)
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    watch.on_epoch_begin = lambda epoch, logs=None: seen.append(watch.model.input.shape[1:])
    history = kc.fine_tune(model, data, views=2, head_epochs=4, epochs=0, cache=tmp_path, callbacks=[watch], verbose=0)
    assert seen == [(64,)] * 4 and len(history.epoch) == 4
    from keras_cnn.data.training_set import training_set
    from keras_cnn.transfer import split
    from keras_cnn.transfer.precomputed import Features

    kc.freeze(model)
    lower = split.divide(model)[0]
    train, _ = Features(training_set(data)).of(lower, tmp_path, 2)
    for number, (features, labels) in enumerate(train):
        data.seek(number)
        batches = [(np.asarray(x), np.asarray(y)) for x, y in data.train]
        expected = np.concatenate([np.asarray(lower(x)) for x, _ in batches])
        np.testing.assert_allclose(features, expected, atol=1e-5)
        np.testing.assert_array_equal(labels, np.concatenate([y for _, y in batches]))


def test_an_augmented_backbone_learns_on_images(weights, tmp_path):
    folder = images.folder(tmp_path / "pets", {"a": 6, "b": 6}, size=(16, 16))
    model = kc.build(weights, classes=["a", "b"])
    shapes = []
    watch = keras.callbacks.LambdaCallback()
    watch.on_epoch_begin = lambda epoch, logs=None: shapes.append(watch.model.input_shape[1:])
    data = kc.load_data(folder, model, augment="heavy", batch_size=4)
    told = {"above": "stage2", "schedule": "two-phase", "head_epochs": 1, "epochs": 1, "cache": False, "verbose": 0}
    history = kc.fine_tune(model, data, callbacks=[watch], **told).history
    assert shapes == [(64,), (16, 16, 3)] and np.isfinite(history["loss"]).all()


# --- the probe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes,labels", [(2, [0, 1]), (3, [0, 1, 2]), (5, [1, 3, 4]), (4, [0, 3])])
def test_a_probe_is_the_logistic_regression_it_folds(classes, labels):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    truth = rng.choice(labels, 90)
    features = (rng.normal(size=(90, 6)) + truth[:, None] * np.arange(6) / 4 + 5).astype("float32")
    kernel, bias = classification.logistic(features, truth, classes)
    scores = features @ kernel + bias
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    centred = features - features.mean(0)
    expected = LogisticRegression(C=classification.STRENGTH, max_iter=500)
    expected.fit(centred / np.linalg.norm(centred, axis=1).mean(), truth)
    found = expected.predict_proba(centred / np.linalg.norm(centred, axis=1).mean())
    np.testing.assert_allclose(shares[:, sorted(labels)], found, atol=2e-3)
    assert set(scores.argmax(1)) <= set(labels)


def test_the_network_never_ends_worse_than_its_probe(net, tmp_path):
    before = net.get_layer("head_logits").get_weights()
    found = kc.probe(net, pair(64), pair(32, seed=1), cache=False)
    assert found.linear > 0.9 and found.knn > 0.9 and found.images == 64
    assert all((a == b).all() for a, b in zip(before, net.get_layer("head_logits").get_weights(), strict=True))
    one_class = [np.zeros_like(before[0]), np.array([1.0, 0.0])]  # a random head may be right by chance
    net.get_layer("head_logits").set_weights(one_class)
    told = {"head_epochs": 1, "head_learning_rate": 1e-9, "epochs": 0, "out": tmp_path / "out"}
    history = kc.fine_tune(net, pair(64), pair(32, seed=1), **told, **QUIET)
    assert max(history.history["val_accuracy"]) < found.linear
    assert (history.baselines.linear, history.baselines.knn) == (found.linear, found.knn)
    accuracy = float((net.predict(pair(32, seed=1)[0], verbose=0).argmax(1) == pair(32, seed=1)[1]).mean())
    assert accuracy >= found.linear
    assert moved(arrays.arrays(kc.build(tmp_path / "out")), net) == set()


def test_a_network_with_an_auxiliary_classifier_is_probed_by_its_head(two_outputs):
    before = arrays.arrays(two_outputs)
    plain = keras.Model(two_outputs.input, two_outputs.outputs[0])
    found, expected = (kc.probe(net, pair(64), pair(32, seed=1), cache=False) for net in (two_outputs, plain))
    assert (found.linear, found.knn) == (expected.linear, expected.knn) and found.linear > 0.9
    assert moved(before, two_outputs) == set()
    told = {"schedule": "head", "head_epochs": 1, "head_learning_rate": 1e-9, "bn": "frozen"}
    history = kc.fine_tune(two_outputs, pair(64), pair(32, seed=1), **told, **QUIET)
    assert history.baselines.linear == found.linear
    accuracy = evaluation.evaluate(two_outputs, [pair(32, seed=1)]).metrics["accuracy"]
    assert accuracy >= found.linear


def test_a_network_that_was_better_before_is_kept(weights):
    model, held_out = kc.build(weights, classes=["dark", "light"]), pair(32, seed=1)
    kc.fine_tune(model, pair(64), held_out, head_epochs=3, epochs=2, **QUIET)
    before = arrays.arrays(model)
    right = (model.predict(held_out[0], verbose=0).argmax(1) == held_out[1]).mean()
    wrong = pair(64)[0], 1 - pair(64)[1]
    told = {"schedule": "all", "epochs": 1, "learning_rate": 3e-2, "class_weight": {0: 1.0, 1: 0.0}}
    history = kc.fine_tune(model, wrong, held_out, **told, **QUIET).history
    assert history["val_accuracy"][0] < right and moved(before, model) == set()


# --- regularisation -------------------------------------------------------------------------------------------------


def test_l2sp_pulls_to_the_pretrained_weights_and_leaves_no_trace(weights):
    distances = {}
    for strength in (0.0, 10.0):
        keras.utils.set_random_seed(0)
        model = kc.build(weights, classes=["dark", "light"])
        before = arrays.arrays(model)
        told = {"schedule": "all", "epochs": 4, "l2sp": strength, "weight_decay": 0.0, "probe": False}
        kc.fine_tune(model, pair(64), learning_rate=1e-2, **told, **QUIET)
        kernels = [key for key in before if key.endswith("/kernel") and not key.startswith("head")]
        after = arrays.arrays(model)
        distances[strength] = sum(float(((after[key] - before[key]) ** 2).sum()) for key in kernels)
        assert model.losses == []
    assert distances[10.0] < 0.3 * distances[0.0]


def test_mean_weights_are_what_is_validated_and_kept(weights, tmp_path):
    model = kc.build(weights, classes=["dark", "light"])
    told = {"schedule": "two-phase", "head_epochs": 1, "epochs": 5, "ema": 0.5, "probe": False, "out": tmp_path / "out"}
    history = kc.fine_tune(model, pair(64), pair(), **told, **QUIET).history
    kept = kc.build(tmp_path / "out")
    assert moved(arrays.arrays(kept), model) == set()
    accuracy = float((model.predict(pair()[0], verbose=0).argmax(1) == pair()[1]).mean())
    assert accuracy == pytest.approx(max(history["val_accuracy"]))
    means = [v for o in model.optimizer.optimizers for v in o.variables if v.path.endswith("average")]
    assert len(means) == len(model.trainable_variables)


@pytest.mark.parametrize("form", ["arrays", "data"])
def test_validation_sees_more_images_at_once_than_training_and_comes_to_the_same(net, form, tmp_path):
    class Count(keras.callbacks.Callback):
        validated = 0

        def on_test_batch_end(self, batch, logs=None):
            self.validated += 1

    if form == "data":
        images.folder(tmp_path / "train", {"dark": 20, "light": 20})
        images.folder(tmp_path / "val", {"dark": 30, "light": 40})
        train = kc.load_data(tmp_path, net, batch_size=16)
        told, val = {"verbose": 0, "cache": False}, train.val
    else:
        (train, val), told = (pair(40), pair(70)), QUIET
    counted = Count()
    told = {"schedule": "all", "head_epochs": 0, "epochs": 1, "label_smoothing": 0.0, "probe": False, **told}
    history = kc.fine_tune(net, train, None if form == "data" else val, callbacks=[counted], **told).history
    assert counted.validated == 1
    again = net.evaluate(*val, verbose=0) if form == "arrays" else net.evaluate(val, verbose=0)
    assert again == pytest.approx([history["val_loss"][0], history["val_accuracy"][0]], abs=1e-5)


def test_patience_ends_a_phase(net):
    """The first epoch is a new best; two without one follow."""
    told = {"schedule": "head", "head_epochs": 20, "patience": 2, "head_learning_rate": 1e-12}
    assert len(kc.fine_tune(net, pair(), pair(), **told, **QUIET).epoch) == 3


def test_patience_needs_something_to_judge_by(net):
    with pytest.raises(BadData, match="patience needs validation images"):
        kc.fine_tune(net, pair(), patience=2, **QUIET)


def test_mean_weights_of_a_phase_begin_with_the_best_epoch(net):
    optimizers = StageOptimizers(weight_decay=0.0, ema=0.9)
    phase = Phase("head", 1, {"head": 0.1})
    optimizers.enter(net, phase)
    net.get_layer("head_logits").kernel.assign(np.full((64, 2), 7.0))
    optimizers.enter(net, phase)
    mean = next(v for key, v in optimizers.variables.items() if v.path.endswith("average") and len(v.shape) == 2)
    np.testing.assert_array_equal(mean, np.full((64, 2), 7.0))


def test_a_network_that_gives_logits_learns_too(weights):
    model = kc.build(weights, classes=["dark", "light"], classifier_activation=None)
    history = kc.fine_tune(model, pair(64), pair(), schedule="head", head_epochs=10, probe=False, **QUIET).history
    assert max(history["val_accuracy"]) == 1.0


def test_rare_classes_weigh_as_much_as_common_ones():
    from keras_cnn.data.training_set import training_set
    from keras_cnn.training.targets import class_weights

    net = kc.build("resnet20", classes=4)
    labels = np.array([0] * 6 + [1] * 2 + [3] * 4)
    arrays = training_set((np.zeros((12, 1)), labels))
    assert class_weights("balanced", arrays, net) == pytest.approx({0: 12 / 18, 1: 2.0, 2: 1.0, 3: 1.0})
    numbers = dict(zip(np.unique(labels), np.ones(3), strict=True))  # NumPy's numbers are numbers
    assert class_weights({**numbers, 0: 2}, arrays, net) == {0: 2.0, 1: 1.0, 2: 1.0, 3: 1.0}
    with pytest.raises(BadSpec, match="class_weight has the class 4: the head's go from 0 to 3"):
        class_weights({4: 1.0}, arrays, net)


def test_class_weights_reach_the_loss(net):
    """A class that weighs nothing is never learnt."""
    told = {"schedule": "head", "head_epochs": 10, "class_weight": {0: 0.0, 1: 1.0}, "probe": False}
    kc.fine_tune(net, pair(64), **told, **QUIET)
    assert set(net.predict(pair(64)[0], verbose=0).argmax(1)) == {1}


def test_recalibrated_statistics_are_those_of_the_training_images(weights):
    model = kc.build(weights, classes=["dark", "light"])
    history = kc.fine_tune(model, pair(48), pair(), schedule="all", epochs=2, bn="recalibrate", **QUIET)
    assert history.history["phase"] == ["all", "all"]
    stem = keras.Model(model.input, model.get_layer("stem_norm").input)
    values = stem.predict(pair(48)[0], verbose=0)
    layer = model.get_layer("stem_norm")
    np.testing.assert_allclose(np.array(layer.moving_mean), values.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(np.array(layer.moving_variance), values.var((0, 1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("told, kept", [({"schedule": "head"}, NAMES), ({"above": "stage1"}, NAMES[:2])])
def test_frozen_stages_keep_their_statistics_when_others_are_recalibrated(net, told, kept):
    before = arrays.arrays(net)
    kc.fine_tune(net, pair(), pair(), head_epochs=1, epochs=1, bn="recalibrate", **told, **QUIET)
    changed = {key.partition("_")[0] for key in moved(before, net) if "moving" in key}
    assert changed == set(NAMES[:-1]) - set(kept)


def test_frozen_batch_norm_is_bit_equal_after_all_phases(net):
    before = arrays.arrays(net)
    kc.fine_tune(net, pair(), pair(), schedule="gradual", head_epochs=1, epochs=4, learning_rate=1e-2, **QUIET)
    assert not {key for key in moved(before, net) if "_norm" in key}
    assert {key.partition("_")[0] for key in moved(before, net)} == set(NAMES)


@pytest.mark.parametrize("count, batch_size, learns", [(512, 16, True), (499, 32, False), (512, 8, False)])
def test_batch_norm_learns_where_there_is_enough_to_learn_it_from(net, count, batch_size, learns):
    before = arrays.arrays(net)
    told = {"schedule": "all", "epochs": 1, "verbose": 0, "batch_size": batch_size}
    kc.fine_tune(net, pair(count), pair(), **told)
    changed = {key.rpartition("/")[2] for key in moved(before, net) if "_norm" in key}
    assert changed == ({"gamma", "beta", "moving_mean", "moving_variance"} if learns else set())


# --- bad data -------------------------------------------------------------------------------------------------------


def test_one_image_a_class_is_enough_where_there_is_something_to_validate_on(weights, tmp_path):
    counts = {"train/a": 1, "train/b": 1, "val/a": 3, "val/b": 3}
    folder = images.folder(tmp_path / "pets", counts, size=(16, 16))
    model = kc.build(weights, classes=["a", "b"])
    data = kc.load_data(folder, model, augment="light")
    history = kc.fine_tune(model, data, head_epochs=1, epochs=1, schedule="two-phase", cache=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    with pytest.raises(BadData, match="no class has two images"):
        kc.load_data(images.folder(tmp_path / "one", {"a": 1, "b": 1}), model)


def test_a_head_for_other_classes_is_told_before_anything_moves(weights, tmp_path):
    folder = images.folder(tmp_path / "pets", {name: 3 for name in "abcdef"}, size=(16, 16))
    model = kc.build(weights, classes=5)
    before = arrays.arrays(model)
    with pytest.raises(BadData, match=r"the data has 6 classes, the network's head 5: .*classes=data\.class_names"):
        kc.fine_tune(model, kc.load_data(folder, model), **QUIET)
    with pytest.raises(BadData, match="a label of the training images is 5, the head has 5 classes"):
        kc.fine_tune(model, pair(24, classes=6), **QUIET)
    assert moved(before, model) == set()


def test_a_head_for_as_many_other_classes_is_told(weights, tmp_path):
    data = kc.load_data(images.folder(tmp_path / "pets", {"b": 3, "c": 3}, size=(16, 16)), kc.build(weights))
    with pytest.raises(BadData, match=r"class 0 is 'b' in the data and 'c' in the network's head: .*data\.class_names"):
        kc.fine_tune(kc.build(weights, classes=["c", "b"]), data, **QUIET)


@pytest.mark.parametrize(
    "train, val, sentence",
    [
        ([0, 0, 0, 0], [0, 0], "all training images are of class 0: there is nothing to tell apart"),
        ([0, 1, 0, 1], [0, 2], "a label of the validation images is 2, the head has 2 classes"),
        ([0, -1, 0, 1], [0, 1], "a label of the training images is -1"),
        ([0, 1, 0, 1], [3, 1], "a label of the validation images is 3"),
    ],
)
def test_labels_of_arrays_that_cannot_be_learnt(net, train, val, sentence):
    inputs = pair(4)[0]
    with pytest.raises(BadData, match=sentence):
        kc.fine_tune(net, (inputs, np.array(train)), (inputs[:2], np.array(val)), **QUIET)


def test_a_class_that_only_validation_images_have_is_told(weights):
    model = kc.build(weights, classes=3)
    with pytest.raises(BadData, match="class 2 has validation images, but no training images"):
        kc.fine_tune(model, pair(8), pair(9, classes=3), **QUIET)
    with pytest.raises(BadData, match="class 2 has validation images, but no training images"):
        kc.probe(model, pair(8), pair(9, classes=3), cache=False)


def test_images_that_vanish_during_training_are_named(weights, tmp_path):
    folder = images.folder(tmp_path / "pets", {"a": 6, "b": 6}, size=(16, 16))
    model = kc.build(weights, classes=["a", "b"])
    data = kc.load_data(folder, model, batch_size=4, cache_bytes=0)
    gone = sorted((folder / "a").iterdir())
    vanish = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: [file.unlink() for file in gone])
    with pytest.raises(BadImage, match=r"a/.*\.png: the file cannot be read"):
        kc.fine_tune(model, data, schedule="all", epochs=2, probe=False, callbacks=[vanish], verbose=0)
    for call in (kc.fine_tune, kc.probe):  # and before anything has been learnt
        with pytest.raises(BadImage, match=r"a/.*\.png: the file cannot be read"):
            call(kc.build(weights, classes=["a", "b"]), data, cache=False)


def test_a_loss_that_is_no_number_leaves_the_state_of_the_last_good_epoch(weights, tmp_path):
    out = tmp_path / "out"
    model = kc.build(weights, classes=["dark", "light"])
    told = {"schedule": "two-phase", "head_epochs": 1, "epochs": 2, "learning_rate": 1e30, "out": out}
    with pytest.raises(NotFinite, match="last good weights are in"):
        kc.fine_tune(model, pair(), pair(), **told, **QUIET)
    assert all(np.isfinite(value).all() for value in arrays.arrays(kc.build(out)).values())


def test_weights_that_are_no_numbers_after_the_last_batch_are_not_a_result(net):
    with pytest.raises(NotFinite, match="the weights are no longer numbers: lower the learning rate"):
        kc.fine_tune(net, pair(16), schedule="head", head_epochs=1, head_learning_rate=1e39, probe=False, **QUIET)


# --- resuming -------------------------------------------------------------------------------------------------------

RUN = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, tensorflow as tf
import keras_cnn as kc
from keras_cnn.training import state

tf.config.experimental.enable_op_determinism()
told = json.loads(sys.argv[1])
state.EVERY = 0.0
keras.utils.set_random_seed(int(sys.argv[2]))
model = kc.build(told.pop("weights"), head=kc.Head(classes=2, dropout=0.3))
data = kc.load_data(told.pop("data"), model, batch_size=8, **told.pop("seen"))
class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.03)
getattr(kc, told.pop("verb"))(model, data, callbacks=[Slow()], verbose=0, **told)
"""


def run(told, seed=0):
    return subprocess.Popen([sys.executable, "-c", RUN, json.dumps(told), str(seed)], stdout=subprocess.PIPE, text=True)


TWO_PHASE = {"verb": "fine_tune", "head_epochs": 2, "epochs": 4, "schedule": "two-phase", "seen": {"augment": "crop"}}
STREAMED = {"seen": {"augment": "heavy", "cache_bytes": 0}}
GRADUAL = {
    **TWO_PHASE,
    "ema": 0.9,
    "l2sp": 0.01,
    "schedule": "gradual",
    "bn": "recalibrate",
    "above": "stage1",
    "epochs": 3,
}


@pytest.mark.parametrize(
    ("kills", "options"),  # after so many steps, 5 an epoch: in the head's second epoch; amid one of more than the head
    [
        pytest.param((8, 13), TWO_PHASE, marks=pytest.mark.slow),
        ((13,), GRADUAL),
        pytest.param((8, 13), {**TWO_PHASE, **STREAMED}, marks=pytest.mark.slow),
        pytest.param((7,), {"verb": "train", "epochs": 3, "ema": 0.9, **STREAMED}, marks=pytest.mark.slow),
    ],
    ids=["two-phase", "gradual", "streamed", "from scratch, streamed"],
)
def test_a_run_that_is_killed_ends_with_the_same_weights(weights, tmp_path, kills, options):
    folder = images.folder(tmp_path / "pets", {"a": 25, "b": 25}, size=(30, 40))  # of which random parts are seen
    told = {"weights": str(weights), "data": str(folder), **options}
    if options["verb"] == "fine_tune":
        told["cache"] = str(tmp_path / "cache")
    whole = run({**told, "out": str(tmp_path / "whole")})
    killed = {**told, "out": str(tmp_path / "killed"), "resume": True}
    whole.communicate()
    assert whole.returncode == 0
    for seed, steps in enumerate((*kills, None)):  # the seed of the process does not matter to one that goes on
        process = run(killed, seed)
        for _ in range(steps or 0):
            assert process.stdout.readline() == "step\n"
        if steps:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == (-signal.SIGKILL if steps else 0)
        assert (tmp_path / "killed" / "progress.safetensors").exists() == bool(steps)
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert ends[0] == ends[1]


def test_a_run_goes_on_only_as_it_began(weights, tmp_path):
    class Crash(RuntimeError):
        pass

    def crash(epoch, logs):
        raise Crash

    told = {"schedule": "two-phase", "head_epochs": 1, "epochs": 1, "out": tmp_path / "out", **QUIET}
    with pytest.raises(Crash):
        kc.fine_tune(
            kc.build(weights, classes=["dark", "light"]),
            pair(),
            pair(),
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=crash)],
            **told,
        )
    with pytest.raises(BadSpec, match=r"learning_rate was 0.0005 and is 0.1.*overwrite=True"):
        kc.fine_tune(
            kc.build(weights, classes=["dark", "light"]), pair(), pair(), resume=True, learning_rate=0.1, **told
        )
    for other in ({"batch_size": 8}, {"class_weight": {0: 2.0}}):
        with pytest.raises(BadSpec, match=rf"{next(iter(other))} was .* and is"):
            kc.fine_tune(kc.build(weights, classes=["dark", "light"]), pair(), pair(), resume=True, **{**told, **other})
    with pytest.raises(BadSpec, match=r"network was '.*' and is '"):
        kc.fine_tune(kc.build(weights, head=kc.Head(classes=2, hidden=(4,))), pair(), pair(), resume=True, **told)
    history = kc.fine_tune(kc.build(weights, classes=["dark", "light"]), pair(), pair(), resume=True, **told)
    assert history.history["phase"] == ["head", "all"]
    assert not (tmp_path / "out" / "progress.safetensors").exists()


def test_random_weights_under_a_head_that_learns_first_are_told(weights):
    told = {"head_epochs": 1, "epochs": 1, "above": "stage3", "probe": False, **QUIET}
    small = {"depths": (1, 1, 1), "input_shape": (16, 16, 3), "classes": 2}
    with pytest.warns(WeightsWarning, match="resnet20 has random weights.*`train`"):
        kc.fine_tune(kc.build("resnet20", **small), pair(), pair(), schedule="head", **told)
    trained = kc.build("resnet20", **small)
    kc.train(trained, pair(), epochs=1, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        kc.fine_tune(trained, pair(), pair(), schedule="head", **told)
        kc.fine_tune(kc.build(weights, classes=2), pair(), pair(), schedule="head", **told)
        kc.fine_tune(kc.build("resnet20", **small), pair(), pair(), **{**told, "above": None}, schedule="all")


@pytest.mark.slow
def test_the_scale_of_half_precision_goes_on(tmp_path, monkeypatch, precision):
    """From epoch to epoch, over a crash, and from phase to phase: what has overflowed once would again."""
    from keras_cnn.training import state

    class Scales(keras.callbacks.Callback):
        """Sets the scale in the first epoch, and stops in the second until it is told not to."""

        def __init__(self, crash):
            super().__init__()
            self.crash, self.seen = crash, []

        def on_train_batch_end(self, batch, logs=None):
            scale = self.model.optimizer.dynamic_scale
            if self.crash and self.seen:
                raise InterruptedError
            self.seen.append(float(scale))
            if self.crash:
                scale.assign(64.0)

    monkeypatch.setattr(state, "EVERY", 0.0)
    precision("mixed_float16")
    model = kc.build("resnet20", depths=(1, 1, 1), widths=(4, 4, 4), classes=2, input_shape=(16, 16, 3))
    told = {"head_epochs": 2, "epochs": 1, "above": "stage2", "probe": False, "out": tmp_path, **QUIET}
    with pytest.raises(InterruptedError):
        kc.fine_tune(model, pair(16), pair(16), callbacks=[Scales(crash=True)], **told)
    watch = Scales(crash=False)
    kc.fine_tune(model, pair(16), pair(16), callbacks=[watch], resume=True, **told)
    assert watch.seen == [64.0, 64.0]  # the head's second epoch, then that of the last stage as well


def test_what_a_killed_writing_left_is_removed(net, tmp_path):
    """mkstemp's names beside the state, and nothing else that begins so."""
    left = [tmp_path / f".progress.safetensors.{name}" for name in ("abcdefgh", "x1_y2_z3")]
    others = [
        tmp_path / name for name in (".progress.safetensors.backup", "progress.safetensors.abcdefgh", ".mine.abcdefgh")
    ]
    for file in (*left, *others):
        file.write_bytes(b"half")
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append([f.exists() for f in left]))
    told = {"schedule": "head", "head_epochs": 1, "probe": False, "out": tmp_path}
    kc.fine_tune(net, pair(), pair(), callbacks=[watch], **told, **QUIET)
    assert seen == [[False, False]] and all(file.read_bytes() == b"half" for file in others)
    late = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: left[0].write_bytes(b"half"))
    kc.fine_tune(net, pair(), pair(), callbacks=[late], overwrite=True, **told, **QUIET)
    assert not left[0].exists()  # at the end too


# --- real images ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cifar_net_learns_what_jpeg_did_to_its_images(shared, tmp_path):
    """Fine-tuning raises it; exact statistics alone are printed beside it (pytest -s -n 0)."""
    weights = shared / "weights" / "resnet20_cifar10_idelbayev.safetensors"
    net = kc.build("resnet20", weights=weights)
    data = kc.load_data(shared / "data" / "cifar10_jpeg.zip", net, augment="light", val_split=0.1)
    before = evaluation.evaluate(net, data.test).correct
    kc.recalibrate_batchnorm(net, data.plain)
    recalibrated = evaluation.evaluate(net, data.test).correct
    net = kc.build("resnet20", weights=weights)
    kc.fine_tune(net, data, epochs=4, cache=tmp_path, verbose=0)
    after = evaluation.evaluate(net, data.test).correct
    print(f"of {data.sizes['test']}: {before}, recalibrated {recalibrated}, fine-tuned {after}")
    assert before == pytest.approx(4051, abs=1)
    assert after > before + 100


@pytest.mark.slow
def test_a_stage_of_nothing_but_a_norm_learns_on_torch():
    """Keras' decay there fails where no variable decays; nothing that decays is left out of it."""
    net = kc.build("resnetv2_18", input_shape=(32, 32, 3), classes=2)
    stages = StageOptimizers(0.01)
    stages.build(net, ["stage4", "top"])
    assert {name: one.weight_decay for name, one in stages.optimizers.items()} == {"stage4": 0.01, "top": 0.0}
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    program = """
import numpy as np, keras_cnn as kc
net = kc.build("resnetv2_18", input_shape=(32, 32, 3), classes=2)
data = np.full((4, 32, 32, 3), 200, "uint8"), np.arange(4) % 2
kc.fine_tune(net, data, data, head_epochs=0, epochs=1, schedule="all", batch_size=4, verbose=0, cache=False)
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"KERAS_BACKEND": "torch"})
