"""What a network's output means: labels become targets in every form of data, and Keras' own loss learns them."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.errors import BadSpec
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.training import loop, targets

# Where a word of classification is said outside of the tasks, and why it belongs there.
BELONGS = {
    "models/meaning.py": "the table of the tasks",
    "models/backbone.py": "activations as Keras has them",
    "building.py": "what classifier_activation may be, as Keras has it",
    "checkpoints/directory.py": "an example of what a card may tell",
    "training/distilling.py": "the formula of distillation, 1503.02531",
    "training/evaluation.py": "an example that runs",
    "deploy/quantizing.py": "an operation as the runtimes call it",
    "insight/receptive_fields.py": "a layer of Keras",
    "insight/saliency.py": "the formula of Score-CAM",
}


def pair(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 3
    return (np.zeros((count, 16, 16, 3)) + 80 * labels[:, None, None, None]).astype("uint8"), labels.astype("int32")


def net(outputs: int = 1):
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=3)
    if outputs == 1:
        return model
    pooled = keras.layers.GlobalAveragePooling2D(name="aux_pool")(kc.features(model, "stage2").output)
    return keras.Model(model.input, [model.output, keras.layers.Dense(3, "softmax", name="aux_logits")(pooled)])


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels, size=4):
        super().__init__()
        self.images, self.labels, self.size = images, labels, size

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __getitem__(self, index):
        some = slice(index * self.size, (index + 1) * self.size)
        return self.images[some], self.labels[some]


class InOrder:
    """Batches that only come one after another, as those of a DataLoader do."""

    def __init__(self, *given):
        self.batches = Batches(*given)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return (self.batches[index] for index in range(len(self)))


def dataset(images, labels):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)


FORMS = {"arrays": lambda *given: given, "tf.data": dataset, "PyDataset": Batches, "in order": InOrder}


@pytest.fixture(scope="module", params=[1, 2])
def network(request):
    return net(request.param)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", ["integers", "column", "one-hot", "shares"])
def test_labels_become_targets_in_every_form(form, labels, network):
    outputs = len(network.outputs)
    images, numbers = pair()
    expected = np.eye(3, dtype="float32")[numbers] * (0.7 if labels == "shares" else 1)
    expected += 0.1 if labels == "shares" else 0
    given = {"integers": numbers, "column": numbers[:, None], "one-hot": expected, "shares": expected}[labels]
    made = targets.targets(network, FORMS[form](images, given), tasks.of(network))
    batches = [made] if form == "arrays" else (made if form == "tf.data" else [made[i] for i in range(len(made))])
    found = [targets if outputs == 2 else (targets,) for _, targets in batches]
    for output in range(outputs):
        np.testing.assert_array_equal(np.concatenate([np.asarray(each[output]) for each in found]), expected)


def test_every_form_is_learnt_alike():
    losses = []
    for form in FORMS.values():
        model = net(outputs=2)
        loop.compile_(model, keras.optimizers.SGD(0.01, momentum=0.9))
        history = loop.fit(model, form(*pair()), form(*pair()), batch_size=4, shuffle=False, epochs=1, verbose=0)
        losses.append(history.history["val_loss"])
        assert {"accuracy", "val_accuracy"} <= history.history.keys()
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)


def test_classes_are_learnt_each_against_all_others():
    """The loss "bce" is 2110.00476's: mixed classes are both there, smoothing is spread over all classes."""
    from keras_cnn.tasks.classification import OneAgainstAll

    shares = np.array([[1, 0, 0, 0], [0.7, 0.3, 0, 0], [0.1, 0, 0, 0.9]], "float32")
    logits = np.random.default_rng(0).normal(size=shares.shape).astype("float32")
    there = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]) * 0.9 + 0.1 / 4
    of_each = there * np.log1p(np.exp(-logits)) + (1 - there) * np.log1p(np.exp(logits))
    loss = OneAgainstAll(label_smoothing=0.1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    for one in (loss, again):
        np.testing.assert_allclose(float(one(shares, logits)), of_each.mean(), rtol=1e-5)


def test_a_network_learns_by_bce_and_one_that_ends_in_softmax_is_refused(tmp_path):
    x, y = pair()
    told = {"depths": (1, 1, 1), "classes": int(y.max()) + 1, "input_shape": x.shape[1:]}
    keras.utils.set_random_seed(0)
    for verb, epochs in ((kc.train, {"epochs": 4}), (kc.fine_tune, {"head_epochs": 3, "epochs": 2, "cache": False})):
        model = kc.build("resnet20", classifier_activation="linear", **told)
        history = verb(model, (x, y), loss="bce", batch_size=8, verbose=0, **epochs).history
        assert history["loss"][-1] < history["loss"][0]
        np.testing.assert_allclose(kc.evaluate(model, (x, y)).outputs.sum(-1), 1, rtol=1e-5)
        with pytest.raises(BadSpec, match=r"loss='bce' is of logits.*classifier_activation=None"):
            verb(kc.build("resnet20", **told), (x, y), loss="bce", out=tmp_path / "run", verbose=0, **epochs)
    assert not (tmp_path / "run").exists()


def test_a_trained_network_has_losses_and_metrics_of_keras_and_its_head_may_give_logits():
    for activation, logits in (("softmax", False), (None, True)):
        model = kc.build("resnet20", input_shape=(16, 16, 3), classes=3, classifier_activation=activation)
        loop.compile_(model, keras.optimizers.SGD(0.01, momentum=0.9), label_smoothing=0.2)
        (loss,) = model.loss
        assert type(loss) is keras.losses.CategoricalCrossentropy
        assert (loss.get_config()["from_logits"], loss.get_config()["label_smoothing"]) == (logits, 0.2)
        images, labels = pair()
        assert "accuracy" in model.evaluate(images, keras.utils.to_categorical(labels), return_dict=True, verbose=0)


@pytest.mark.parametrize("mode, expected", [("max", 3.0), ("min", 1.0)])
def test_the_best_epoch_is_that_of_the_tasks_figure(mode, expected):
    from keras_cnn.training.callbacks import Best

    model, seen = net(), []
    best = Best(model, "val_figure", mode, save=lambda logs: seen.append(logs["val_figure"]))
    for epoch, figure in enumerate([2.0, 3.0, 1.0, 2.5]):
        best.on_epoch_end(epoch, {"val_figure": figure})
    assert seen[-1] == expected


@pytest.mark.no_keras
def test_nothing_else_asks_what_the_task_is():
    """Outside of their folder no line compares a task's name, but where data finds out what its labels are."""
    names = "|".join(MEANINGS)
    kinds = "|".join(type(task).__name__ for task in tasks.TASKS.values())
    asked = re.compile(
        rf"""task(\.name)?\s*(==|!=|in|not\s+in)\s*[\[{{("']*({names})\b"""
        rf"""|["']({names})["']\s*(==|!=|in|not\s+in)\s*[\[{{(]*[\w.]*task\b"""
        rf"""|isinstance\([^)]*\b({kinds})\b"""
    )
    for text in ('task == "binary"', 'task not in ("binary",)', '"binary" != head.task', "isinstance(t, Binary)"):
        assert asked.search(text), text
    package = Path(kc.__file__).parent
    others = [path for path in package.rglob("*.py") if path.parent.name not in ("tasks", "data")]
    assert len(others) > 80
    assert not [path.name for path in others if asked.search(path.read_text())]


@pytest.mark.no_keras
def test_nothing_else_has_the_words_of_a_task():
    """What is said of accuracy, softmax or cross-entropy is a task's; the exceptions are all needed."""
    words = re.compile(r"accurac|softmax|cross[- _]?entropy|integer labels|labels are integers", re.IGNORECASE)
    package = Path(kc.__file__).parent
    rooms = [path for path in package.rglob("*.py") if path.parent.name != "tasks"]
    said = {path.relative_to(package).as_posix() for path in rooms if words.search(path.read_text(encoding="utf-8"))}
    assert said == BELONGS.keys()


@pytest.mark.no_keras
def test_every_task_tells_cards_what_its_figures_are():
    """The Hub has a name for what each judges by; a figure, as people read it, is a format of Python's."""
    for name, task in tasks.TASKS.items():
        assert task.judged_by in MEANINGS[name].figures and task.monitor == f"val_{task.judged_by}"
        assert format(0.5, task.format) in ("50.0%", "0.500")
        assert [task.best((1, 3, 2)), task.better(3, 1), task.better(1, 1)] == [3, True, False]


def test_of_a_figure_that_should_be_small_the_best_is_the_smallest():
    class Off(type(tasks.TASKS["regression"])):
        monitor, mode = "val_mae", "min"

    task = Off()
    assert [task.best((2.0, 1.0)), task.better(1, 2), task.better(2, 1), task.better(1, 1)] == [1, True, False, False]
