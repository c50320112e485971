"""8 bits by the runtimes' own tools: used like any network, their cost told, and not left where it is too high."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.deploy import formats, quantizing
from keras_cnn.deploy.engines import for_prediction
from keras_cnn.deploy.opened import opened
from keras_cnn.deploy.sensitivity import sensitivities
from keras_cnn.errors import BadData, BadImage, BadSpec, CannotWrite, CorruptFile, KerasCnnError, MissingPackage

CLASSES = ("blue", "green", "red")
SUFFIXES = {"openvino": ".xml", "onnx": ".onnx", "litert": ".tflite"}
SMALL = {"depths": (1, 1, 1), "input_shape": (16, 16, 3)}


def needs(name: str) -> None:
    kind = formats.FORMATS[name]
    modules = (*quantizing.TOOLS[name].modules, kind.missing(writing=True))
    if missing := next((m for m in modules if m and importlib.util.find_spec(m) is None), None):
        pytest.skip(f"{missing} is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise with a colour in it: 24 images to calibrate with, 18 to measure on."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in {"train": 8, "val": 6}.items():
        for c, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (16, 16, 3))
                pixels[..., 2 - c] += 90
                Image.fromarray(pixels.astype("uint8")).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def net(photos):
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", classes=CLASSES, **SMALL)
    data = kc.load_data(photos, model, batch_size=8)
    kc.fine_tune(model, data, head_epochs=0, epochs=6, learning_rate=0.01, verbose=0)
    assert kc.evaluate(model, data).metrics["accuracy"] == 1
    return model


@pytest.fixture(scope="module")
def file(net, photos, tmp_path_factory):
    """An OpenVINO file, or of what there is."""
    there = [name for name in SUFFIXES if not formats.FORMATS[name].missing(writing=True)]
    name = "onnx" if "onnx" in there else "litert"
    return kc.quantize(net, photos, tmp_path_factory.mktemp("file") / f"net{SUFFIXES[name]}").path


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize("precision", ["int8", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_file_of_few_bits_answers_nearly_the_same(net, photos, tmp_path, name, precision):
    needs(name)
    made = kc.quantize(net, photos, tmp_path / f"net{SUFFIXES[name]}", precision=precision)
    assert (made.format, made.precision, made.calibration, len(made.after)) == (name, precision, 24, 18)
    assert made.before.metrics["accuracy"] == 1 and abs(made.lost) <= 1
    whole = kc.export(net, tmp_path / f"whole{SUFFIXES[name]}")
    share = made.size / whole.size
    assert share < 0.8, share
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3)).astype("uint8")
    wanted, found = net.predict(images, verbose=0), formats.run(made.path, name)(images)
    assert 0 < np.abs(found - wanted).max() < (0.15 if precision == "int8" else 0.01)
    about = json.loads(made.about.read_text())
    assert about["quantized"]["precision"] == precision and about["quantized"]["lost"] == made.lost
    assert {f.name for f in tmp_path.iterdir() if f.stem != "whole"} >= {made.path.name, made.about.name}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Noise, brighter in a square of which each mask and each row of a table tells: 24 to fit, 12 to measure on."""
    place, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    rows = ["image,split,bright"]
    for split, count in {"train": 24, "val": 12}.items():
        for kind in ("images", "masks"):
            (place / split / kind).mkdir(parents=True)
        for i in range(count):
            mask, (top, left, side) = np.zeros((16, 16), "uint8"), rng.integers((0, 0, 4), (8, 8, 9))
            mask[top : top + side, left : left + side] = 1
            pixels = (rng.integers(0, 90, (16, 16, 3)) + 150 * mask[..., None]).astype("uint8")
            Image.fromarray(pixels).save(place / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(place / split / "masks" / f"{i}.png")
            rows.append(f"{split}/images/{i}.png,{split},{100 * mask.mean()}")
    (place / "classes.txt").write_text("dark\nbright\n")
    (place / "table.csv").write_text("\n".join(rows))
    return place


@pytest.fixture(scope="module", params=["miou", "r2"])
def other(request, scenes):
    """(the task's figure, a network that has learnt it, what from): one that answers every pixel, one of numbers."""
    keras.utils.set_random_seed(0)
    pixels = request.param == "miou"
    head = {"head": kc.UNet(classes=("dark", "bright"), decoder=(16, 8))} if pixels else {"targets": ["bright"]}
    model, source = kc.build("resnet20", **SMALL, **head), scenes if pixels else scenes / "table.csv"
    data = kc.load_data(source, model, batch_size=8)
    kc.fine_tune(model, data, head_epochs=0, epochs=8 if pixels else 20, learning_rate=0.01, verbose=0)
    assert kc.evaluate(model, data).metrics[request.param] > 0.7
    return request.param, model, source


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "litert" else ()) for n in SUFFIXES])
def test_masks_and_numbers_are_measured_by_their_own_figure(other, tmp_path, name):
    needs(name)
    figure, model, source = other
    # Measured: numbers lose less than a point, and 18 where maps are cut off at the mean of what images reach.
    made = kc.quantize(model, source, tmp_path / f"net{SUFFIXES[name]}", sensitivity=True, most=5)
    assert (made.figure, made.calibration, len(made.after)) == (figure, 24, 12)
    assert made.lost == pytest.approx(100 * (made.before.metrics[figure] - made.after.metrics[figure]))
    assert made.before.metrics[figure] == pytest.approx(kc.evaluate(model, source).metrics[figure], abs=1e-4)
    assert 0 < made.layers[-1].error < made.layers[0].error
    assert kc.evaluate(made.path, source).metrics[figure] == pytest.approx(made.after.metrics[figure])


