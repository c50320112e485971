"""Other runtimes: what they are given is whole, answers as the network does, and is refused where it does not."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from images import folder
from PIL import Image

import keras_cnn as kc
from keras_cnn import runtime
from keras_cnn.deploy import engines, formats, rivals
from keras_cnn.errors import BadSpec, CannotWrite, CorruptFile, MissingPackage

RNG = np.random.default_rng(0)
PATHS = {"onnx": "net.onnx", "openvino": "net.xml", "litert": "net.tflite", "savedmodel": "net"}


def small(**told):
    """Weights such that probabilities are neither 0 nor 1, which no error would change."""
    model = kc.build("resnet20", depths=(1, 1, 1), **{"classes": ["cat", "dog", "emu"], **told})
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(RNG.uniform(0.2, 0.6, layer.gamma.shape))
            layer.moving_mean.assign(RNG.normal(0, 0.1, layer.gamma.shape))
    return model


def needs(name: str) -> None:
    kind = formats.FORMATS.get(name)
    if kind and (missing := kind.missing(writing=True)):
        pytest.skip(f"{missing} is not installed")


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    return small()


@pytest.fixture(scope="module")
def photos():
    return RNG.integers(0, 256, (5, 32, 32, 3)).astype("uint8")


@pytest.mark.parametrize("name", PATHS)
def test_a_file_answers_as_the_network_does(net, photos, tmp_path, name):
    needs(name)
    made = kc.export(net, tmp_path / PATHS[name])
    wanted = net.predict(photos, verbose=0)
    assert wanted.min() > 0.01 and wanted.max() < 0.99
    assert (made.format, made.difference <= 1e-4) == (name, True)
    run = formats.run(made.path, name)
    for batch in (photos, photos[:1], photos):  # the batch is free
        np.testing.assert_allclose(run(batch), wanted[: len(batch)], atol=1e-5)
    about = json.loads(made.about.read_text())
    assert about["network"]["class_names"] == ["cat", "dog", "emu"]
    assert about["input"]["shape"] == [None, 32, 32, 3] and about["output"]["shape"] == [None, 3]
    there = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert there == {*about["sha256"], made.about.name}
    with pytest.raises(CannotWrite, match="already there"):
        kc.export(net, made.path)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for answer in pool.map(run, [photos] * 8):
            np.testing.assert_allclose(answer, wanted, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_a_file_of_a_fixed_batch_answers_any_number(net, photos, tmp_path, name):
    needs(name)
    made = kc.export(net, tmp_path / PATHS[name], batch=3)
    wanted = net.predict(photos, verbose=0)
    about = json.loads(made.about.read_text())
    assert about["input"]["shape"] == [3, 32, 32, 3] and about["output"]["shape"] == [3, 3]
    alone = formats.run(made.path, name)
    np.testing.assert_allclose(alone(photos[:3]), wanted[:3], atol=1e-5)
    if name != "litert":  # whose runtime gives any file another size
        with pytest.raises(Exception, match="3"):
            alone(photos[:2])
    for some in (photos, photos[:3], photos[:1]):
        np.testing.assert_allclose(kc.predictor(made.path).scores(some), wanted[: len(some)], atol=1e-5)
    for wrong in (0, "3"):
        made.about.write_text(json.dumps({**about, "input": {**about["input"], "shape": [wrong, 32, 32, 3]}}))
        with pytest.raises(CorruptFile, match="a batch of"):
            kc.predictor(made.path)


def test_a_target_that_cannot_be_written_to_is_one_sentence(net, tmp_path):
    """Also for root, whom rights do not stop: a file where a folder has to be."""
    (tmp_path / "file").write_text("mine")
    labelled = folder(tmp_path / "photos", {"cat": 2, "dog": 2})
    sentence = r"file/?\S* cannot be written to \(\S*file: it is no folder\): name another directory"
    for write in (
        lambda: kc.export(net, tmp_path / "file" / "net.tflite"),
        lambda: kc.export(net, tmp_path / "file" / "below" / "net.tflite"),
        lambda: kc.quantize(net, labelled, tmp_path / "file" / "net.tflite"),
        lambda: kc.pack(labelled, tmp_path / "file"),
        lambda: kc.pack(labelled, tmp_path / "file" / "packed"),
        lambda: kc.save_pretrained(net, tmp_path / "file"),
    ):
        with pytest.raises(CannotWrite, match=sentence):
            write()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_server_of_tensorflow_finds_one_input_and_one_output(net, photos, tmp_path):
    """What TensorFlow Serving asks of a SavedModel: a tag, and a signature of one input, which none need name."""
    tf = pytest.importorskip("tensorflow")
    kc.export(net, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"), tags=["serve"])
    signature = loaded.signatures["serving_default"]
    [given] = signature.structured_input_signature[1].values()
    assert given.shape.as_list() == [None, 32, 32, 3] and given.dtype == tf.float32
    [answer] = signature(**{given.name: tf.constant(photos.tolist(), tf.float32)}).values()  # as JSON brings them
    np.testing.assert_allclose(answer, net.predict(photos, verbose=0), atol=1e-5)


@pytest.mark.parametrize("name", engines.ENGINES)
def test_every_engine_gives_the_same_answers(net, photos, name):
    needs(name)
    ours, theirs = kc.predictor(net)(photos), kc.predictor(net, engine=name, batch_size=2)(photos)
    assert [answer.label for answer in theirs] == [answer.label for answer in ours]
    np.testing.assert_allclose([a.probability for a in theirs], [a.probability for a in ours], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: kc.build("resnet20_unet", classes=3),
        lambda: kc.build("tcn", input_shape=(16, 2), classes=3),
        lambda: kc.build("tcn", input_shape=(None, 2), classes=3),
        lambda: kc.build("efficientnet_b0", input_shape=(64, 64, 3)),
        lambda: kc.build("inception_v3", input_shape=(139, 139, 3), aux=True),
        lambda: kc.build("resnet20", norm="group:8"),
        lambda: keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=5),
    ],
    ids=["unet", "tcn", "tcn of any length", "efficientnet", "auxiliary", "group norm", "keras.applications"],
)
def test_every_kind_of_network_is_exported(tmp_path, name, make):
    needs(name)
    assert kc.export(make(), tmp_path / PATHS[name]).difference <= 1e-4


def test_swish_keeps_no_maps_from_being_fused(tmp_path):
    """OpenVINO would transpose them before and behind each one, which takes three times as long in all."""
    needs("openvino")
    import openvino

    net = kc.build("efficientnet_b0", input_shape=(32, 32, 3), classes=3)
    made = kc.export(net, tmp_path / "net.xml")
    kinds = [one.get_type_name() for one in openvino.Core().read_model(str(made.path)).get_ops()]
    assert kinds.count("Swish") > 9 and kinds.count("Transpose") <= 1


def test_the_fastest_engine_is_measured_once(net, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CNN_CACHE", str(tmp_path))
    pause = {"keras": 0.02, "tensorflow": 0.001, "litert": 0.05}
    monkeypatch.setattr(engines, "installed", lambda: list(pause))
    asked = []

    def runner(name, network, *told):
        asked.append(name)
        return lambda images: time.sleep(pause[name]) or np.zeros((len(images), 3), "float32")

    monkeypatch.setattr(engines, "runner", runner)
    monkeypatch.setattr(engines, "SECONDS", 0.01)
    assert engines.running(net, "auto").engine == "tensorflow" and asked == [*pause, "tensorflow"]
    assert engines.running(net, "auto").engine == "tensorflow" and asked[4:] == ["tensorflow"]
    assert engines.running(net, "auto", batch=1).engine == "tensorflow" and len(asked) == 9  # another size, anew
    (tmp_path / engines.CHOICES).write_text("{")  # damaged
    assert engines.running(net, "auto").engine == "tensorflow" and len(asked) == 13
    assert json.loads((tmp_path / engines.CHOICES).read_text())


def test_bfloat16_is_near_and_only_where_it_is_asked_for(net, photos):
    needs("openvino")
    exact, coarse = (engines.running(net, "openvino", p).predict_on_batch(photos) for p in formats.PRECISIONS)
    np.testing.assert_allclose(coarse, exact, atol=0.02)
    with pytest.raises(BadSpec, match="keras computes in float32; openvino in bfloat16 too"):
        kc.predictor(net, precision="bfloat16")


def test_a_file_that_answers_otherwise_is_not_left(net, tmp_path, monkeypatch):
    """A runtime with an error in it."""
    honest = formats.run

    def faulty(*told, **more):
        run = honest(*told, **more)
        return lambda images: run(images) + 0.001

    monkeypatch.setattr(formats, "run", faulty)
    with pytest.raises(BadSpec, match="savedmodel answers otherwise than resnet20"):
        kc.export(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_what_a_runtime_lacks_is_one_sentence(tmp_path):
    with pytest.raises(BadSpec, match=r"litert cannot run .*Select TensorFlow op"):
        kc.export(kc.build("resnet20_unet", classes=2, input_shape=(None, None, 3)), tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


class Odd(keras.layers.Layer):
    """What no runtime but TensorFlow has."""

    def call(self, x):
        return keras.ops.erfinv(keras.ops.tanh(x) / 2)


@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_the_layer_that_an_engine_lacks_is_named(tmp_path, name):
    needs(name)
    images = keras.Input((8, 8, 3))
    odd = Odd(name="odd_one")(keras.layers.Conv2D(2, 3)(images))
    strange = keras.Model(images, keras.layers.GlobalAveragePooling2D()(odd), name="strange")
    sentence = rf"{name} cannot run strange: its layer odd_one \(Odd\) needs Erfinv, which {name} has not[.] "
    with pytest.raises(BadSpec, match=sentence + "Nothing was written; try another format"):
        kc.export(strange, tmp_path / PATHS[name])
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadSpec, match=sentence + "Try another engine"):
        engines.running(strange, name)


@pytest.mark.parametrize("name", engines.ENGINES)
def test_threads_share_a_predictor_from_its_first_call_on(net, name):
    """Eight at once, each with an image of its own; nothing was called before."""
    needs(name)
    each = RNG.integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    predict, begin = kc.predictor(net, engine=name), threading.Barrier(8)

    def asked(image):
        begin.wait(60)
        return predict.scores(image)[0], predict(image)[0].label

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asked, each))
    for (row, label), wanted in zip(answers, net.predict(each, verbose=0), strict=True):
        np.testing.assert_allclose(row, wanted, atol=1e-5)
        assert label == ["cat", "dog", "emu"][wanted.argmax()]


@pytest.fixture
def zen3(monkeypatch, tmp_path):
    """A processor on which TensorFlow leaves oneDNN off, and somebody switched it on."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: sse4_2 avx fma avx2\n")
    monkeypatch.setattr(runtime, "CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.setenv(runtime.ONEDNN, "1")


@pytest.mark.usefixtures("zen3")
def test_answers_are_the_same_where_onednn_is_forced(net, photos):
    np.testing.assert_allclose(kc.predictor(net).scores(photos), net.predict(photos, verbose=0), atol=1e-6)


@pytest.mark.usefixtures("zen3")
def test_an_evaluation_has_the_same_figures_there(net, photos, monkeypatch):
    data = photos, np.arange(len(photos)) % 3
    there = kc.evaluate(net, data).metrics
    monkeypatch.delenv(runtime.ONEDNN)
    assert there == pytest.approx(kc.evaluate(net, data).metrics, abs=1e-6)


@pytest.mark.usefixtures("zen3")
def test_threads_share_it_there_too(net):
    test_threads_share_a_predictor_from_its_first_call_on(net, "keras")


@pytest.mark.usefixtures("zen3")
def test_it_is_a_copy_there_too(photos):
    model = small()
    predict = kc.predictor(model)
    before = predict.scores(photos[:1])
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_array_equal(predict.scores(photos[:1]), before)


@pytest.mark.slow
def test_the_fastest_of_the_real_engines_answers_as_keras_does(net, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CNN_CACHE", str(tmp_path))
    monkeypatch.setattr(engines, "SECONDS", 0.05)
    predict = kc.predictor(net, engine="auto", batch_size=4)
    assert predict.network.engine in engines.installed()
    assert list(json.loads((tmp_path / engines.CHOICES).read_text()).values()) == [predict.network.engine]
    np.testing.assert_allclose(predict.scores(photos), net.predict(photos, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "told", "sentence"),
    [
        ("net.pb", {}, "give a file that ends in .onnx, .xml, .tflite, or format='savedmodel'"),
        ("net.onnx", {"format": "openvino"}, "files of openvino end in .xml"),
        ("net.onnx", {"format": "savedmodel"}, "files of savedmodel end in nothing: it is a folder"),
        ("net", {"format": "coreml"}, "format='coreml': choose one of"),
        ("net.onnx", {"batch": 0}, "batch=0: give 1 or more"),
        ("net", {"samples": np.zeros((2, 3, 3))}, r"samples have the shape \(2, 3, 3\): give \(images, 32, 32, 3\)"),
    ],
)
def test_bad_input_is_one_sentence(net, tmp_path, path, told, sentence):
    with pytest.raises(BadSpec, match=sentence):
        kc.export(net, tmp_path / path, **told)
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_says_what_to_install(net, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "o" in name[:2] else there(name))
    with pytest.raises(MissingPackage, match=r'pip install "keras-cnn\[openvino\]"'):
        kc.export(net, tmp_path / "net.xml")
    with pytest.raises(MissingPackage, match=r'pip install "keras-cnn\[onnx\]"'):
        kc.predictor(net, engine="onnx")
    assert engines.installed() == ["keras", "tensorflow", "litert"]


def test_speeds_are_told_beside_keras_own(net):
    rows = kc.benchmark(net, engine=["keras", "tensorflow"], batches=(1, 2), seconds=0.1)
    assert {(row.engine, row.batch) for row in rows} == {
        (name, batch) for name in ("model.predict", "keras", "tensorflow") for batch in (1, 2)
    }
    for row in rows:
        assert (
            row.rate == pytest.approx(row.batch / row.median)
            and row.p95 >= row.median > 0
            and row.share > 0
            and row.ready > 0
        )
        base = next(one.median for one in rows if (one.engine, one.batch) == ("model.predict", row.batch))
        assert row.ratio == pytest.approx(base / row.median)
        assert row.macs == sum(one.macs for rows in kc.profile(net).values() for one in rows) > 1e6
        assert row.peak_mb is None or row.peak_mb >= 0
    if Path("/proc/self/clear_refs").exists():
        assert max(row.peak_mb for row in rows) > 1
    with pytest.raises(BadSpec, match="engine='torch'"):
        kc.benchmark(net, engine="torch")


def test_growth_is_what_was_held_at_once():
    (held, told) = runtime.growth(lambda: [len(np.ones(100 << 20, "uint8")) for _ in range(3)])
    assert held == [100 << 20] * 3 and (told is None or 95 < told < 150)  # MiB: one after the other


@pytest.mark.slow
def test_other_packages_are_measured_beside():
    """keras.applications on its own architecture, by any of our names for it; and onnxruntime by hand."""
    needs("onnx")
    told = {"engine": "keras", "batches": (1,), "seconds": 0.1}
    net = kc.build("tf_efficientnet_b0", input_shape=(32, 32, 3))
    rows = kc.benchmark(net, **told, vs=["keras.applications", "onnxruntime"])
    names = {"model.predict", "keras", "onnxruntime by hand"}
    assert {row.engine for row in rows} == names | {f"keras.applications, {how}" for how in ("predict", "tf.function")}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet50", "ResNet50"),
        ("keras_resnet50v2", "ResNet50V2"),
        ("resnetv2_101", "ResNet101V2"),
        ("inception_v3", "InceptionV3"),
        ("inception_resnet_v2", "InceptionResNetV2"),
        ("efficientnetv2-s", "EfficientNetV2S"),  # a model of theirs has this name
    ],
)
def test_an_architecture_is_found_in_keras_applications(name, theirs):
    assert rivals.in_applications(name) == theirs


