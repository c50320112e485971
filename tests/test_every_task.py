"""What works for classification works for every task: learning, scores, answers, weights that come back."""

from __future__ import annotations

import json
import shutil
import warnings

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData, BadSpec, DataWarning
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.tasks import segmentation
from keras_cnn.tasks.embedding import MARGIN, NEAREST, TEMPERATURE, MetricLoss
from keras_cnn.tasks.multilabel import BinaryLoss
from keras_cnn.tasks.regression import R2, ScaledLoss
from keras_cnn.training import state
from keras_cnn.transfer import split

CLASSES = np.arange(48) % 3
DRAWS = np.random.default_rng(0)
IMAGES = (DRAWS.integers(0, 60, (48, 16, 16, 3)) + 60 * CLASSES[:, None, None, None]).astype("uint8")
SEVERAL = np.stack([CLASSES == 0, CLASSES > 0, CLASSES > 1], 1).astype("uint8")
NUMBERS = np.stack([10_000 + 50.0 * CLASSES, IMAGES.mean((1, 2, 3)) / 1e6], 1)  # of very different units
CASES = {
    "classification": ({"classes": ["a", "b", "c"]}, CLASSES),
    "multilabel": ({"classes": ["a", "b", "c"], "task": "multilabel"}, SEVERAL),
    "binary": ({"classes": ["no", "yes"], "task": "binary"}, (CLASSES > 1).astype(int)),
    "regression": ({"targets": ["far", "near"]}, NUMBERS),
    "embedding": ({"task": "embedding"}, CLASSES),
}
FIRST = {"multilabel": "map", "regression": "r2", "embedding": "recall1"}


def build(name: str, **more):
    keras.utils.set_random_seed(0)
    return kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), **{**CASES[name][0], **more})


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory):
    """(name, a network that has learnt, its labels, its directory, its history)."""
    name = request.param
    labels, out = CASES[name][1], tmp_path_factory.mktemp(name) / "run"
    model = build(name)
    options = {"head_epochs": 2, "epochs": 2, "verbose": 0, "out": out}
    history = kc.fine_tune(model, IMAGES, labels, validation_data=(IMAGES, labels), **options)
    return name, model, labels, out, history


def test_every_task_learns_and_is_judged_by_its_own_figure(run):
    name, model, labels, out, history = run
    figure = FIRST.get(name, "accuracy")
    result = kc.evaluate(model, (IMAGES, labels))
    assert next(iter(result.metrics)) == figure and result.metrics["images"] == 48
    assert result.metrics[figure] > 0.9  # the classes differ by their brightness
    kept = json.loads((out / "config.json").read_text())["keras_cnn"]["provenance"]["metrics"][f"val_{figure}"]
    assert (
        kept == pytest.approx(result.metrics[figure], abs=0.01) and kept >= max(history.history[f"val_{figure}"]) - 1e-6
    )
    if name != "embedding":
        assert (history.baselines.figure, history.baselines.linear > 0.9) == (figure, True)
        assert kc.probe(model, (IMAGES, labels), (IMAGES, labels)).figure == figure


def test_weights_come_back_with_their_task(run, tmp_path):
    name, model, labels, out, _ = run
    expected = model.predict(IMAGES, verbose=0)
    again = kc.build(out)
    np.testing.assert_array_equal(again.predict(IMAGES, verbose=0), expected)
    assert tasks.of(again).name == name
    assert kc.config_of(again).with_(provenance={}) == kc.config_of(model)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "model.keras").predict(IMAGES, verbose=0), expected
    )
    scores = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)  # labels as data has them
    figure = FIRST.get(name, "accuracy")
    if name != "embedding":
        assert scores[figure] == pytest.approx(kc.evaluate(model, (IMAGES, labels)).metrics[figure], abs=0.01)