@pytest.mark.slow
@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize("network, size", [("efficientnet_b0", 64), ("inception_v3", 96), ("resnetv2_18", 64)])
def test_every_family_is_quantized(photos, tmp_path, name, network, size):
    """Depthwise maps, swish, concatenations, pools behind padding that no ReLU is before."""
    needs(name)
    model = kc.build(network, classes=CLASSES, input_shape=(size, size, 3))
    path = tmp_path / f"net{SUFFIXES[name]}"
    if (network, name) == ("resnetv2_18", "litert"):
        with pytest.raises(BadSpec, match="stage1_pad, which pads with minus infinity"):
            kc.quantize(model, photos, path, most=None)
    else:
        assert kc.quantize(model, photos, path, most=None).path == path


def test_an_exported_file_is_used_like_a_network(net, photos, file):
    answers = kc.predictor(file)(photos / "val")
    assert [answer.label for answer in answers] == [name for name in CLASSES for _ in range(6)]
    assert kc.evaluate(file, photos).metrics["accuracy"] == 1
    images = np.zeros((3, 16, 16, 3), "uint8")
    assert len(kc.evaluate(file, (images, np.arange(3)))) == 3
    rows = kc.benchmark(str(file), engine="keras", batches=(1,), seconds=0.05)
    kinds = {(row.engine, row.precision) for row in rows}
    assert kinds == {("model.predict", "float32"), ("keras", "float32"), (opened(file).format, "int8 file")}
    with pytest.raises(BadSpec, match=r"is run by .*, not by tensorflow"):
        kc.predictor(file, engine="tensorflow")


def test_an_exported_file_is_served(photos, file):
    pytest.importorskip("fastapi")
    client = pytest.importorskip("fastapi.testclient")
    photo = (photos / "val" / "red" / "0.png").read_bytes()
    with client.TestClient(kc.service(file)) as service:
        assert service.post(f"/predict/{file.name}", content=photo).json()["top"][0]["class"] == "red"
        refused = service.post(f"/explain/{file.name}", content=photo)
        assert refused.status_code == 400 and "does not tell why" in refused.json()["error"]


@pytest.mark.parametrize("name", ["savedmodel", "litert"])
def test_exported_folders_and_files_are_opened_whole_or_not_at_all(net, tmp_path, name):
    made = kc.export(net, tmp_path / ("net.tflite" if name == "litert" else "net"))
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    np.testing.assert_allclose(kc.predictor(made.path).scores(images), net.predict(images, verbose=0), atol=1e-5)
    inside = made.path / "saved_model.pb" if name == "savedmodel" else made.path
    content = inside.read_bytes()
    inside.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"is not what net.*json was written for: export it again"):
        kc.predictor(made.path)
    inside.write_bytes(content)
    about = made.about.read_text()
    for text in ("{", "[]", about.replace('"format"', '"form"'), about.replace(inside.name, "../other")):
        made.about.write_text(text)
        with pytest.raises(CorruptFile):
            kc.predictor(made.path)
    made.about.unlink()
    with pytest.raises(BadSpec, match="json is not there"):
        kc.predictor(made.path)
    if name == "litert":
        with pytest.raises(KerasCnnError, match="is an exported network: predict, evaluate, benchmark and serve"):
            kc.build(made.path)
    with pytest.raises(BadSpec, match=r"other\.onnx is not there"):
        kc.evaluate(tmp_path / "other.onnx", (images, np.arange(2)))


