"""The learning-rate finder: a curve, a sensible suggestion, and a model that was never touched."""

from __future__ import annotations

import sys

import images
import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.training import loop, optimizers
from keras_cnn.training.lr_range import Finding

RNG = np.random.default_rng(0)
LABELS = np.arange(64) % 2
IMAGES = np.clip(LABELS[:, None, None, None] * 120 + RNG.uniform(0, 100, (64, 16, 16, 3)), 0, 255).astype("uint8")


@pytest.fixture
def model():
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3), drop_rate=0.2)
    kc.freeze(model, upto="stage1")
    model.compile(keras.optimizers.Adam(0.5), "sparse_categorical_crossentropy")
    model.train_on_batch(IMAGES[:8], LABELS[:8])
    return model


def test_nothing_of_the_model_or_its_optimiser_moves(model):
    states = [*model.variables, *model.optimizer.variables]
    before = [np.array(v) for v in states]
    kc.lr_find(model, (IMAGES, LABELS), steps=12)
    for variable, value in zip(states, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value, err_msg=variable.path)
    assert float(model.optimizer.learning_rate) == 0.5
    assert not model.get_layer("stem_conv").trainable


def test_the_suggestion_lies_where_the_loss_falls(model):
    found = kc.lr_find(model, (IMAGES, LABELS), low=1e-6, high=10.0, steps=60)
    assert 1e-5 < found.suggestion < 1
    assert found.rates[0] == pytest.approx(1e-6)
    ratios = np.diff(np.log(found.rates))
    np.testing.assert_allclose(ratios, ratios[0])
    assert min(found.losses) < 0.8 * found.losses[0]


def test_a_terminal_is_shown_how_far_the_test_is(model, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    kc.lr_find(model, (IMAGES, LABELS), steps=3, batch_size=4)
    err = capsys.readouterr().err
    assert "learning-rate test" in err and "of 3" in err


def test_few_batches_are_gone_through_again(model):
    found = kc.lr_find(model, [(IMAGES[:16], LABELS[:16]), (IMAGES[16:32], LABELS[16:32])], steps=7, high=1e-3)
    assert len(found.losses) == 7


@pytest.mark.parametrize("augment", [None, "heavy"])
def test_data_is_gone_through_as_it_is_trained_on(tmp_path, augment):
    """As the README has it; "heavy" has shares of classes for labels."""
    net = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3))
    folder = images.folder(tmp_path / "pets", {"a": 6, "b": 6}, size=(16, 16))
    data = kc.load_data(folder, net, augment=augment, batch_size=4)
    loop.compile_(net, optimizers.adamw(1e-3))
    assert len(kc.lr_find(net, data, steps=5, high=1e-3).losses) == 5


@pytest.mark.parametrize("form", ["pair", "batches", "a label for each output"])
def test_an_auxiliary_classifier_learns_the_same_labels(two_outputs, form):
    loop.compile_(two_outputs, optimizers.adamw(1e-3))
    batch = IMAGES[:16], LABELS[:16]
    data = {"pair": batch, "batches": [batch], "a label for each output": [(IMAGES[:16], (LABELS[:16],) * 2)]}[form]
    found = kc.lr_find(two_outputs, data, steps=3, low=1e-6, high=1e-6, batch_size=16)
    targets = keras.utils.to_categorical(LABELS[:16], 2)
    logs = two_outputs.evaluate(IMAGES[:16], (targets, targets), verbose=0, return_dict=True)
    assert found.losses[0] == pytest.approx(logs["loss"], rel=1e-3)


def test_frozen_layers_stay_frozen_in_the_copy(model):
    kc.freeze(model)
    model.get_layer("head_logits").trainable = False
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    found = kc.lr_find(model, (IMAGES[:32], LABELS[:32]), steps=4, high=1.0)
    assert np.ptp(found.losses) < 0.3  # dropout alone


def test_a_model_that_is_not_compiled_and_empty_data_are_told():
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3))
    with pytest.raises(BadSpec, match="not compiled"):
        kc.lr_find(model, (IMAGES, LABELS))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(BadData, match="two batches"):
        kc.lr_find(model, [])


