"""What cannot be learnt is told before anything is trained or written, whichever way the images are given."""

from __future__ import annotations

import warnings

import images
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnn as kc
from keras_cnn.errors import BadData, BadSpec, PixelWarning
from keras_cnn.training import loop, optimizers

LABELS = np.arange(16) % 2
IMAGES = np.random.default_rng(0).integers(0, 60, (16, 16, 16, 3)).astype("uint8")
IMAGES += (150 * LABELS[:, None, None, None]).astype("uint8")
OPTIONS = {
    kc.train: {"epochs": 1, "batch_size": 8, "verbose": 0},
    kc.fine_tune: {"epochs": 1, "head_epochs": 0, "batch_size": 8, "probe": False, "verbose": 0},
}
BOTH = pytest.mark.parametrize("call", OPTIONS, ids=lambda call: call.__name__)
FORMS = pytest.mark.parametrize("form", ["arrays", "data set"])


@pytest.fixture(scope="module")
def net():
    return make()


def make(**options):
    return kc.build("resnet20", **{"input_shape": (16, 16, 3), "classes": 2, **options})


def given(form: str, images: np.ndarray, labels: np.ndarray):
    return (images, labels) if form == "arrays" else tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)


def refused(call, model, data, out, error, sentence):
    before = model.get_weights()
    with pytest.raises(error, match=sentence):
        call(model, data, out=out, **OPTIONS[call])
    assert not out.exists()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


