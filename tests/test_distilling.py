"""A network that learns from a trained one: the loss, what is left alone, what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec
from keras_cnn.training.distilling import TEMPERATURE, taught

NAMES = ("dark", "gray", "bright")
SMALL = {"depths": (1, 1, 1), "input_shape": (16, 16, 3)}


def images(count: int = 48) -> np.ndarray:
    """Noise of three degrees of brightness."""
    noise = np.random.default_rng(0).integers(0, 60, (count, 16, 16, 3))
    return (noise + 95 * (np.arange(count) % 3)[:, None, None, None]).astype("uint8")


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", **{**SMALL, "input_shape": (24, 24, 3)}, classes=NAMES)
    enlarged = np.asarray(keras.ops.image.resize(images().astype("float32"), (24, 24), antialias=True))
    kc.train(model, (enlarged, np.arange(48) % 3), epochs=8, batch_size=16, learning_rate=0.05, verbose=0)
    return model


def answers(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))


def flat(probabilities: np.ndarray) -> np.ndarray:
    powers = probabilities ** (1 / TEMPERATURE)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_loss_is_shared_between_labels_and_teacher(teacher, activation):
    pixels, labels = images(12), np.arange(12) % 3
    keras.utils.set_random_seed(1)
    model = kc.build("resnet20", **SMALL, norm="none", classes=NAMES, classifier_activation=activation)
    ours = answers(model, pixels)
    ours = ours if activation else np.exp(ours) / np.exp(ours).sum(1, keepdims=True)
    theirs = answers(teacher, keras.ops.image.resize(pixels.astype("float32"), (24, 24), antialias=True))
    apart = -(flat(theirs) * np.log(flat(ours))).sum(1).mean() * TEMPERATURE**2
    wrong = -np.log(ours[np.arange(12), labels]).mean()
    learner = taught(model, teacher, 0.3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    learner.compile("sgd", loss, loss_weights=[0.7])
    assert learner.train_on_batch(pixels, labels) == pytest.approx(0.3 * apart + 0.7 * wrong, rel=1e-4)


def test_a_network_learns_what_only_its_teacher_knows(teacher, tmp_path):
    """Its own labels are of no use, and weigh nothing; the teacher stays as it was."""
    before, flags = teacher.get_weights(), [layer.trainable for layer in teacher.layers]
    useless = np.zeros(48, int) + np.arange(48) // 16
    keras.utils.set_random_seed(2)
    model = kc.build("resnet20", **SMALL, classes=NAMES)
    told = {"teacher_weight": 1.0, "epochs": 8, "batch_size": 16, "learning_rate": 0.05, "verbose": 0}
    kc.train(model, (images(), useless), teacher=teacher, out=tmp_path, **told)
    assert (answers(model, images()).argmax(1) == np.arange(48) % 3).mean() > 0.9
    assert all(map(np.array_equal, before, teacher.get_weights()))
    assert flags == [layer.trainable for layer in teacher.layers]
    assert set(model.evaluate(images(), useless, return_dict=True, verbose=0)) == {"loss", "accuracy"}  # goes on
    kc.train(model, (images(), useless), teacher=teacher, out=tmp_path, resume=True, **told)  # complete
    with pytest.raises(BadSpec, match="teacher was"):
        kc.train(model, (images(), useless), out=tmp_path, resume=True, **told)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        ({"classes": 4}, "the teacher knows 3 classes and the network 4"),
        ({"classes": NAMES[::-1]}, "the teacher has the class 'dark' where the network has 'bright'"),
        ({"classes": NAMES, "task": "multilabel"}, "a teacher is for one class an image"),
        ({"classes": NAMES, "input_shape": (16, 16, 1)}, "the teacher sees 3 channels: give one of 1"),
    ],
)
def test_a_teacher_of_something_else_is_refused(teacher, build, told):
    model = kc.build("resnet20", **{**SMALL, **build})
    pixels = images()[..., : model.input_shape[-1]]
    labels = np.arange(48) % 3
    labels = np.eye(3, dtype=int)[labels] if build.get("task") else labels
    with pytest.raises(BadSpec, match=told):
        kc.train(model, (pixels, labels), teacher=teacher, verbose=0)