def test_a_file_of_a_model_of_another_make_answers_nothing(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    kc.export(model, tmp_path / "net.tflite")
    with pytest.raises(BadSpec, match=r"was not made by keras_cnn.build"):
        kc.predictor(tmp_path / "net.tflite")


def damaged(order):
    """A tool that writes a network with an error in it."""
    honest = quantizing.TOOLS["litert"]

    def write(source, out, images, precision, exact):
        import tensorflow as tf

        loaded = tf.saved_model.load(str(source))

        @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32)])
        def wrong(x):
            return tf.gather(loaded.serve(x), order, axis=-1)

        converter = tf.lite.TFLiteConverter.from_concrete_functions([wrong.get_concrete_function()], loaded)
        out.write_bytes(converter.convert())

    return {**quantizing.TOOLS, "litert": quantizing.Tool(write, honest.source)}


def test_what_loses_too_much_is_not_written(net, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizing, "TOOLS", damaged([2, 0, 1]))
    path = tmp_path / "net.tflite"
    told = r"would lose 100.00 points of accuracy \(1.0000 to 0.0000 on 18 images\), where most=1 .*: most by .*stage"
    with pytest.raises(BadSpec, match=told):
        kc.quantize(net, photos, path, sensitivity=True)
    assert not list(tmp_path.iterdir())
    assert kc.quantize(net, photos, path, most=None).lost == pytest.approx(100)


def test_where_less_is_better_loss_is_percent():
    class Of:
        mode, figure = "min", staticmethod(lambda x: x)

    assert quantizing._lost(Of, 2.0, 2.1) == pytest.approx(5)


def test_calibration_images_are_even_and_not_measured(net, photos, tmp_path):
    labels = np.array([0] * 90 + [1] * 6 + [2] * 4)
    chosen = quantizing.evenly(labels, 12)
    assert len({*chosen}) == 12 and Counter(labels[chosen]) == {0: 4, 1: 4, 2: 4}
    assert Counter(labels[quantizing.evenly(labels, 30)]) == {0: 20, 1: 6, 2: 4}
    made = kc.quantize(net, photos / "val", tmp_path / "net.tflite", images=300)  # no splits in it
    assert (made.calibration, len(made.after)) == (9, 9)


def test_a_corrupt_photo_is_named_or_left_out(net, photos, tmp_path):
    import shutil

    data = shutil.copytree(photos, tmp_path / "photos")
    for split in ("train", "val"):
        (data / split / "red" / "1.png").write_bytes(b"no photo")
    with pytest.raises(BadImage, match=r"train/red/1.png"):
        kc.quantize(net, data, tmp_path / "net.tflite")
    made = kc.quantize(net, data, tmp_path / "net.tflite", skip_bad=True)
    assert (made.calibration, len(made.after), len(made.after.skipped)) == (23, 17, 1)


