"""A class for each pixel: losses and figures against NumPy, learning through the same calls, masks that cannot be."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.tasks.segmentation import MeanIoU, PixelAccuracy, SegmentationLoss

TASK = tasks.TASKS["segmentation"]
DRAWS = np.random.default_rng(0)
NAMES = ("dark", "middle", "bright")


def scene(count: int = 16, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Images of three bands, each of its brightness, and where they are."""
    masks = np.zeros((count, side, side), "uint8")
    for mask, (one, other) in zip(masks, np.sort(DRAWS.integers(3, side - 3, (count, 2)), 1), strict=True):
        mask[one:] = 1
        mask[other:] = 2
    images = 40 + 80 * masks[..., None] + DRAWS.integers(0, 30, (*masks.shape, 3))
    return images.astype("uint8"), masks


def net(**options):
    keras.utils.set_random_seed(0)
    return kc.build("resnet20", head=kc.UNet(classes=NAMES, decoder=(16, 8)), input_shape=(24, 24, 3), **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(network, images, masks, history, directory) of a short run."""
    images, masks = scene()
    masks = masks.copy()
    masks[:, :, 0] = 255
    model, out = net(), tmp_path_factory.mktemp("unet") / "run"
    options = {"schedule": "all", "head_epochs": 0, "epochs": 12, "learning_rate": 1e-2, "batch_size": 4}
    history = kc.fine_tune(model, images, masks, validation_data=(images, masks), out=out, verbose=0, **options)
    return model, images, masks, history, out


def test_it_learns_and_comes_back(run, tmp_path):
    model, images, masks, history, out = run
    result = kc.evaluate(model, (images, masks))
    assert (
        result.metrics["miou"] == pytest.approx(max(history.history["val_miou"]), abs=1e-3)
        and result.metrics["miou"] > 0.8
    )
    assert result.metrics["accuracy"] > 0.9
    assert [row["class"] for row in result.by_class()] == list(NAMES)
    drawn = result.pictures(tmp_path)
    assert list(drawn) == ["masks.png"] and (tmp_path / "masks.png").stat().st_size > 10_000
    again = kc.build(out)
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))
    assert kc.config_of(again).class_names == NAMES
    card = (out / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and "mean_iou" in card


def test_a_model_that_has_learnt_goes_on_with_plain_keras(run):
    model, images, masks, *_ = run
    found = model.evaluate(images, masks, verbose=0, return_dict=True)
    assert found["miou"] == pytest.approx(kc.evaluate(model, (images, masks)).metrics["miou"], abs=1e-4)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile("sgd", model.loss)
    copy.fit(images, masks, epochs=1, verbose=0)


def test_answers_are_masks_with_shares(run):
    _, images, masks, _, out = run
    answer = kc.predictor(out)(images[0])[0]
    assert answer.mask.shape == (24, 24) and sum(answer.shares.values()) == pytest.approx(1)
    assert (answer.mask[:, 1:] == masks[0, :, 1:]).mean() > 0.8
    assert list(answer.facts()["shares"]) == list(NAMES)


# --- losses and figures, computed another way ---


def pixels(classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    truth = DRAWS.integers(0, classes, (3, 5, 6)).astype("uint8")
    truth[0, :2] = 255
    scores = DRAWS.normal(size=(3, 5, 6, classes)).astype("float32")
    return truth, tasks.base.softmax(scores)


@pytest.mark.parametrize("logits", [False, True])
def test_cross_entropy_counts_known_pixels_alone(logits):
    truth, shares = pixels()
    known = truth != 255
    expected = -np.log(np.take_along_axis(shares, np.where(known, truth, 0)[..., None], -1)[..., 0])[known].mean()
    loss = SegmentationLoss("crossentropy", from_logits=logits)
    assert float(loss(truth, np.log(shares) if logits else shares)) == pytest.approx(expected, rel=1e-5)
    other = shares.copy()
    other[~known] = 0.25
    assert float(SegmentationLoss()(truth, other)) == pytest.approx(float(SegmentationLoss()(truth, shares)))
    kerass = keras.losses.SparseCategoricalCrossentropy(reduction="none")(np.where(known, truth, 0), shares)
    assert float(SegmentationLoss()(truth, shares)) == pytest.approx(np.asarray(kerass)[known].mean(), rel=1e-5)


def test_dice_focal_and_weights_are_as_by_hand():
    truth, shares = pixels()
    known = truth != 255
    hot = np.eye(4)[np.where(known, truth, 0)] * known[..., None]
    masked = shares * known[..., None]
    dice = (2 * (hot * masked).sum((0, 1, 2)) + 1) / (hot.sum((0, 1, 2)) + masked.sum((0, 1, 2)) + 1)
    assert float(SegmentationLoss("dice")(truth, shares)) == pytest.approx(1 - dice.mean(), rel=1e-5)
    both = float(SegmentationLoss("crossentropy+dice")(truth, shares))
    assert both == pytest.approx(float(SegmentationLoss()(truth, shares)) + 1 - dice.mean(), rel=1e-5)
    of_truth = (hot * shares).sum(-1)[known]
    focal = (-((1 - of_truth) ** 2) * np.log(of_truth)).mean()
    assert float(SegmentationLoss("focal")(truth, shares)) == pytest.approx(focal, rel=1e-5)
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    of_classes = float(SegmentationLoss("dice", weights=weights)(truth, shares))
    assert of_classes == pytest.approx(1 - (dice * weights).sum() / weights.sum(), rel=1e-5)
    weighted = (-np.log(of_truth) * weights[truth[known]]).mean()
    assert float(SegmentationLoss(weights=weights)(truth, shares)) == pytest.approx(weighted, rel=1e-5)


def test_figures_are_counts_of_pixels_of_all_images():
    truth, shares = pixels()
    truth[truth == 3] = 0  # a class that is only predicted
    taken, known = shares.argmax(-1), truth != 255
    ious, dices = [], []
    for c in range(4):
        t, p = (truth == c) & known, (taken == c) & known
        if (t | p).any():
            ious.append((t & p).sum() / (t | p).sum())
            dices.append(2 * (t & p).sum() / (t.sum() + p.sum()))
    found = TASK.measured(truth, shares).metrics
    assert found["miou"] == pytest.approx(np.mean(ious)) and found["dice"] == pytest.approx(np.mean(dices))
    assert found["accuracy"] == pytest.approx((truth == taken)[known].mean())
    for metric, name in ((MeanIoU(4), "miou"), (PixelAccuracy(4), "accuracy")):
        for part in (slice(0, 1), slice(1, 3)):
            metric.update_state(truth[part], shares[part])
        assert float(metric.result()) == pytest.approx(found[name], rel=1e-5)


def test_an_image_without_a_known_pixel_counts_for_nothing():
    truth, shares = pixels()
    nothing = np.full_like(truth[:1], 255)
    one = TASK.measured(truth, shares).metrics
    other = TASK.measured(np.concatenate([truth, nothing]), np.concatenate([shares, shares[:1]])).metrics
    assert {**other, "images": 3} == one
    assert float(SegmentationLoss()(nothing, shares[:1])) == 0


def test_rare_classes_weigh_more():
    masks = np.zeros((4, 10, 10), "uint8")
    masks[:, 0, :5] = 1
    masks[:, 1] = 2

    class Known:
        def labels(self):
            return masks

    weights = TASK.weights("balanced", Known(), 3)
    assert weights[1] > weights[2] > weights[0] and weights[2] == pytest.approx(1)


# --- what cannot be ---

IMAGES, MASKS = scene(8)
BAD = {
    "a class beyond the head's": (MASKS + 3 * (MASKS > 1), "a pixel of the masks .* is 5, the head has 3 classes"),
    "below 0": (MASKS.astype(int) - 1, "is -1, the head has 3 classes"),
    "shares": (MASKS / 2, "are float64: give whole numbers"),
    "one class an image": (MASKS[:, 0, 0], r"have the shape \(8,\): give a class for each pixel"),
    "fewer masks": (MASKS[:7], "8 training images and 7 labels"),
    "another size": (MASKS[:, :12], r"are \(12, 24\), the images \(24, 24\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_masks_that_cannot_be_learnt(kind, tmp_path):
    masks, sentence = BAD[kind]
    with pytest.raises(BadData, match=sentence):
        kc.fine_tune(net(), IMAGES, masks, out=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_head_for_whole_images_cannot_learn_masks(tmp_path):
    model = kc.build("resnet20", classes=3, input_shape=(24, 24, 3))
    with pytest.raises(BadData, match=r"have the shape \(8, 24, 24\): give one whole number"):
        kc.fine_tune(model, IMAGES, MASKS, verbose=0)
    data = kc.load_data((IMAGES, MASKS), net(), task="segmentation")
    with pytest.raises(BadData, match="the data is for segmentation, the network's head for classification"):
        kc.fine_tune(model, data, verbose=0)
    with pytest.raises((BadData, BadSpec), match="segmentation"):
        kc.evaluate(model, data)