HEADS = {
    "one output": ({"classes": 1}, r"one output \(classes=1\), and softmax over one class is always 1"),
    "one sigmoid": ({"classes": 1, "classifier_activation": "sigmoid"}, "one output"),
    "one number": ({"classes": 1, "classifier_activation": None}, "one output"),
    "sigmoids": ({"classifier_activation": "sigmoid"}, "classifier_activation='sigmoid' does not make one class"),
    "features": ({"classes": 0}, r"ends in features, not in a classifier \(classes=0\)"),
    "embedding": ({"classes": None, "head": kc.Head(classes=0, embedding=64)}, "ends in features"),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_that_softmax_cannot_train(head, tmp_path):
    options, sentence = HEADS[head]
    model = make(**options)
    for call in OPTIONS:
        for form in ("arrays", "data set"):
            refused(call, model, given(form, IMAGES, LABELS), tmp_path / "run", BadSpec, sentence)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(BadSpec, match=sentence):
        kc.lr_find(model, (IMAGES, LABELS))


HOT = np.eye(2, dtype="float32")[LABELS]
SEVERAL = np.maximum(HOT, [[1, 0]])
BAD_LABELS = {
    "several classes for an image": (SEVERAL, r"row 1 of the labels of the training images adds up to 2, not to 1"),
    "from 1": (LABELS + 1, r"is 2, the head has 2 classes: .* Labels count from 0: subtract 1"),
    "negative": (LABELS - 1, "a label of the training images is -1"),
    "floats": (LABELS / 2, r"float64: give whole numbers, as labels.astype\('int32'\)"),
    "texts": (np.array(["cat", "dog"])[LABELS], r"are texts, such as .*cat.*: give numbers from 0.*return_inverse"),
    "columns": (np.eye(3)[LABELS], "have 3 columns, the head has 2 classes"),
    "shape": (np.zeros((16, 2, 2), int), r"have the shape \(.*, 2, 2\): give one whole number"),
}


@BOTH
@FORMS
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_cannot_be_learnt(net, call, form, kind, tmp_path):
    labels, sentence = BAD_LABELS[kind]
    refused(call, net, given(form, IMAGES, labels), tmp_path / "run", BadData, sentence)


@pytest.mark.parametrize("kind", ["several classes for an image", "from 1", "floats", "texts"])
def test_lr_find_tells_of_labels_too(net, kind):
    loop.compile_(net, optimizers.adamw(1e-3))
    for form in ("arrays", "data set"):
        with pytest.raises(BadData, match=BAD_LABELS[kind][1]):
            kc.lr_find(net, given(form, IMAGES, BAD_LABELS[kind][0]), steps=3)


@pytest.mark.parametrize("kind", ["several classes for an image", "floats", "texts", "negative"])
def test_a_probe_tells_of_labels_too(net, kind):
    with pytest.raises(BadData):
        kc.probe(net, (IMAGES, BAD_LABELS[kind][0]), (IMAGES, LABELS), cache=False)


BAD_FORMS = {
    "unequal": ((IMAGES, LABELS[:9]), "there are 16 training images and 9 labels"),
    "no images": ((IMAGES[:0], LABELS[:0]), "there are no training images"),
    "one class": ((IMAGES, LABELS * 0), "all training images are of class 0"),
    "small": ((IMAGES[:, :8], LABELS), r"images are 8x16x3, the network takes 16x16x3: .*input_shape=\(8, 16, 3\)"),
    "gray": ((IMAGES[..., 0], LABELS), r"shape \(16, 16, 16\): give numbers \(images, height, width"),
    "three parts": ((IMAGES, LABELS, LABELS), "has 3 parts: give a pair"),
    "a list": ([IMAGES, LABELS], "is a list: give a pair"),
    "no labels": (IMAGES, "images came without labels"),
    "not in batches": (given("data set", IMAGES, LABELS).unbatch(), "give one whole number for each image"),
    "empty": (given("data set", IMAGES, LABELS).take(0), "has no batch"),
}


@BOTH
@pytest.mark.parametrize("kind", BAD_FORMS)
def test_images_and_labels_that_do_not_belong_together(net, call, kind, tmp_path):
    data, sentence = BAD_FORMS[kind]
    refused(call, net, data, tmp_path / "run", BadData, sentence)


class Sequence(keras.utils.PyDataset):
    def __init__(self, labels, images=IMAGES):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return self.images[part], self.labels[part]


def tiny() -> keras.Model:
    """A network whose graphs are made at once."""
    layers = keras.layers
    image = keras.Input((16, 16, 3), name="stem_image")
    x = layers.Conv2D(4, 3, 4, name="stem_conv")(layers.Rescaling(1 / 255, name="stem_scale")(image))
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    return keras.Model(image, layers.Dense(2, "softmax", name="head_logits")(x))


@BOTH
@pytest.mark.parametrize("form", ["tf.data", "PyDataset"])
def test_labels_of_later_batches_do_not_pass_either(call, form):
    late = np.where(np.arange(16) < 15, LABELS, 7)
    data, good = given("data set", IMAGES, late), given("data set", IMAGES, LABELS)
    data = data if form == "tf.data" else Sequence(late)
    told = {**OPTIONS[call], **({"bn": "frozen"} if call is kc.fine_tune else {})}
    with pytest.raises(BadData, match="a label of the training images is 7, the head has 2 classes"):
        call(tiny(), data, **told)
    with pytest.raises(BadData, match="a label of the validation images is 7, the head has 2 classes"):
        call(tiny(), good, data, **told)


class Enough(Exception):
    pass


@BOTH
@pytest.mark.parametrize("form", ["arrays", "tf.data", "PyDataset", "Data"])
def test_faint_pixels_are_warned_of_once(call, form, monkeypatch):
    model = make(depths=(1, 1, 1), norm="none")

    def fit(*_, **__):
        raise Enough

    def told(images, labels=LABELS):
        data = {
            "arrays": lambda: (images, labels),
            "tf.data": lambda: given("data set", images, labels),
            "PyDataset": lambda: Sequence(labels, images),
            "Data": lambda: kc.load_data((images, labels), model, batch_size=8, augment=None),
        }[form]()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(Enough):
                call(model, data, **OPTIONS[call])
        return [warning for warning in caught if warning.category is PixelWarning]

    monkeypatch.setattr(keras.Model, "fit", fit)
    # Data holds whole numbers, and refuses others: drawings of 0 and 1.
    faint = told((IMAGES > 99).astype("uint8") if form == "Data" else IMAGES.astype("float32") / 255)
    assert len(faint) == 1, [str(warning.message) for warning in faint]
    assert "no pixel exceeds 1" in str(faint[0].message) and faint[0].filename == __file__
    assert not told(IMAGES)
    if form == "arrays":  # one image among many says enough
        assert not told(np.concatenate([IMAGES * 0, IMAGES]), np.tile(LABELS, 2))


def test_one_hot_labels_and_columns_are_labels():
    found = []
    for labels in (LABELS, HOT, LABELS[:, None]):
        keras.utils.set_random_seed(0)
        history = kc.train(tiny(), IMAGES, labels, epochs=1, verbose=0)
        found.append(history.history["loss"])
    assert found[0] == found[1] == found[2]


# --- names of classes ------------------------------------------------------------------------------------------------


@pytest.fixture
def flowers(tmp_path):
    """A folder of three classes, and it as Keras reads it."""
    images.folder(tmp_path, {"daisy": 4, "rose": 4, "tulip": 4}, size=(32, 32))
    read = {"image_size": (32, 32), "batch_size": 6, "seed": 0, "verbose": False}
    return keras.utils.image_dataset_from_directory(tmp_path, **read)


QUIET = {"head_epochs": 1, "epochs": 0, "verbose": 0, "probe": False}


@pytest.mark.parametrize("form", ["read", "cached and prefetched"])
def test_classes_that_keras_reads_in_another_order_are_refused(flowers, form):
    """The network would name each rose a daisy."""
    data = flowers if form == "read" else flowers.cache().shuffle(2).take(9).prefetch(1)
    net = kc.build("resnet20", classes=["tulip", "rose", "daisy"])
    for learn in (kc.fine_tune, kc.train):
        with pytest.raises(BadData, match="class 0 is 'daisy' in the data and 'tulip' in the network's head"):
            learn(net, data, verbose=0)
    with pytest.raises(BadData, match="'daisy' in the data and 'tulip'"):
        kc.fine_tune(net, (np.zeros((3, 32, 32, 3), "uint8"), np.arange(3)), data, **QUIET)
    with pytest.raises(BadData, match="the data has 3 classes, the network's head 2"):
        kc.fine_tune(kc.build("resnet20", classes=2), data, verbose=0)


def test_classes_that_keras_reads_are_scored_by_name(flowers):
    net = kc.build("resnet20", classes=["tulip", "rose", "daisy"])
    named = kc.evaluate(net, flowers)
    numbered = kc.evaluate(net, flowers.map(lambda x, y: (x, 2 - y)))
    assert named.metrics == numbered.metrics and named.class_names == ("tulip", "rose", "daisy")
    assert kc.evaluate(kc.build("resnet20", classes=3), flowers).class_names == ("daisy", "rose", "tulip")
    with pytest.raises(BadData, match="does not know 1 of the data's 3 classes"):
        kc.evaluate(kc.build("resnet20", classes=["tulip", "rose", "lily"]), flowers)


def test_labels_that_were_given_to_keras_have_no_names(tmp_path):
    images.folder(tmp_path, {"all": 6}, size=(32, 32))
    told = {"image_size": (32, 32), "batch_size": 6, "shuffle": False, "verbose": False}
    data = keras.utils.image_dataset_from_directory(tmp_path, labels=[0, 1, 2, 0, 1, 2], **told)
    net = kc.build("resnet20", classes=["daisy", "rose", "tulip"])
    kc.fine_tune(net, data, **QUIET)
    assert kc.evaluate(net, data).confusion().sum() == 6


@pytest.mark.parametrize("form", ["as Keras reads it", "arrays"])
def test_two_classes_that_keras_reads_as_floats(tmp_path, form):
    """label_mode="binary" gives 0.0 and 1.0, (n, 1)."""
    images.folder(tmp_path, {"rose": 6, "tulip": 4}, size=(32, 32))
    told = {"image_size": (32, 32), "batch_size": 10, "seed": 0, "verbose": False}
    data = keras.utils.image_dataset_from_directory(tmp_path, label_mode="binary", **told)
    data = data if form == "as Keras reads it" else tuple(map(np.asarray, next(iter(data))))
    weighed = {"class_weight": "balanced"} if form == "arrays" else {}
    net = kc.build("resnet20", classes=["rose", "tulip"], task="binary")
    kc.fine_tune(net, data, **(QUIET | weighed))
    result = kc.evaluate(net, data)
    assert result.confusion().sum(1).tolist() == [6, 4]
    with pytest.raises(BadData, match="readers with label_mode='int'"):
        kc.fine_tune(kc.build("resnet20", classes=["rose", "tulip"]), data, **QUIET)


@pytest.mark.parametrize("learn", ["fine_tune", "train"])
@pytest.mark.parametrize("form", ["as Keras reads it", "data"])
def test_a_network_without_names_takes_those_of_its_data(flowers, tmp_path, learn, form):
    net = kc.build("resnet20", classes=3)
    data = kc.load_data(tmp_path, net) if form == "data" else flowers
    told = QUIET if learn == "fine_tune" else {"epochs": 1, "verbose": 0}
    getattr(kc, learn)(net, data, out=tmp_path / "out", **told)
    assert kc.predictor(tmp_path / "out")(np.zeros((32, 32, 3), "uint8"))[0].label in ("daisy", "rose", "tulip")