def test_answers_are_those_of_the_task(run):
    name, model, labels, out, _ = run
    first = kc.predictor(out)(IMAGES[:3])[2]
    assert first.facts()["image"] == "images[2]" and first.error is None and first.lines()
    if name in ("classification", "binary"):
        assert first.label == kc.config_of(model).class_names[labels[2]]
    if name == "multilabel":
        assert set(first.labels) == {name for name, share in first.probabilities.items() if share >= 0.5}
        assert first.columns()["labels"] == ";".join(first.labels)
        assert max(first.probabilities, key=first.probabilities.__getitem__) in ("b", "c")
    if name == "regression":
        assert first.values["far"] == pytest.approx(10_100, abs=20)
    if name == "embedding":
        assert np.linalg.norm(first.vector) == pytest.approx(1, abs=1e-5)


def test_pictures_and_details_are_those_of_the_task(run, tmp_path):
    name, model, labels, out, _ = run
    result = kc.evaluate(model, (IMAGES, labels))
    drawn = result.pictures(tmp_path)
    assert drawn.keys() == MEANINGS[name].pictures.keys() and (name == "embedding") == (not drawn)
    assert all((tmp_path / file).stat().st_size > 5_000 for file in drawn)
    rows = result.details()["targets" if name == "regression" else "classes"]
    assert len(rows) == {"binary": 2, "regression": 2}.get(name, 3)
    card = (out / "README.md").read_text()
    hub = {"regression": "image-regression", "embedding": "image-feature-extraction"}.get(name, "image-classification")
    assert f"- {hub}\n" in card.split("---")[1]


@pytest.mark.parametrize("name", CASES)
def test_every_loss_of_every_task_learns(name):
    labels = CASES[name][1]
    for loss in tasks.TASKS[name].LOSSES:
        model = build(name, classifier_activation=None) if loss == "bce" else build(name)  # that one is of logits
        history = kc.train(model, IMAGES, labels, loss=loss, epochs=3, learning_rate=0.05, batch_size=16, verbose=0)
        losses = history.history["loss"]
        assert losses[-1] < losses[0] or loss == "triplet", loss  # no triplet of these images is left to learn from
    with pytest.raises(BadSpec, match=r"loss='hinge': choose one of None, '"):
        kc.train(build(name), IMAGES, labels, loss="hinge", verbose=0)


def test_numbers_are_learnt_alike_in_any_unit():
    """Metres or millimetres: the same course, since targets are seen in units of their spread."""
    figures = []
    for unit in (1.0, 1000.0):
        model = build("regression", targets=["length"])
        pair = (IMAGES, unit * NUMBERS[:, :1])
        history = kc.fine_tune(model, *pair, validation_data=pair, head_epochs=1, epochs=1, probe=False, verbose=0)
        figures.append(history.history["val_r2"])
        assert history.history["val_mae"][-1] > 0.5 * unit
    np.testing.assert_allclose(*figures, rtol=1e-3, atol=1e-3)


