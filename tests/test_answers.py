"""`kc.evaluate` and `kc.predictor`: every form of images, the same answers for all, and sentences for what is wrong."""

from __future__ import annotations

import io
import itertools
import re
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import seeded
import tensorflow as tf
from images import encode, folder, noise, zipped

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.data import seen
from keras_cnn.deploy.outputs import outputs_of
from keras_cnn.errors import BadData, BadImage, BadSpec, MemoryWarning, PixelWarning, UnknownOption, WeightsWarning

SIZE = (16, 16, 3)


def make(classes=("cat", "dog"), **options):
    options = {"input_shape": SIZE, "preprocess": kc.Preprocess(size=SIZE[:2], crop=1.0), **options}
    model = kc.build("resnet20", classes=classes, **options)
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return model


@pytest.fixture(scope="module")
def net():
    return make()


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    """Images of other sizes than the network's, with as many files as a class has, in two splits."""
    counts = {"train/cat": 4, "train/dog": 4, "val/cat": 3, "val/dog": 2}
    return folder(tmp_path_factory.mktemp("pets"), counts)


@pytest.fixture(scope="module")
def held_out(net, pets) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(paths, images, labels) of the val images."""
    files = sorted((pets / "val").rglob("*.png"))
    images = np.stack([kc.load_image(file, net) for file in files])
    return [str(file) for file in files], images, np.array([int(file.parent.name == "dog") for file in files])


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_a_folder_data_a_split_batches_and_arrays_give_the_same(net, pets, held_out):
    names, images, labels = held_out
    scores = net.predict(images, verbose=0)
    data = kc.load_data(pets, net, batch_size=2)
    streamed = kc.load_data(pets, net, batch_size=2, cache_bytes=0)
    forms = {
        "folder": pets,
        "data": data,
        "streamed": streamed,
        "split": data.val,
        "streamed split": streamed.val,
        "arrays": (images, labels),
        "column": (images, labels[:, None]),
        "one-hot": (images, np.eye(2)[labels]),
        "lists": (images.tolist(), labels.tolist()),
        "list of batches": [(images[:3], labels[:3]), (images[3:], labels[3:])],
    }
    for form, given in forms.items():
        result = kc.evaluate(net, given, batch_size=2)
        np.testing.assert_array_equal(result.labels, labels, err_msg=form)
        np.testing.assert_allclose(result.probabilities, scores, atol=1e-5, err_msg=form)
        assert result.class_names == ("cat", "dog") and result.trained_on is None and not result.skipped
        if form in ("folder", "data", "streamed"):
            assert list(result.names) == names
    assert result.metrics["accuracy"] == (scores.argmax(1) == labels).mean() and result.metrics["images"] == 5
    low, high = result.intervals["accuracy"]
    assert 0 <= low < result.metrics["accuracy"] < high <= 1 and repr(result).startswith("<Result: 5 images, accuracy")


def test_the_split_is_test_else_val_or_what_is_asked_for(net, pets, tmp_path):
    data = kc.load_data(pets, net)
    assert len(kc.evaluate(net, data, split="train")) == len(kc.evaluate(net, pets, split="train")) == 8
    whole = folder(tmp_path / "whole", {"cat": 2, "dog": 1})
    assert len(kc.evaluate(net, whole)) == len(kc.evaluate(net, zipped(whole, tmp_path / "whole.zip"))) == 3
    with pytest.raises(BadData, match="training images only: give split='train'"):
        kc.evaluate(net, kc.load_data(whole, net, val_split=0))
    three = folder(tmp_path / "three", {"train/cat": 1, "train/dog": 1, "val/cat": 1, "test/dog": 4})
    assert len(kc.evaluate(net, three)) == 4 and len(kc.evaluate(net, three, split="val")) == 1
    for given in (whole, data):
        with pytest.raises(BadData, match="the data has no split 'test'; it has train"):
            kc.evaluate(net, given, split="test")
    with pytest.raises(BadSpec, match="split='val' is for Data and folders"):
        kc.evaluate(net, data.val, split="val")


def test_classes_are_matched_by_name(net, held_out, tmp_path):
    dogs = folder(tmp_path / "dogs", {"dog": 3})
    assert kc.evaluate(net, dogs).labels.tolist() == [1, 1, 1]
    with pytest.raises(BadData, match=r"does not know 1 of the data's 2 classes \(emu\)"):
        kc.evaluate(net, folder(tmp_path / "birds", {"dog": 1, "emu": 1}))
    with pytest.raises(BadData, match="the data has 2 classes, the model 3 without names"):
        kc.evaluate(make(3), folder(tmp_path / "two", {"cat": 1, "dog": 1}))
    assert kc.evaluate(make(2), tmp_path / "two").by_class()[1]["class"] == "dog"


def test_images_that_the_run_was_trained_on_are_told_apart(net, pets, held_out, tmp_path):
    names, images, labels = held_out
    out = kc.save_pretrained(net, tmp_path / "run")
    seen.write(out / seen.FILE, seen.of(images[[0, 3]]))
    for result in (
        kc.evaluate(out, pets),
        kc.evaluate(str(out), (images, labels)),
        kc.evaluate(net, pets, run=out),
        kc.evaluate(net, kc.load_data(pets, net), run=out),
    ):
        assert (len(result), len(result.trained_on)) == (3, 2)
        assert result.correct + result.trained_on.correct == kc.evaluate(net, (images, labels)).correct
    assert result.trained_on.names == (names[0], names[3])
    seen.write(out / seen.FILE, seen.of(images))
    nothing_new = kc.evaluate(out, pets)
    assert nothing_new.metrics == {"images": 0} and not nothing_new.intervals and not nothing_new.worst()
    assert not nothing_new.confusion().any() and nothing_new.trained_on.metrics["images"] == 5
    with pytest.raises(BadData, match="there is no such directory"):
        kc.evaluate(net, pets, run=tmp_path / "gone")


def test_figures_by_class_and_the_worst_mistakes(held_out):
    from keras_cnn.tasks.classification import Result

    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    result = Result(np.array([0, 0, 0, 1]), shares, ("a", "b", "c", "d"), ("cat", "dog"))
    assert result.by_class() == [
        {"class": "cat", "images": 3, "precision": 0.5, "recall": 1 / 3},
        {"class": "dog", "images": 1, "precision": 0.0, "recall": 0.0},
    ]
    assert result.confused() == [
        {"true": "cat", "predicted": "dog", "images": 2},
        {"true": "dog", "predicted": "cat", "images": 1},
    ]
    assert [(row["image"], row["predicted"], row["probability"]) for row in result.worst(2)] == [
        ("d", "cat", 0.95),
        ("b", "dog", 0.8),
    ]


def test_logits_become_probabilities(held_out):
    _, images, labels = held_out
    logits = make(classifier_activation=None)
    expected = kc.evaluate(make(), (images, labels)).probabilities
    np.testing.assert_allclose(kc.evaluate(logits, (images, labels)).probabilities, expected, atol=1e-5)
    told = kc.predictor(logits)
    np.testing.assert_allclose(told.scores(images), logits.predict(images, verbose=0), atol=1e-4)
    assert [a.probability for a in told(images)] == pytest.approx(expected.max(1), abs=1e-5)


def test_an_unreadable_file_is_told_or_left_out_and_named(net, tmp_path, caplog):
    root = folder(tmp_path / "pets", {"cat": 3, "dog": 2})
    (root / "cat/001.png").write_bytes(b"this is a letter")
    with pytest.raises(BadImage, match=r"001[.]png: this is not an image"):
        kc.evaluate(net, root)
    for given in (
        root,
        kc.load_data(root, net, skip_bad=True, val_split=0),
        kc.load_data(root, net, skip_bad=True, val_split=0, cache_bytes=0),
    ):
        result = kc.evaluate(net, given, split="train", skip_bad=True)
        assert result.skipped == (str(root / "cat/001.png"),) and result.labels.tolist() == [0, 0, 1, 1]
        assert [Path(name).name for name in result.names] == ["000.png", "002.png", "000.png", "001.png"]
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(BadData, match="not one of the images can be read"):
        kc.evaluate(net, root, skip_bad=True)


IMAGES, LABELS = np.stack([noise(16, 16, seed=i) for i in range(4)]), np.array([0, 1, 1, 0])
WRONG = {
    "too large a label": ((IMAGES, LABELS + 1), "is 2, the head has 2 classes"),
    "a negative label": ((IMAGES, LABELS - 1), "a label of the evaluation images is -1"),
    "texts": ((IMAGES, np.array(["cat", "dog"])[LABELS]), "are texts"),
    "shares": ((IMAGES, np.full((4, 2), 0.5)), "are shares of classes: give one class"),
    "unequal": ((IMAGES, LABELS[:3]), "4 evaluation images and 3 labels"),
    "another size": ((IMAGES[:, :8], LABELS), "images are 8x16x3, the network takes 16x16x3"),
    "gray": ((IMAGES[..., 0], LABELS), "gray ones too have a last axis"),
    "no labels": (IMAGES, "images came without labels"),
    "three parts": ((IMAGES, LABELS, LABELS), "3 parts: give pairs"),
    "a late label": ([(IMAGES, LABELS), (IMAGES, LABELS + 5)], "is 5, the head has 2 classes"),
    "no image": ((IMAGES[:0], LABELS[:0]), "there are no evaluation images"),
    "no batch": ([], "there are no images to evaluate on"),
    "no batch of a data set": (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4).take(0), "no images"),
    "an empty folder": ("empty", "empty: no images found"),
    "no folder": ("gone", "gone: no such file or folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_evaluated_is_told(net, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    data, sentence = WRONG[case]
    with pytest.raises(BadData, match=sentence):
        kc.evaluate(net, data)


def test_networks_that_cannot_be_evaluated_are_told(tmp_path):
    with pytest.raises(BadSpec, match="ends in features, not in a classifier"):
        kc.evaluate(make(0), (IMAGES, LABELS))
    with pytest.raises(UnknownOption, match="evaluate has no option 'batchsize': did you mean 'batch_size'"):
        kc.evaluate(make(), (IMAGES, LABELS), batchsize=3)
    small = kc.load_data(folder(tmp_path, {"cat": 2, "dog": 2}), kc.Preprocess(size=(8, 8)))
    with pytest.raises(BadData, match="images are 8x8x3, the network takes 16x16x3"):
        kc.evaluate(make(), small)


def test_any_keras_model_is_evaluated_on_arrays():
    layers = keras.layers
    model = keras.Sequential([keras.Input(SIZE), layers.Flatten(), layers.Dense(2), layers.Softmax()])
    result = kc.evaluate(model, (IMAGES / 255, LABELS))
    np.testing.assert_allclose(result.probabilities, model.predict(IMAGES / 255, verbose=0), atol=1e-6)
    assert [row["class"] for row in result.by_class()] == ["0", "1"]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (keras.applications.resnet50.preprocess_input, r"pixels go from -1\d\d.* to 1\d\d.*leave out preprocess_input"),
        (lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"), "pixels go from -2.* to 2"),
        (lambda x: x * 16, "pixels go from 0 to 4080.*divide those of more than 8 bits"),
        (lambda x: x, None),
        (lambda x: x - 30, None),  # a cubic resize
    ],
    ids=["caffe", "torch", "12 bits", "raw", "resized"],
)
def test_pixels_of_another_scale_are_told(net, made, told):
    """Such images get an answer like any others, and it means nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, *SIZE)).astype("float32")
    pixels.reshape(-1)[:2] = 0, 255
    pixels = made(pixels)
    learner, labels = kc.build("resnet20", classes=2, input_shape=SIZE), np.arange(4) % 2
    for call in (
        lambda: kc.predictor(net)(pixels),
        lambda: kc.evaluate(net, (pixels, labels)),
        lambda: kc.fine_tune(learner, pixels, labels, head_epochs=1, epochs=0, verbose=0, probe=False),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        said = [str(one.message) for one in caught if one.category is PixelWarning]
        assert len(said) == (told is not None) and all(re.search(told or "", one) for one in said)


def test_pixels_that_are_no_numbers_are_refused(net):
    """A ReLU makes zeros of them, and the answer looks like any other."""
    pixels = np.full((2, *SIZE), 9, "float32")
    pixels[1, 0, 0, 0] = np.nan
    for call in (lambda: kc.predictor(net)(pixels), lambda: kc.evaluate(net, (pixels, np.arange(2)))):
        with pytest.raises(BadData, match="a pixel is no number: mend the images"):
            call()


def test_faint_pixels_are_warned_of_where_the_user_calls(net):
    for call in (lambda: kc.evaluate(net, (IMAGES / 255, LABELS)), lambda: kc.predictor(net)(IMAGES / 255)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        (warning,) = [one for one in caught if one.category is PixelWarning]
        assert warning.filename == __file__


# --- predictor -------------------------------------------------------------------------------------------------------


def test_every_form_of_images_is_answered_in_order(net, pets, held_out, tmp_path):
    names, images, _ = held_out
    expected = net.predict(images, verbose=0)
    predict = kc.predictor(net, batch_size=2)
    archive = zipped(pets / "val", tmp_path / "val.zip")
    for given in (pets / "val", archive, names, images, [*images], [names[:2], images[2:]], tf.constant(images)):
        answers = predict(given)
        assert len(answers) == 5
        for answer, row in zip(answers, expected, strict=True):
            assert answer.label == ("cat", "dog")[row.argmax()]
            assert [guess.probability for guess in answer.top] == pytest.approx(sorted(row, reverse=True), abs=1e-5)
            assert answer[1:3] == answer.top[0][:2] and answer.error is None
        np.testing.assert_allclose(predict.scores(given), expected, atol=1e-5)
    assert [answer.name for answer in predict(pets / "val")] == names
    assert [a.name for a in predict([names[0], images[:2], images[0]])] == [
        names[0],
        "images[1][0]",
        "images[1][1]",
        "images[2]",
    ]
    assert predict([]) == [] and predict.scores([]).shape == (0, 2)
    assert len(predict(names[0], top=1)[0].top) == 1 and len(predict(images[0])) == 1


def test_a_predictor_is_made_of_a_directory_and_tells_what_classes_mean(net, tmp_path):
    facts = {"class_descriptions": {"cat": "Felis catus"}}
    out = kc.save_pretrained(net, tmp_path / "run", provenance=facts)
    (answer,) = kc.predictor(out)(IMAGES[0])
    described = {guess.label: guess.description for guess in answer.top}
    assert described == {"cat": "Felis catus", "dog": "dog"}
    assert {guess.label for guess in kc.predictor(make(3))(IMAGES[0])[0].top} == {"class 0", "class 1", "class 2"}


def test_a_bad_file_is_told_or_answered_with_why(net, tmp_path):
    root = folder(tmp_path / "pets", {".": 3})
    (root / "001.png").write_bytes(b"this is a letter")
    predict = kc.predictor(net)
    with pytest.raises(BadImage, match=r"001[.]png: this is not an image"):
        predict(root)
    first, bad, last = predict(root, skip_bad=True)
    assert first.label and last.label and "001.png: this is not an image" in bad.error
    assert bad[1:4] == (None, None, ()) and bad.name == str(root / "001.png")


def test_answers_stream_in_batches(net, tmp_path, monkeypatch):
    """The first answer comes before a later file, which is bad, is met."""
    root = folder(tmp_path, {".": 12})
    (root / "011.png").write_bytes(b"x")
    stream = kc.predictor(net, batch_size=2).stream(root)
    assert [next(stream).name for _ in range(2)] == [str(root / "000.png"), str(root / "001.png")]
    with pytest.raises(BadImage, match=r"011[.]png"):
        list(stream)


def test_iterators_are_read_as_answers_are_asked_for(net, pets, held_out):
    """Of a source without end, three batches of files and one of arrays at most are read before their answers."""
    names, images, _ = held_out
    read = []

    def endless(some):
        for item in itertools.cycle(some):
            read.append(item)
            yield item

    right = [answer.label for answer in kc.predictor(net)(images)]
    for some, batch_size, ahead in ((names, 2, 6), (images, 2, 2), (images, 1, 1)):
        read.clear()
        stream = kc.predictor(net, batch_size=batch_size).stream(endless(some))
        assert not read
        for i in range(20):
            assert next(stream).label == right[i % 5]
            assert len(read) <= i + ahead
    mixed = (one for one in (names[0], images[1:3], (Path(name) for name in names[3:])))
    answers = kc.predictor(net)(mixed)
    assert [answer.label for answer in answers] == right
    assert [answer.name for answer in answers][:3] == [names[0], "images[1][0]", "images[1][1]"]
    assert [a.name for a in kc.predictor(net)(sorted((pets / "val").rglob("*.png")).__iter__())] == names
    assert kc.predictor(net)(iter(())) == []


def test_an_error_of_an_iterator_is_its_own(net):
    def broken():
        yield IMAGES[0]
        raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="the camera is gone"):
        kc.predictor(net)(broken())


def test_addresses_of_local_files_are_their_paths(net, tmp_path):
    photo = tmp_path / "a café #1?.png"
    photo.write_bytes(encode(noise(20, 20)))
    predict = kc.predictor(net)
    [wanted] = predict(photo)
    for address in (photo.as_uri(), photo.as_uri().replace("://", "://localhost"), tmp_path.as_uri()):
        assert predict(address) == [wanted]
    for address in ("https://example.org/cat.png", "file://server/share/cat.png"):
        with pytest.raises(BadData, match=f"{address} is on another machine: download it"):
            predict(address)


def test_later_training_does_not_reach_a_predictor(held_out):
    _, images, _ = held_out
    model = make()
    predict = kc.predictor(model)
    before = predict.scores(images)
    model.set_weights([np.zeros_like(v) for v in model.get_weights()])
    np.testing.assert_array_equal(predict.scores(images), before)


def test_a_network_of_any_size_answers_images_of_several(tmp_path):
    model = make(input_shape=(None, None, 3))
    large = noise(24, 20)
    answers = kc.predictor(model)([IMAGES[0], large, IMAGES[1]])
    for answer, image in zip(answers, (IMAGES[0], large, IMAGES[1]), strict=True):
        assert answer.probability == pytest.approx(float(np.max(model(image[None]))), abs=1e-5)


def test_what_cannot_be_answered_is_told(net, tmp_path):
    predict = kc.predictor(net)
    with pytest.raises(BadSpec, match="has no classifier: it gives features, not classes"):
        kc.predictor(make(0))
    with pytest.raises(BadSpec, match=r"was not made by keras_cnn[.]build"):
        kc.predictor(keras.Sequential([keras.Input(SIZE), keras.layers.Flatten()]))
    with pytest.raises(BadData, match="the given images are 8x16x3, the network takes 16x16x3"):
        predict(IMAGES[0, :8])
    with pytest.raises(BadData, match="gray ones too have a last axis"):
        predict(IMAGES[0, ..., 0])
    with pytest.raises(BadData, match=r"images\[1\]: give a path, an array, or a list or iterator of these, not int"):
        predict([IMAGES[0], 3])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="empty: no images found"):
        predict(tmp_path / "empty")
    with pytest.raises(BadImage, match=r"gone[.]png: the file cannot be read"):
        predict(tmp_path / "gone.png")
    for call in (lambda: predict(IMAGES, top=0), lambda: kc.predictor(net, batch_size=0)):
        with pytest.raises(BadSpec, match="give 1 or more"):
            call()
    with pytest.raises(UnknownOption, match="predictor has no option 'top'"):
        kc.predictor(net, top=3)