def test_a_schedule_is_replaced_in_the_copy_only(model):
    from keras_cnn.training.schedules import OneCycle

    before = arrays.arrays(model)
    model.compile(keras.optimizers.SGD(OneCycle(0.1, 10)), "sparse_categorical_crossentropy")
    assert len(kc.lr_find(model, (IMAGES, LABELS), steps=5, high=1e-2).rates) == 5
    assert all((value == before[key]).all() for key, value in arrays.arrays(model).items())


def test_half_precision_hides_no_optimiser(precision):
    """Keras wraps what is compiled under this policy in a LossScaleOptimizer."""
    from keras_cnn.training.lr_range import _copy

    precision("mixed_float16")
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3))
    by_stage = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.4), {"stage2_.*": keras.optimizers.SGD(0.2)})
    model.compile(keras.optimizers.MultiOptimizer(by_stage), "sparse_categorical_crossentropy")
    assert sorted(share for _, share in _copy(model)[1]) == pytest.approx([0.5, 1.0])


def test_rates_by_stage_keep_their_proportions(model):
    from keras_cnn.training.lr_range import _copy
    from keras_cnn.training.schedules import OneCycle

    adams = {"stage2_.*": keras.optimizers.SGD(OneCycle(0.2, 10)), "stage3_.*": keras.optimizers.SGD(0.1)}
    optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.4), adams))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    assert sorted(share for _, share in _copy(model)[1]) == pytest.approx([0.25, 0.5, 1.0])
    before = arrays.arrays(model)
    assert len(kc.lr_find(model, (IMAGES, LABELS), steps=5, high=1e-2).rates) == 5
    assert all((value == before[key]).all() for key, value in arrays.arrays(model).items())


# --- the suggestion -------------------------------------------------------------------------------------------------


def greys() -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(0), np.arange(192) % 2
    images = labels[:, None, None, None] * 120 + rng.uniform(0, 130, (192, 16, 16, 3))
    return images.clip(0, 255).astype("uint8"), labels


def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Waves in four directions, under noise."""
    rng, labels = np.random.default_rng(1), np.arange(192) % 4
    angles, (y, x) = labels[:, None, None] * np.pi / 4, np.mgrid[:16, :16]
    waves = np.cos(1.2 * (y * np.cos(angles) + x * np.sin(angles)) + rng.uniform(0, 6, (192, 1, 1)))
    images = 128 + 70 * waves[..., None] + rng.normal(0, 50, (192, 16, 16, 3))
    return images.clip(0, 255).astype("uint8"), labels


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images[:192] * 15.9).astype("uint8").repeat(2, 1).repeat(2, 2)
    return images[..., None].repeat(3, -1), found.target[:192]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("data", [greys, stripes, digits])
def test_the_suggestion_lies_before_the_minimum_and_trains(data, seed):
    keras.utils.set_random_seed(seed)
    images, labels = data()
    net = small(int(labels.max()) + 1)
    net.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    found = kc.lr_find(net, (images, labels))
    assert found.suggestion <= found.rates[int(np.argmin(found.losses))] / 2
    net.optimizer.learning_rate = found.suggestion
    losses = net.fit(images, labels, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0] and max(losses) < 1.1 * losses[0]


def small(classes: int) -> keras.Model:
    """A network that learns in a second."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 64, offset=-2),
            layers.Conv2D(16, 3, 2, activation="relu"),
            layers.Conv2D(32, 3, 2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def test_nothing_behind_the_minimum_counts():
    rates = tuple(np.geomspace(1e-6, 1, 100))
    fall, rise = np.linspace(2.0, 1.0, 40), np.linspace(1.0, 8.0, 15)
    again = np.linspace(8.0, 1.1, 45)  # steeper and longer than the first fall, and of no worth
    found = Finding(rates, (*fall, *rise, *again))
    assert 10 <= found.index <= 30


def test_the_line_of_the_picture_lies_on_the_curve(tmp_path, monkeypatch):
    from keras_cnn.insight import plots

    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure) or path)
    rates = tuple(np.geomspace(1e-6, 1, 30))
    found = Finding(rates, tuple(2 - np.exp(-((np.log10(rates) + 3) ** 2))))
    plots.learning_rates(found, tmp_path / "curve.png")
    (axis,) = drawn[0].axes
    curve, dot, line = axis.lines
    at = list(curve.get_xdata()).index(found.suggestion)
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (found.suggestion, curve.get_ydata()[at])
    assert line.get_xdata()[0] == found.suggestion and axis.get_ylim()[1] > dot.get_ydata()[0]