def test_a_pretrained_head_keeps_its_scale_and_a_new_one_takes_that_of_the_data():
    model = build("regression")
    kc.fine_tune(model, IMAGES, NUMBERS, schedule="head", head_epochs=1, probe=False, verbose=0)
    known = [v.numpy() for v in model.get_layer("head_unit").weights]
    np.testing.assert_allclose(known[0], NUMBERS.mean(0), rtol=1e-5)
    np.testing.assert_allclose(known[1], NUMBERS.std(0), rtol=1e-5)
    kc.fine_tune(model, IMAGES, 2 * NUMBERS, schedule="head", head_epochs=1, probe=False, verbose=0)
    for one, other in zip(known, model.get_layer("head_unit").weights, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


# --- figures, against scikit-learn ---


def test_figures_of_several_labels_are_scikit_learns():
    scores = DRAWS.random((60, 4)).astype("float32")
    labels = (DRAWS.random((60, 4)) < scores).astype("uint8")
    labels[:, 3] = 0  # no image has it
    result = tasks.TASKS["multilabel"].measured(labels, scores)
    expected = [reference.average_precision_score(labels[:, c], scores[:, c]) for c in range(3)]
    assert result.metrics["map"] == pytest.approx(np.mean(expected))
    rows = result.by_class()
    assert rows[3]["average precision"] is None and rows[3]["threshold"] is None
    for c in range(3):
        assert rows[c]["f1"] == pytest.approx(reference.f1_score(labels[:, c], scores[:, c] >= 0.5))
        best = max(reference.f1_score(labels[:, c], scores[:, c] >= t) for t in scores[:, c])
        at = reference.f1_score(labels[:, c], scores[:, c] >= rows[c]["threshold"])
        assert (rows[c]["best f1"], at) == (pytest.approx(best), pytest.approx(best))


def test_figures_of_numbers_are_scikit_learns():
    labels, given = DRAWS.normal(5, 3, (50, 2)), DRAWS.normal(5, 3, (50, 2)).astype("float32")
    found = tasks.TASKS["regression"].measured(labels, given).metrics
    assert found["r2"] == pytest.approx(reference.r2_score(labels, given))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(labels, given))
    metric = R2(labels.mean(0), labels.std(0))
    for part in np.split(np.arange(50), [20]):
        metric.update_state(labels[part], given[part])
    assert float(metric.result()) == pytest.approx(found["r2"], abs=1e-4)