def test_deep_gray_images_are_seen_through_the_window_of_the_weights(tmp_path):
    from PIL import Image

    pre = kc.Preprocess(mean=(0.5,), std=(0.25,), size=(16, 16), crop=1.0, window=(0, 4095))
    model = make(input_shape=(16, 16, 1), preprocess=pre)
    pixels = np.random.default_rng(0).integers(0, 4096, (16, 16)).astype("uint16")
    (tmp_path / "x.png").write_bytes(encode(Image.fromarray(pixels)))
    eight = np.rint(pixels / 4095 * 255).astype("uint8")[..., None]
    predict = kc.predictor(model)
    assert predict(tmp_path / "x.png")[0].probability == pytest.approx(predict(eight)[0].probability, abs=1e-6)


def test_real_photographs(shared, tmp_path):
    """Flowers, of weights that know nothing of them: all forms agree on every one."""
    with zipfile.ZipFile(shared / "data" / "flowers.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::400]
        blobs = [archive.read(name) for name in names]
    for i, blob in enumerate(blobs):
        (tmp_path / f"{i:02}.jpg").write_bytes(blob)
    predict = kc.predictor("resnet18.tiny_in200", batch_size=4)
    model = kc.build("resnet18.tiny_in200")
    images = np.stack([kc.load_image(io.BytesIO(blob), model) for blob in blobs])
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(predict.scores(tmp_path), expected, atol=1e-4)
    for answer, row in zip(predict(tmp_path), expected, strict=True):
        assert answer.label == kc.config_of(model).class_names[row.argmax()] and len(answer.top) == 5


def test_a_name_without_weights_is_told():
    with pytest.warns(WeightsWarning, match="resnet20 has random weights, so that its answers mean nothing"):
        kc.predictor("resnet20")
    with pytest.warns(WeightsWarning, match="resnet20 has random weights"):
        kc.evaluate("resnet20", (np.zeros((2, 32, 32, 3), "uint8"), np.arange(2)))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory")])
def test_smaller_batches_are_tried_where_memory_does_not_hold_one(error):
    """Three images at once are too many; answers and their order are those of a machine with room for all."""
    tried = []

    def answer(images):
        tried.append(len(images))
        if len(images) > 2:
            raise error
        return images.mean((1, 2))

    images = [(str(i), np.full((2, 2, 1), i, "uint8")) for i in range(11)]
    with pytest.warns(MemoryWarning, match="batches of 2 are tried"):
        found = [*outputs_of(SimpleNamespace(predict_on_batch=answer), images, 5)]
    assert [(name, row[0]) for name, _, row in found] == [(str(i), i) for i in range(11)]
    assert tried == [5, 2, 2, 1, 2, 2, 1, 1]  # once too many, never again

    def full(images):
        raise error

    with pytest.raises(type(error)), pytest.warns(MemoryWarning):
        [*outputs_of(SimpleNamespace(predict_on_batch=full), images, 4)]