@pytest.mark.parametrize(
    ("path", "told", "error", "sentence"),
    [
        ("net", {}, BadSpec, "savedmodel has no 8 bits: give a file that ends in .xml, .onnx or .tflite"),
        ("net.tflite", {"precision": "int4"}, BadSpec, "precision='int4': choose one of 'int8', 'float16'"),
        ("net.tflite", {"images": 0}, BadSpec, "images=0"),
        ("net.tflite", {"split": "test"}, BadData, "the data has no split 'test'; it has train, val"),
    ],
)
def test_bad_input_is_one_sentence(net, photos, tmp_path, path, told, error, sentence):
    with pytest.raises(error, match=sentence):
        kc.quantize(net, photos, tmp_path / path, **told)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized_says_why(net, photos, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="no images found"):
        kc.quantize(net, tmp_path / "empty", tmp_path / "net.tflite")
    with pytest.raises(BadSpec, match="reads sequences"):
        kc.quantize(kc.build("tcn", input_shape=(16, 2), classes=3), photos, tmp_path / "net.tflite")
    with pytest.raises(BadSpec, match="carries no record"):
        kc.quantize(keras.Sequential([keras.Input((8, 8, 3))]), photos, tmp_path / "net.tflite")
    (tmp_path / "net.tflite").touch()
    with pytest.raises(CannotWrite, match="already there"):
        kc.quantize(net, photos, tmp_path / "net.tflite")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else there(name))
    if not formats.FORMATS["openvino"].missing():
        with pytest.raises(MissingPackage, match=r'needs nncf .*: pip install "keras-cnn\[quantize\]"'):
            kc.quantize(net, photos, tmp_path / "net.xml")


def test_the_layer_that_8_bits_hurt_is_the_most_sensitive(net):
    """One filter's kernel has a weight that is far larger than the others, so that these are rounded away."""
    network = for_prediction(net)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    before = sensitivities(network, images, tasks.of(net))
    assert {row.layer for row in before} == {layer.name for layer in network.layers if hasattr(layer, "kernel")}
    assert all(0 < row.error < 0.2 for row in before)
    assert [row.error for row in before] == sorted((row.error for row in before), reverse=True)
    hurt = network.get_layer("stage2_block1_conv2")
    kernel = np.array(hurt.kernel)
    kernel[0, 0, 0] = 60.0 * np.abs(kernel).max()  # of an input that is mostly zero
    hurt.kernel.assign(kernel)
    after = {row.layer: row for row in sensitivities(network, images, tasks.of(net))}
    assert after[hurt.name].error > 3 * next(row.error for row in before if row.layer == hurt.name)
    np.testing.assert_array_equal(np.array(hurt.kernel), kernel)  # the network is left as it was


@pytest.mark.parametrize("task, decides", [("binary", True), ("multilabel", True), ("regression", False)])
def test_what_rounding_changes_is_what_the_task_decides(task, decides):
    """One output too decides between two classes; numbers decide nothing."""
    keras.utils.set_random_seed(0)
    net = kc.build("resnet20", **SMALL, classes=2, task=task)
    network = for_prediction(net)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype("uint8")
    bias = network.get_layer("head_logits").bias
    logits = network.predict(images, verbose=0)
    if decides:  # the first image is brought to the very edge
        chances = np.clip(logits[0], 1e-6, 1 - 1e-6)
        bias.assign(np.asarray(bias) - np.log(chances / (1 - chances)))
    rows = sensitivities(network, images, tasks.of(net))
    assert all((row.changed is not None) == decides for row in rows)
    assert not decides or any(row.changed for row in rows)


def test_the_command_line_quantizes_and_uses_the_file(net, photos, run, tmp_path):
    kc.save_pretrained(net, tmp_path / "net")
    out = tmp_path / "net.tflite"
    told = ("--model", tmp_path / "net", "--out", out, "--sensitivity")
    code, printed, err = run("quantize", photos, *told, "--json")
    facts = json.loads(printed)
    assert code == 0 and facts["calibration"] == 24 and facts["after"]["accuracy"] == 1, err
    assert {"layer", "error", "changed"} <= facts["layers"][0].keys()
    code, printed, _ = run("quantize", photos, *told, "--overwrite")
    assert code == 0 and "lost of accuracy" in printed and "stem_conv" in printed
    code, printed, err = run("evaluate", photos, "--model", out, "--json")
    assert code == 0 and json.loads(printed)["accuracy"] == 1, err
    code, printed, err = run("predict", photos / "val", "--model", out, "--json")
    assert code == 0 and len(json.loads(printed)) == 18, err
    code, _, err = run("predict", photos / "val", "--model", out, "--size", 64)
    assert code == 2 and "leave out --weights and --size" in err
    code, printed, err = run("evaluate", photos, "--model", tmp_path / "net", "--engine", "tensorflow", "--json")
    assert code == 0 and json.loads(printed)["accuracy"] == 1, err
    code, _, err = run("quantize", photos, *told)
    assert code == 2 and "already there" in err