def test_figures_of_directions_are_those_of_nearest_neighbours():
    vectors = DRAWS.normal(size=(40, 8)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(40) % 4
    near = np.argsort(-(vectors @ vectors.T) + 9 * np.eye(40), 1)[:, 0]
    result = tasks.TASKS["embedding"].measured(labels, vectors)
    assert result.metrics["recall1"] == pytest.approx((labels[near] == labels).mean())
    votes = []
    for one in range(40):  # each image is looked for among the others
        others = np.arange(40) != one
        ten = KNeighborsClassifier(NEAREST, metric="cosine", algorithm="brute").fit(vectors[others], labels[others])
        votes.append(ten.predict(vectors[one : one + 1])[0])
    assert result.metrics["knn"] == pytest.approx((np.array(votes) == labels).mean())


# --- losses, against Keras and by hand ---


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_several_labels_is_kerass(logits, smoothing):
    given = DRAWS.normal(size=(6, 3)).astype("float32")
    given = given if logits else tasks.base.sigmoid(given)
    truth = (DRAWS.random((6, 3)) < 0.5).astype("float32")
    told = {"from_logits": logits, "label_smoothing": smoothing}
    expected = float(keras.losses.BinaryCrossentropy(**told)(truth, given))
    assert float(BinaryLoss(**told)(truth, given)) == pytest.approx(expected, rel=1e-5)
    focal = keras.losses.BinaryFocalCrossentropy(gamma=2.0, from_logits=logits)
    assert float(BinaryLoss(gamma=2.0, from_logits=logits)(truth, given)) == pytest.approx(
        float(focal(truth, given)), rel=1e-5
    )
    weighted = BinaryLoss(weights=[3, 3, 3], from_logits=logits)
    ones = np.ones_like(truth)
    assert float(weighted(ones, given)) == pytest.approx(
        3 * float(keras.losses.BinaryCrossentropy(from_logits=logits)(ones, given)), rel=1e-5
    )


def test_the_losses_of_directions_are_those_of_their_papers():
    """One image at a time: 2004.11362, eq. 2, and 1503.03832, section 3.2."""
    given = DRAWS.normal(size=(6, 5)).astype("float32")
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    labels, near = np.array([0, 1, 0, 0, 1, 1]), (given @ given.T).astype(float)
    contrastive, triplet = [], []
    for a in range(6):
        others = [i for i in range(6) if i != a]
        positives, negatives = ([i for i in others if (labels[i] == labels[a]) == same] for same in (True, False))
        total = sum(np.exp(near[a, i] / TEMPERATURE) for i in others)
        contrastive.append(-np.mean([np.log(np.exp(near[a, p] / TEMPERATURE) / total) for p in positives]))
        apart = 2 - 2 * near[a]
        hinges = []
        for p in positives:
            beyond = [apart[n] for n in negatives if apart[n] > apart[p]]
            hinges.append(max(0, apart[p] - (min(beyond) if beyond else max(apart[negatives])) + MARGIN))
        triplet.append(np.mean(hinges))
    assert min(contrastive) > 0.1 and max(triplet) > 0.1
    assert float(MetricLoss("contrastive")(labels, given)) == pytest.approx(np.mean(contrastive), rel=1e-4)
    assert float(MetricLoss("triplet")(labels, given)) == pytest.approx(np.mean(triplet), rel=1e-4)


# --- probes, against scikit-learn ---


def unit(features: np.ndarray) -> np.ndarray:
    """As a probe sees features: centred, and of a mean length of 1."""
    centred = features - features.mean(0)
    return centred / np.linalg.norm(centred, axis=1).mean()


def test_a_probe_of_several_labels_is_one_against_the_rest():
    features = (DRAWS.normal(size=(80, 6)) + 4).astype("float32")
    labels = (features[:, :3] + DRAWS.normal(size=(80, 3)) > 4).astype("uint8")
    kernel, bias = tasks.TASKS["multilabel"].linear(features, labels, 3, None)
    for c in range(3):
        expected = LogisticRegression(C=10.0, max_iter=500).fit(unit(features), labels[:, c])
        found = tasks.base.sigmoid(features @ kernel[:, c] + bias[c])
        np.testing.assert_allclose(found, expected.predict_proba(unit(features))[:, 1], atol=2e-3)


def test_a_probe_of_numbers_is_ridge_regression():
    features = (DRAWS.normal(size=(80, 6)) + 4).astype("float32")
    labels = 1000 * features[:, :2] + DRAWS.normal(0, 300, (80, 2))
    model = build("regression")
    model.get_layer("head_unit").mean.assign(labels.mean(0))
    model.get_layer("head_unit").std.assign(labels.std(0))
    kernel, bias = tasks.TASKS["regression"].linear(features, labels, 2, model)
    scaled = (labels - labels.mean(0)) / labels.std(0)
    expected = RidgeCV(np.logspace(-4, 2, 13)).fit(unit(features), scaled).predict(unit(features))
    np.testing.assert_allclose(features @ kernel + bias, expected, atol=1e-3)


def test_the_losses_of_numbers_are_in_units_of_their_spread():
    truth, given, std = np.array([[1.0, 20.0]]), np.array([[1.5, 80.0]]), [1.0, 20.0]
    expected = {"squared": (0.25 + 9) / 2, "absolute": (0.5 + 3) / 2, "huber": (0.125 + 2.5) / 2}
    for kind, value in expected.items():
        assert float(ScaledLoss(std, kind)(truth, given)) == pytest.approx(value)


def test_positives_are_weighed_where_they_are_rare():
    labels = SEVERAL.copy()
    labels[:, 0] = 0
    labels[:4, 0] = 1
    model = build("multilabel")
    options = {"schedule": "head", "head_epochs": 1, "probe": False, "verbose": 0}
    kc.fine_tune(model, IMAGES, labels, class_weight="balanced", **options)
    with pytest.raises(BadSpec, match="class_weight is for classes, which regression has none of"):
        kc.fine_tune(build("regression"), IMAGES, NUMBERS, class_weight="balanced", **options)
    with pytest.raises(BadSpec, match="label_smoothing is for classes, which regression has none of"):
        kc.fine_tune(build("regression"), IMAGES, NUMBERS, label_smoothing=0.1, **options)

    class Known:
        def labels(self):
            return labels

    assert tasks.TASKS["multilabel"].weights("balanced", Known(), 3)[0] == pytest.approx(44 / 4)


# --- what cannot be learnt ---

BAD = {
    "texts": ("multilabel", np.array([["x", "y", "z"]] * 48), "are texts, such as 'x': give 0 or 1"),
    "one column": ("multilabel", CLASSES, r"have the shape \(48,\): give \(images, classes\)"),
    "not 0 or 1": ("multilabel", 2 * SEVERAL, "is 2: give 0 or 1"),
    "other width": ("multilabel", SEVERAL[:, :2], "have 2 columns, the head has 3 classes"),
    "a class without images": ("multilabel", SEVERAL * np.array([1, 0, 1], "uint8"), "no training image has class 1"),
    "third class": ("binary", CLASSES, "is 2, the head has 2 classes"),
    "one class": ("binary", 0 * CLASSES, "all training images are of class 0"),
    "not a number": ("regression", np.where(NUMBERS > 10_050, np.nan, NUMBERS), "row 2 of the labels .* not a finite"),
    "constant": ("regression", 0 * NUMBERS + 7, "target 0 is 7 for all training images"),
    "words": ("regression", np.array([["a", "b"]] * 48), "are texts, such as 'a': give numbers"),
    "other targets": ("regression", NUMBERS[:, :1], r"have the shape \(48, 1\), the head 2 targets"),
    "floats": ("embedding", CLASSES / 2, "are float64: give whole numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_labels_that_a_task_cannot_learn(kind, tmp_path):
    name, labels, sentence = BAD[kind]
    with pytest.raises(BadData, match=sentence):
        kc.fine_tune(build(name), IMAGES, labels, out=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


HEADS = {
    "multilabel": {"head": kc.Head(classes=3, task="multilabel", activation="softmax")},
    "binary": {"head": kc.Head(classes=3, task="binary"), "classes": None},
    "embedding": {"head": kc.Head(classes=0, task="embedding")},
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_a_task_cannot_learn(name):
    model = kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), **HEADS[name])
    with pytest.raises((BadSpec, BadData), match=f"build it with task='{name}'"):
        kc.fine_tune(model, IMAGES, CASES[name][1], verbose=0)


def test_one_text_is_no_list_of_names():
    """Its letters would be classes, without a word."""
    for asked in ({"classes": "cat"}, {"targets": "age"}):
        with pytest.raises(BadSpec, match="is one text: give a list of names, such as"):
            kc.build("resnet20", depths=(1, 1, 1), **asked)
    with pytest.raises(BadSpec, match="head='cat' is one text"):
        kc.replace_head(kc.build("resnet20"), "cat")
    with pytest.raises(BadSpec, match="class_names='ab' is one text"):
        kc.load_data((IMAGES, CLASSES), build("classification"), class_names="ab")
    assert kc.config_of(kc.replace_head(build("binary"), ["cat", "dog"])).class_names == ("cat", "dog")


def test_data_for_another_task_is_told_with_the_head_for_it():
    data = kc.load_data((IMAGES, NUMBERS), build("regression"), task="regression")
    with pytest.raises(BadData, match=r"build it with classes=data.class_names, task='regression'\."):
        kc.fine_tune(build("classification"), data, verbose=0)
    masks = (IMAGES[..., 0] > 99).astype("uint8")
    data = kc.load_data((IMAGES, masks), build("classification"), task="segmentation")
    for name in ("classification", "embedding"):
        with pytest.raises(BadData, match=r"build it with head=kc.UNet\(classes=data.class_names\)"):
            kc.fine_tune(build(name), data, verbose=0)


def test_another_task_starts_another_head():
    for name, (asked, _) in CASES.items():
        assert kc.config_of(kc.build("resnet20", depths=(1, 1, 1), **asked)).head.task == name
    with pytest.raises(BadSpec, match="targets are for a regression"):
        kc.build("resnet20", depths=(1, 1, 1), targets=2, classes=3)
    with pytest.raises(BadSpec, match="task='colour': choose one of"):
        kc.build("resnet20", depths=(1, 1, 1), task="colour")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kc.build("resnet20", depths=(1, 1, 1), targets=("age",)).output_shape == (None, 1)


# --- what a first user would try ---


def test_a_class_that_no_validation_image_has_does_not_count():
    """In the log as in the result: the best epoch is chosen by the classes that can be judged."""
    labels = np.stack([CLASSES > 0, CLASSES == 2], 1).astype("uint8")
    val = IMAGES[CLASSES < 2], labels[CLASSES < 2]
    model = kc.build("resnet20", depths=(1, 1, 1), classes=2, task="multilabel", input_shape=(16, 16, 3))
    history = kc.fine_tune(model, IMAGES, labels, validation_data=val, head_epochs=2, epochs=0, probe=False, verbose=0)
    expected = reference.average_precision_score(val[1][:, 0], model.predict(val[0], verbose=0)[:, 0])
    assert kc.evaluate(model, val).metrics["map"] == pytest.approx(expected)
    assert max(history.history["val_map"]) == pytest.approx(expected, abs=0.02)
    written = keras.saving.serialize_keras_object(tasks.TASKS["multilabel"].metrics(model)[0])
    assert keras.saving.deserialize_keras_object(written).num_labels == 2


def test_a_forecast_is_measured_by_a_linear_probe_first():
    """Each step a wave further on: what a line through the features gives is known beforehand."""
    time = np.arange(60)[:, None] / 3 + np.arange(20)
    x, y = np.stack([np.sin(time), np.cos(time)], -1)[:, :16], np.stack([np.sin(time), 9 * np.cos(time)], -1)[:, 16:]
    model = kc.build("tcn", input_shape=(16, 2), targets=["sin", "cos"], horizon=4, widths=(8,), dilations=(1, 2, 4))
    told = {"schedule": "head", "head_epochs": 1, "verbose": 0}
    history = kc.fine_tune(model, (x[:40], y[:40]), (x[40:], y[40:]), **told)
    assert history.baselines.linear > 0.9 and history.baselines.knn > 0.9
    assert kc.evaluate(model, (x[40:], y[40:])).metrics["r2"] >= history.baselines.linear - 1e-3  # it is kept


@pytest.mark.slow
def test_an_autoencoder_needs_no_labels():
    head = kc.UNet(classes=3, skip=None, task="reconstruction")
    figures = []
    for train, val in ((IMAGES, IMAGES[:8]), ((IMAGES, CLASSES), (IMAGES[:8], CLASSES[:8]))):
        keras.utils.set_random_seed(0)
        model = kc.build("resnet20", depths=(1, 1, 1), head=head, input_shape=(16, 16, 3))
        told = {"validation_data": val, "head_epochs": 1, "epochs": 1, "verbose": 0}
        figures.append(kc.fine_tune(model, train, **told).history["val_r2"])
    assert figures[0] == figures[1] and len(figures[0]) == 2
    assert kc.evaluate(model, IMAGES[:8]).metrics["r2"] == pytest.approx(max(figures[1]), rel=1e-3)  # as it was logged
    assert kc.evaluate(model, IMAGES).metrics == kc.evaluate(model, (IMAGES, CLASSES)).metrics


def test_masks_of_another_size_than_their_images_are_refused():
    model = kc.build("resnet20", depths=(1, 1, 1), head=kc.UNet(classes=2), input_shape=(16, 16, 3))
    masks = (IMAGES[..., 0] > 99).astype("uint8")
    with pytest.raises(BadData, match=r"the masks of the training images are \(8, 16\), the images \(16, 16\)"):
        kc.fine_tune(model, IMAGES, masks[:, :8], verbose=0)
    with pytest.raises(BadData, match=r"evaluation images are \(16, 8\)"):
        kc.evaluate(model, (IMAGES, masks[:, :, :8]))
    assert kc.evaluate(model, (IMAGES, masks[..., None])).metrics == kc.evaluate(model, (IMAGES, masks)).metrics


def test_one_column_of_zeros_and_ones_is_a_label_where_several_are_meant(tmp_path):
    for i in range(8):
        Image.fromarray(IMAGES[i]).save(tmp_path / f"{i}.png")
    (tmp_path / "table.csv").write_text("\n".join(["image,car", *(f"{i}.png,{i % 2}" for i in range(8))]))
    model = kc.build("resnet20", depths=(1, 1, 1), classes=["car"], task="multilabel", input_shape=(16, 16, 3))
    data = kc.load_data(tmp_path / "table.csv", model)
    assert (data.task, data.class_names) == ("multilabel", ("car",))
    assert kc.load_data(tmp_path / "table.csv", kc.build("resnet20")).task == "classification"


def test_the_picture_of_masks_shows_some_images_and_the_worst():
    collects = tasks.TASKS["segmentation"].gather((4, 4, 2), ("a", "b"))
    truth = np.zeros((4, 4), "uint8")
    for i in range(40):
        scores = np.zeros((4, 4, 2))
        scores[..., 0], scores[: i % 4, :, 1] = 0.5, 1.0  # the more of them, the worse
        collects.add(str(i), IMAGES[0], truth, scores)
    shown = collects.result().samples
    assert len({one.name for one in shown}) == len(shown) == 2 * segmentation.SHOWN
    assert max(int(one.name) for one in shown[:4]) > 10  # not the first ones
    assert {int(one.name) % 4 for one in shown[4:]} == {3}


def test_images_that_are_cropped_for_a_network_that_sees_them_whole_are_told_of(tmp_path):
    """Else the masks of a U-Net would be learnt from the middle of each photo, and used on all of it."""
    for kind, image in (("images", IMAGES[0]), ("masks", IMAGES[0, ..., 0] // 40 % 2)):
        (tmp_path / kind).mkdir()
        for i in range(4):
            Image.fromarray(image).save(tmp_path / kind / f"{i}.png")
    cropped = kc.Preprocess(size=(16, 16))
    model = kc.build("resnet20", depths=(1, 1, 1), head=kc.UNet(classes=2), input_shape=(16, 16, 3))
    told = {"batch_size": 2, "task": "segmentation"}
    with pytest.warns(DataWarning, match="seen with mode='center', crop=0.875, those that resnet20_unet answers"):
        kc.evaluate(model, kc.load_data(tmp_path, cropped, **told))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        kc.evaluate(model, kc.load_data(tmp_path, cropped.whole(), **told))
        kc.evaluate(model, kc.load_data(tmp_path, model, **told))


def test_an_autoencoder_learns_from_a_folder_of_images(tmp_path):
    model = kc.build(
        "resnet20", depths=(1, 1, 1), head=kc.UNet(classes=3, skip=None, task="reconstruction"), input_shape=(16, 16, 3)
    )
    flat, parted = tmp_path / "flat", tmp_path / "parted"
    for i, image in enumerate(IMAGES[:8]):
        for place in (flat / ("deep" if i % 2 else "."), parted / "set" / ("train" if i < 6 else "val")):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
    assert kc.load_data(flat, model, val_split=0.25).sizes == {"train": 6, "val": 2}
    data = kc.load_data(parted, model)
    assert data.sizes == {"train": 6, "val": 2}
    assert len(kc.fine_tune(model, data, schedule="all", epochs=1, verbose=0).history["val_r2"]) == 1
    assert len(kc.evaluate(model, parted / "set" / "val")) == 2
    assert len(kc.evaluate(model, flat)) == 8  # nothing is held back where all is judged
    with pytest.raises(BadData, match="has val but no train folder"):
        shutil.copytree(parted / "set" / "val", tmp_path / "only" / "val")
        kc.load_data(tmp_path / "only", model)
    Image.fromarray(IMAGES[0]).save(parted / "set" / "lost.png")
    with pytest.raises(BadData, match=r"lost\.png is in none of its splits"):
        kc.load_data(parted, model)
    with pytest.raises(BadData, match="only one class"):
        kc.load_data(flat, kc.build("resnet20", classes=2))


# --- runs of every task ---


def waves(steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    phase = DRAWS.uniform(0, 6, (48, 1))
    return np.sin((0.5 + CLASSES[:, None]) * np.arange(steps) + phase)[..., None].astype("float32"), CLASSES


def anything(name: str):
    """(a new network, its inputs, their labels) of a task, or of sequences."""
    if name == "sequences":
        keras.utils.set_random_seed(0)
        told = {"input_shape": (12, 1), "classes": 3, "widths": (8,), "dilations": (1, 2, 4)}
        return kc.build("tcn", **told), *waves()
    if name == "segmentation":
        keras.utils.set_random_seed(0)
        head = kc.UNet(classes=("dark", "bright"), decoder=(8, 8))
        model = kc.build("resnet20", depths=(1, 1, 1), head=head, input_shape=(16, 16, 3))
        return model, IMAGES, (IMAGES[..., 0] > 100).astype("uint8")
    return build(name), IMAGES, CASES[name][1]


class Crash(RuntimeError):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "sequences"])  # a U-Net's skips leave nothing that one cut could divide
def test_features_that_are_computed_once_come_to_the_same_as_the_whole_network(name, monkeypatch):
    """The same figures and weights, whether what is frozen is run once or in every epoch."""
    found, (_, inputs, labels) = [], anything(name)
    for divided in (True, False):
        cuts = []

        def divide(model, divided=divided, cuts=cuts, real=split.divide):
            cuts.append(real(model))
            return cuts[-1] if divided else None

        with monkeypatch.context() as patched:
            patched.setattr(split, "divide", divide)
            model = anything(name)[0]
            told = {"schedule": "head", "head_epochs": 3, "probe": False, "verbose": 0, "cache": False}
            history = kc.fine_tune(model, inputs, labels, validation_data=(inputs, labels), **told).history
        assert cuts and all(cuts)
        found.append((history, arrays.arrays(model)))
    (one, weights), (two, others) = found
    for figure in sorted(one.keys() - {"phase"}):
        np.testing.assert_allclose(one[figure], two[figure], rtol=1e-3, atol=1e-4, err_msg=figure)
    for key, value in weights.items():
        np.testing.assert_allclose(value, others[key], atol=2e-4, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "segmentation", "sequences"])
def test_a_run_of_any_task_goes_on_is_searched_saved_and_published(name, hub, home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    monkeypatch.setattr(state, "EVERY", 0.0)
    inputs, labels = anything(name)[1:]

    def learn(out, **told):
        model = anything(name)[0]
        options = {"schedule": "gradual", "head_epochs": 1, "epochs": 2, "probe": False, "verbose": 0, **told}
        return model, kc.fine_tune(model, inputs, labels, validation_data=(inputs, labels), out=out, **options).history

    def crash(epoch, logs):
        if epoch == 2:
            raise Crash

    whole, expected = learn(tmp_path / "whole")
    with pytest.raises(Crash):
        learn(tmp_path / "run", callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=crash)])
    model, found = learn(tmp_path / "run", resume=True)
    assert found == expected
    for key, value in arrays.arrays(model).items():
        np.testing.assert_array_equal(value, arrays.arrays(whole)[key], err_msg=key)
    assert len(kc.lr_find(model, (inputs, labels), steps=3).losses) == 3
    answers = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    kc.publish(tmp_path / "run", f"me/{name}", license="mit")
    for again in (kc.build(f"hf://me/{name}"), kc.build(tmp_path / "model.keras")):
        np.testing.assert_array_equal(again.predict(inputs, verbose=0), answers)
