"""What a run learns from: `Data`, arrays and data sets of batches answer the same questions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from images import folder

from keras_cnn import data
from keras_cnn.data import seen
from keras_cnn.data.training_set import training_set
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.config import Preprocess

pytestmark = pytest.mark.no_keras
SMALL = Preprocess(size=(8, 8), crop=1.0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    root = folder(tmp_path_factory.mktemp("pets"), {"train/cat": 3, "train/dog": 4, "val/cat": 1, "val/dog": 2})
    return data.load_data(root, SMALL, batch_size=3, augment="light", seed=5)


@pytest.fixture(scope="module")
def forms(loaded):
    """The same images in each form."""
    train, val = loaded.arrays("train"), loaded.arrays("val")
    pairs = [(part.images, part.labels) for part in (train, val)]
    batches = [tf.data.Dataset.from_tensor_slices(pair).batch(3) for pair in pairs]
    return {
        "data": training_set(loaded),
        "arrays": training_set(*pairs, batch_size=3, seed=5),
        "batches": training_set(*batches, batch_size=3),
    }


def together(batches):
    images, labels = zip(*((np.asarray(x), np.asarray(y)) for x, y in batches), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("form", ["data", "arrays", "batches"])
def test_all_forms_answer_alike(forms, loaded, form):
    given = forms[form]
    train, val = loaded.arrays("train"), loaded.arrays("val")
    assert (given.batch_size, given.steps) == (3, 3) and given.facts.items() >= {"batch_size": 3, "steps": 3}.items()
    for batches, part in ((given.plain(), train), (given.held_out(), val)):
        images, labels = together(batches)
        np.testing.assert_array_equal(images, part.images)
        np.testing.assert_array_equal(labels, part.labels)
    known = form != "batches"
    assert given.again == known and bool(given.fingerprint) == known
    assert given.seen(SMALL).hashes == frozenset(seen.of(train.images) if known else [])
    assert given.augmented == (form == "data")
    if known:
        assert given.count == 7 and given.labels().tolist() == train.labels.tolist()


@pytest.mark.parametrize("form", ["data", "arrays"])
def test_a_pass_is_found_again(forms, form):
    given = forms[form]
    passes = {}
    for number in (0, 1, 0, 1):
        images = given.images()
        given.seek(images, number)
        labels = np.concatenate([np.asarray(images[i][1]) for i in range(len(images))] if form == "arrays" else
                                [np.asarray(y) for _, y in images])  # fmt: skip
        assert sorted(labels) == [0, 0, 0, 1, 1, 1, 1]
        assert passes.setdefault(number, labels.tolist()) == labels.tolist()
    assert passes[0] != passes[1]


def test_other_data_has_another_fingerprint(forms):
    images, labels = forms["arrays"].train
    prints = {
        repr(training_set(pair).fingerprint)
        for pair in ((images, labels), (images + 1, labels), (images, 1 - labels), (images[:6], labels[:6]))
    }
    assert len(prints) == 4


def test_other_validation_images_may_be_given(loaded, forms):
    pair = forms["arrays"].val
    assert training_set(loaded, pair).val is pair and training_set(loaded).val is loaded.val
    assert training_set(loaded, None, batch_size=99).batch_size == 3
    assert training_set(forms["arrays"].train).held_out() is None


def test_a_data_set_without_a_length_is_told():
    endless = tf.data.Dataset.range(3).map(lambda x: (x, x)).repeat()
    unknown = tf.data.Dataset.range(3).filter(lambda x: x > 0)
    for given in (endless, unknown):
        with pytest.raises(BadData, match="the training data has no length"):
            math.sqrt(training_set(given).steps)


# --- Data from arrays ------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), "uint8")
LABELS = np.arange(20) % 2


def test_arrays_become_data():
    loaded = data.load_data((IMAGES, LABELS), SMALL, batch_size=4, augment="light", seed=3)
    assert (
        isinstance(loaded, data.Data) and loaded.class_names == ("0", "1") and loaded.sizes == {"train": 16, "val": 4}
    )
    assert (
        loaded.summary
        == "16 training and 4 validation images of 2 classes (0 8, 1 8); images of 8x8 pixels are seen at 8x8; "
        "held decoded, 0.0 MiB"
    )
    pixels = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    found = [(image.tobytes(), label) for name in ("train", "val") for _, image, label in loaded.each(name)]
    assert dict(found) == pixels and len(found) == 20
    for name, image, label in loaded.each("val"):
        number = int(name[len("images[") : -1])
        assert np.array_equal(image, IMAGES[number]) and label == LABELS[number]
    images, labels = next(iter(loaded.train))
    assert images.shape == (4, 8, 8, 3) and labels.shape == (4,)
    assert next(iter(data.load_data((IMAGES, LABELS), SMALL, augment="heavy").train))[1].shape == (16, 2)
    named = data.load_data(
        (IMAGES.astype("float64"), LABELS[:, None]), SMALL, class_names=["dark", "light"], val_split=0
    )
    assert named.class_names == ("dark", "light") and named.val is None
    np.testing.assert_array_equal(together(named.plain)[0], IMAGES[np.argsort(LABELS, kind="stable")])
    assert loaded.subset(2).sizes["train"] == 4
    again = data.load_data((IMAGES + 1, LABELS), SMALL, batch_size=4, augment="light", seed=3)
    assert training_set(again).fingerprint != training_set(loaded).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES, LABELS[:9], "20 images and 9 labels"),
        (IMAGES[:0], LABELS[:0], "0 images"),
        (IMAGES, LABELS * 0, "all images are of one class"),
        (IMAGES, LABELS * 2, "the class '1' has no images"),
        (IMAGES, LABELS - 1, "not whole numbers from 0"),
        (IMAGES[:, :4], LABELS, "the images are 4x8, the network sees 8x8"),
        (IMAGES[..., 0], LABELS, r"have the shape \(20, 8, 8\)"),
        (IMAGES / 255, LABELS, "are not whole numbers of 0..255"),
    ],
)
def test_arrays_that_cannot_be_trained_on(images, labels, sentence):
    with pytest.raises(BadData, match=sentence):
        data.load_data((images, labels), SMALL)


def test_names_that_do_not_fit_the_arrays(tmp_path):
    with pytest.raises(BadData, match="a label is 1, and class_names has 1 names"):
        data.load_data((IMAGES, LABELS), SMALL, class_names=["dark"])
    with pytest.raises(BadSpec, match="class_names is for arrays"):
        data.load_data(folder(tmp_path, {"a": 2, "b": 2}), SMALL, class_names=["a", "b"])
    with pytest.raises(BadData, match="has 3 parts"):
        data.load_data((IMAGES, LABELS, LABELS), SMALL)
