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
from keras_cnn.errors import BadData
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
    assert given.seen() == (seen.of(train.images) if known else [])
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