def test_what_others_lack_is_said(net):
    with pytest.raises(BadSpec, match=r"keras[.]applications has no resnet20: leave it out"):
        kc.benchmark(net, engine="keras", vs="keras.applications")
    least = rivals.ways("keras.applications", SimpleNamespace(name="resnet50", layers=()), (16, 16, 3))
    with pytest.raises(BadSpec, match=r"keras[.]applications[.]ResNet50: .*at least 32"):
        next(least)[1]()
    with pytest.raises(BadSpec, match="vs='torchvision': choose one of"):
        kc.benchmark(net, vs="torchvision")
    if not importlib.util.find_spec("timm"):
        with pytest.raises(MissingPackage, match="timm is not installed: pip install timm"):
            kc.benchmark(net, vs=["timm"])


def test_the_command_line_exports_and_measures(net, run, tmp_path):
    kc.save_pretrained(net, tmp_path / "net")
    code, out, err = run("export", tmp_path / "net.tflite", "-m", tmp_path / "net", "--json")
    assert code == 0, err
    assert json.loads(out)["format"] == "litert" and (tmp_path / "net.tflite").is_file()
    told = ("--engine", "keras", "--batch", 2, "--seconds", 0.1)
    code, out, err = run("benchmark", tmp_path / "net", *told, "--json")
    assert code == 0 and [row["engine"] for row in json.loads(out)].count("keras") == 1, err
    picture = tmp_path / "below" / "speeds.png"
    code, out, _ = run("benchmark", tmp_path / "net", *told, "--batch", 1, "--plot", picture)
    assert code == 0 and "2 images at once" in out and "model.predict" in out
    assert "billion multiply-accumulates an image" in out and min(Image.open(picture).size) > 150
    for wrong, sentence in (
        (("--plot", "speeds.txt"), "give a file that ends in .png"),
        (("--vs", "keras"), "vs='keras': choose one of"),
        (("--plot", picture / "x.png"), "it is no folder"),
    ):
        code, _, err = run("benchmark", tmp_path / "net", *told, *wrong)
        assert code == 2 and sentence in err
    assert run("export", tmp_path / "net.tflite", "-m", tmp_path / "net")[0] == 2
