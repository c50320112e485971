"""Heat says what speaks for an answer: equal to other programs', complete, on the object, and gone with the weights."""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from images import encode

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.insight.saliency import METHODS

insight = kc.insight
GOLDENS = json.loads(Path(__file__).parent.joinpath("goldens/saliency.json").read_text())
CAMS = ("grad-cam", "grad-cam++", "score-cam")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def small(**options):
    """A network of smooth activations whose answer depends on the image."""
    told = {"classes": ["cat", "dog", "cow"], "input_shape": (24, 24, 3), "act": "silu"} | options
    model = kc.build("resnet20", **told)
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return model


def logit(model, image, channel):
    """Before the last activation, by a second network that ends there."""
    bare = keras.Model(model.inputs, model.get_layer("head_logits").output)
    return float(np.asarray(bare(image[None].astype("float32")))[0, ..., channel].mean())


# --- equal to others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "golden",
    [
        pytest.param(row, marks=[pytest.mark.slow] * (row["method"] == "score-cam" and "stage4" in row["layer"]))
        for row in GOLDENS
    ],
    ids=lambda row: f"{row['method']} {row['layer']}",
)
def test_heats_equal_those_of_pytorch_grad_cam(golden):
    size = golden["size"]
    model = kc.build("resnet18", head=seeded.head("resnet18", golden["classes"]), input_shape=(size, size, 3))
    values = seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()})
    values["head_logits/kernel"] *= golden["gain"]
    arrays.assign(model, values)
    heat = METHODS[golden["method"]](model, seeded.image(size)[0], golden["target"], golden["layer"])
    expected = np.array(golden["heat"])
    np.testing.assert_allclose(heat[::5, ::7], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert expected.std() > 1e-2 * np.abs(expected).max()


def test_grad_cam_equals_the_definition_by_tensorflow_alone():
    """On a model of another make, in the middle of it, by another way to the logits."""
    tf = pytest.importorskip("tensorflow")
    model = keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=5)
    image = noise(64, 64, 3).astype("float32") / 127.5 - 1
    both = keras.Model(model.inputs, [model.get_layer("block_12_add").output, model.output])
    with tf.GradientTape() as tape:  # a tape gives gradients by what was made under it
        maps, shares = both(image[None])
        # A softmax knows its logits up to a constant, which the difference of two is free of.
        margin = tf.math.log(shares[0, 2]) - tf.math.log(shares[0, 4])
    weights = np.asarray(tape.gradient(margin, maps))[0].mean((0, 1))
    expected = tf.image.resize(np.asarray(maps) @ weights[:, None], (64, 64))[0, ..., 0]
    found = insight.grad_cam(model, image, 2, "block_12_add") - insight.grad_cam(model, image, 4, "block_12_add")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_occlusion_equals_a_loop_of_keras_predictions():
    model, image = small(), noise(24, 24, 3)
    expected, covers = np.zeros((24, 24)), np.zeros((24, 24))
    for y in range(0, 17, 8):
        for x in range(0, 17, 8):
            hidden = image.astype("float32")
            hidden[y : y + 8, x : x + 8] = (10, 20, 30)
            expected[y : y + 8, x : x + 8] += logit(model, image, 1) - logit(model, hidden, 1)
            covers[y : y + 8, x : x + 8] += 1
    heat = insight.occlusion(model, image, "dog", window=8, step=8, baseline=(10, 20, 30))
    np.testing.assert_allclose(heat, expected / covers, atol=1e-4)


# --- what the numbers mean -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end, target, sign", [("softmax", 2, 1), (None, 2, 1), ("sigmoid", 1, 1), ("sigmoid", 0, -1)])
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(end, target, sign):
    """Of a class among several, of a number, and of two classes by one output."""
    layers, channel = keras.layers, 0 if end == "sigmoid" else target
    model = keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(1 / 255)])
    model.add(layers.Conv2D(8, 3, activation="tanh"))
    model.add(layers.Conv2D(8, 3, 2, activation="gelu"))
    model.add(layers.Flatten())
    model.add(layers.Dense(1 if end == "sigmoid" else 4, name="logits"))
    ends = keras.Sequential([model, layers.Activation(end)]) if end else model
    image = noise(12, 12, 3).astype("float32")
    heat = insight.integrated_gradients(ends, image, target, baseline=0, steps=48)
    before, after = np.asarray(model(np.stack([0 * image, image])))[:, channel]
    assert abs(after - before) > 0.01
    assert heat.sum() == pytest.approx(sign * (after - before), rel=1e-3)


def test_the_mean_heat_is_what_maps_add_to_a_logit_behind_a_pool_and_a_dense_layer():
    model, image = small(act="relu"), noise(24, 24, 3)
    heat = insight.grad_cam(model, image, "cow")  # of 6x6 positions, enlarged 4 times
    maps = insight.feature_maps(model, image)["stage3_block3_act"]
    kernel, bias = model.get_layer("head_logits").get_weights()
    assert (maps.mean((0, 1)) @ kernel + bias)[2] == pytest.approx(logit(model, image, 2), rel=1e-3)
    direct = maps @ kernel[:, 2:] / (maps.shape[0] * maps.shape[1])
    expected = keras.ops.convert_to_numpy(keras.ops.image.resize(direct, (24, 24)))[..., 0]
    np.testing.assert_allclose(heat, expected, atol=1e-5 * np.abs(expected).max() + 1e-7)


def test_a_target_is_a_number_or_a_name_and_by_default_the_answer():
    model, image = small(), noise(24, 24, 3)
    answer = int(np.asarray(model(image[None])).argmax())
    by = lambda target: insight.grad_cam(model, image, target)  # noqa: E731
    np.testing.assert_array_equal(by(None), by(answer))
    np.testing.assert_array_equal(by(1), by("dog"))
    assert np.abs(by(1) - by(2)).max() > 1e-4


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other():
    for model in (small(classes=["no", "yes"], task="binary"), small(classes=2, task="binary")):
        np.testing.assert_array_equal(*(s * insight.grad_cam(model, noise(24, 24, 3), t) for s, t in ((1, 1), (-1, 0))))


def test_the_same_number_is_explained_whether_the_network_ends_in_logits_or_not():
    model, image = small(), noise(24, 24, 3)
    bare = keras.Model(model.inputs, model.get_layer("head_logits").output)
    inside = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Conv2D(4, 3, activation="relu", name="maps")])
    inside.add(keras.layers.GlobalAveragePooling2D())
    inside.add(keras.layers.Dense(3, "softmax", name="answer"))
    ends = keras.Model(inside.inputs, keras.layers.Dense(3)(inside.layers[-2].output))
    ends.layers[-1].set_weights(inside.layers[-1].get_weights())
    for one, other in ((model, bare), (inside, ends)):
        np.testing.assert_array_equal(insight.grad_cam(one, image, 1), insight.grad_cam(other, image, 1))


# --- any functional model --------------------------------------------------------------------------------------------


@functools.cache
def nested():
    base = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(image))
    return keras.Model(image, keras.layers.Dense(1, "sigmoid")(x))


MODELS = {
    "U-Net": lambda: kc.build("resnet20", head=kc.UNet(classes=["a", "b"]), input_shape=(None, None, 3)),
    "fine-tuned head": lambda: kc.replace_head(small(), kc.Head(classes=2, hidden=(8,))),
    "nested": nested,
    "flattened": lambda: keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_heat_has_the_size_of_the_image_and_says_something(name):
    model = MODELS[name]()
    if name != "nested":  # whose batch norms, untaught, leave next to nothing
        for v in model.weights:
            if "kernel" in v.path:
                v.assign(seeded.array(f"{v.path.replace('/', '_')}/kernel", tuple(v.shape)))
    size = (24, 24) if name == "fine-tuned head" else (32, 32)
    for method in ("grad-cam", "grad-cam++", "integrated-gradients"):
        options = {"steps": 4} if method == "integrated-gradients" else {}
        heat = METHODS[method](model, noise(*size, 3), 1 if name != "nested" else 0, **options)
        assert heat.shape == size and heat.dtype == np.float32 and np.isfinite(heat).all() and heat.std() > 0


def test_the_first_of_several_outputs_is_explained(two_outputs):
    image = noise(16, 16, 3)
    alone = keras.Model(two_outputs.inputs, two_outputs.outputs[0])
    np.testing.assert_array_equal(insight.grad_cam(two_outputs, image, 1), insight.grad_cam(alone, image, 1))
    with pytest.raises(BadSpec, match="answer depends on no map"):
        insight.grad_cam(two_outputs, image, 1, "aux_pool")


def test_the_default_layer_is_fine_enough_to_tell_a_place():
    """The last maps of 4 positions a side: at 64 pixels stage 3's, at 128 stage 4's; of a U-Net the deepest of them."""
    for size, layer in ((64, "stage3_block2_act"), (128, "stage4_block2_act")):
        model = kc.build("resnet18", classes=2, input_shape=(size, size, 3))
        image = noise(size, size, 3)
        np.testing.assert_array_equal(insight.grad_cam(model, image, 1), insight.grad_cam(model, image, 1, layer))
    model = kc.build("resnet20", head=kc.UNet(classes=3), input_shape=(32, 32, 3))
    image = noise(32, 32, 3)
    np.testing.assert_array_equal(
        insight.grad_cam(model, image, 1), insight.grad_cam(model, image, 1, "stage3_block3_act")
    )


def test_the_model_is_left_as_it_was():
    model, image = small(), noise(24, 24, 3)
    before = [(layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    for method in CAMS[:2]:
        METHODS[method](model, image)
    insight.feature_maps(model, image)
    assert before == [(layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]


PROGRAM = """
import sys
import numpy as np, keras, keras_cnn as kc
sys.path.insert(0, {tests!r})
from test_saliency import noise, small
from keras_cnn.insight import saliency
image = noise(24, 24, 3)
for name in ("grad-cam", "grad-cam++", "integrated-gradients"):
    told = dict(steps=8) if name.startswith("i") else dict()
    print(name, *saliency.METHODS[name](small(), image, 1, **told)[::6, ::6].ravel().tolist())
"""


@pytest.mark.no_keras
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_gives_the_same_heat(backend):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    root = Path(__file__).parents[1]
    rows = {}
    for one in ("tensorflow", backend):
        told = os.environ | {"KERAS_BACKEND": one, "PYTHONPATH": str(root)}
        code = PROGRAM.format(tests=str(root / "tests"))
        done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
        rows[one] = [line.split() for line in done.stdout.splitlines()]
    for ours, theirs in zip(rows["tensorflow"], rows[backend], strict=True):
        ours, theirs = (np.array(row[1:], float) for row in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.abs(ours).max())


# --- does heat lie on the object, and hang on what was learnt? -------------------------------------------------------


def shapes(count: int, seed: int):
    """Noise with a square or a disc of 14 pixels somewhere: (images, class, where)."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(60, 130, (count, 40, 40, 3)).astype("uint8"), np.arange(count) % 2
    inside = np.zeros((count, 40, 40), bool)
    rows, columns = np.mgrid[:40, :40]
    for i, label in enumerate(labels):
        y, x = rng.integers(7, 33, 2)
        away = np.maximum(abs(rows - y), abs(columns - x)) if label else np.hypot(rows - y, columns - x)
        inside[i] = away <= 7
        images[i][inside[i]] = (230, 60, 60) if label else (60, 60, 230)
    return images, labels, inside


@pytest.fixture(scope="module")
def taught():
    """A network that learnt for seconds which shape is there, and never where."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((40, 40, 3)), layers.Rescaling(1 / 127.5, -1)])
    for i, width in enumerate((16, 32, 32)):
        model.add(layers.Conv2D(width, 3, 2 if i else 1, padding="same", activation="relu", name=f"conv{i}"))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(2, "softmax", name="answer"))
    images, labels, _ = shapes(256, 1)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(images, labels, epochs=12, batch_size=32, verbose=0).history
    assert history["accuracy"][-1] > 0.95
    return model


@pytest.mark.parametrize("method", [name for name in METHODS if name != "score-cam"])
def test_heat_lies_on_the_object(taught, method):
    shares = []
    for image, label, where in zip(*shapes(8, 2), strict=True):
        told = {"steps": 16} if method == "integrated-gradients" else {}
        told = {"window": 10, "step": 5} if method == "occlusion" else told
        heat = np.maximum(METHODS[method](taught, image, int(label), **told), 0)
        shares.append((heat[where].sum() / heat.sum(), where.mean()))
    inside, chance = np.mean(shares, 0)
    assert inside > 3 * chance, (inside, chance)


def test_randomised_weights_change_the_picture(taught):
    """The sanity check of Adebayo et al. (1810.03292): from the top downwards, layer by layer, the likeness is lost."""
    model = keras.models.clone_model(taught)
    model.set_weights(taught.get_weights())
    images, labels, _ = shapes(8, 2)
    heats = lambda: np.stack([insight.grad_cam(model, x, int(c)) for x, c in zip(images, labels, strict=True)])  # noqa: E731
    rank = lambda heat: heat.reshape(len(heat), -1).argsort(1).argsort(1)  # noqa: E731
    first, likeness, rng = rank(heats()), [], np.random.default_rng(0)
    for name in ("answer", "conv2", "conv1", "conv0"):
        layer = model.get_layer(name)
        layer.set_weights([rng.permutation(w.ravel()).reshape(w.shape) for w in layer.get_weights()])
        now = rank(heats())
        likeness.append(np.mean([abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(first, now, strict=True)]))
    assert likeness[-1] < 0.5 and min(likeness) < 0.9, likeness


def test_a_class_is_meant_by_its_name_its_number_or_one_of_the_words_that_describe_it():
    model, image = kc.build("resnet18.tiny_in200"), np.zeros((64, 64, 3), "uint8")
    config = kc.config_of(model)
    number = config.class_names.index("n01443537")
    assert config.provenance["class_descriptions"]["n01443537"] == "goldfish, Carassius auratus"
    first = insight.grad_cam(model, image, number)
    for word in ("n01443537", "goldfish", "Carassius auratus", "goldfish, Carassius auratus"):
        np.testing.assert_array_equal(insight.grad_cam(model, image, word), first)


# --- what is refused -------------------------------------------------------------------------------------------------


class Hidden(keras.Model):
    def call(self, x):
        return x


def two_inputs():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([first, second], keras.layers.add([first, second]))


@pytest.mark.parametrize(
    "make, given, told",
    [
        (Hidden, {}, "has no graph"),
        (two_inputs, {}, "takes 2 inputs"),
        (lambda: kc.build("tcn", input_shape=(32, 4), classes=2), {}, "no spatial maps"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]), {}, "no spatial maps"),
        (small, {"layer": "stage3_block3_akt"}, "Did you mean stage3_block3_act"),
        (small, {"layer": "head_pool"}, "depends on no map"),
        (small, {"target": "dgo"}, "Did you mean dog"),
        (small, {"target": 3}, "3 classes or targets, counted from 0"),
        (small, {"target": 1.5}, "3 classes or targets"),
        (nested, {"target": "cat"}, "knows no names"),
    ],
)
def test_what_cannot_be_explained_is_told(make, given, told):
    model = make()
    shape = getattr(model, "input_shape", None) or (None, 8, 8, 3)
    image = noise(*(shape[1:] if isinstance(shape, tuple) else (8, 8, 3)))
    with pytest.raises(BadSpec) as error:
        insight.grad_cam(model, image, **given)
    assert told in str(error.value)


def test_images_that_do_not_fit_are_told(tmp_path):
    model = small()
    for image in (noise(20, 24, 3), noise(24, 24), noise(2, 24, 24, 3), np.full((24, 24, 3), np.nan), ["a"]):
        with pytest.raises(BadData):
            insight.grad_cam(model, image)
    with pytest.raises(BadImage, match=r"none\.png"):
        insight.grad_cam(model, tmp_path / "none.png")
    (tmp_path / "x.png").write_bytes(encode(noise(30, 40, 3)))
    assert insight.grad_cam(model, tmp_path / "x.png").shape == (24, 24)
    with pytest.raises(BadSpec, match="not made by keras_cnn"):
        insight.grad_cam(nested(), tmp_path / "x.png")


@pytest.mark.parametrize(
    "method, options, told",
    [
        ("integrated-gradients", {"steps": 0}, "steps=0"),
        ("occlusion", {"window": 99}, "window=99"),
        ("occlusion", {"step": 0}, "step=0"),
        ("score-cam", {"baseline": (1, 2)}, "3 channels"),
    ],
)
def test_options_out_of_bounds_are_told(method, options, told):
    with pytest.raises(BadSpec) as error:
        METHODS[method](small(), noise(24, 24, 3), **options)
    assert told in str(error.value)


# --- maps, filters, what a channel looks for, what is alike ----------------------------------------------------------


def test_feature_maps_are_those_of_keras():
    model, image = small(), noise(24, 24, 3)
    maps = insight.feature_maps(model, image)
    assert [name.partition("_")[0] for name in maps] == ["stem", "stage1", "stage2", "stage3"]
    features = kc.features(model, ["stage1", "stage3"])(image[None].astype("float32"))
    for stage, expected in zip(("stage1_block3_act", "stage3_block3_act"), features, strict=True):
        np.testing.assert_allclose(maps[stage], np.asarray(expected)[0], atol=1e-5)
    inner = insight.feature_maps(nested(), noise(32, 32, 3))
    assert [one.shape[0] for one in inner.values()] == [16, 8, 4, 2] and all("/" in name for name in inner)
    with pytest.raises(BadSpec, match="Did you mean"):
        insight.feature_maps(model, image, ["stage1_block3_acts"])


def test_filters_are_the_kernels():
    model = small()
    np.testing.assert_array_equal(insight.filters(model)[5], model.get_layer("stem_conv").get_weights()[0][..., 5])
    with pytest.raises(BadSpec, match="no such convolution"):
        insight.filters(model, "head_logits")


def test_an_input_that_maximises_a_channel_does(taught):
    image = insight.maximising_input(taught, "answer", 1, steps=20)
    assert image.shape == (40, 40, 3) and image.min() >= 0 and image.max() <= 255
    assert np.asarray(taught(image[None]))[0, 1] > 0.99
    assert image[..., 0].mean() > image[..., 2].mean() + 10  # squares are red
    np.testing.assert_array_equal(image, insight.maximising_input(taught, "answer", 1, steps=20))
    with pytest.raises(BadSpec, match="2 channels"):
        insight.maximising_input(taught, "answer", 2)
    with pytest.raises(BadSpec, match="Did you mean answer"):
        insight.maximising_input(taught, "answers", 0)


def test_the_nearest_images_are_of_the_same_kind(taught, tmp_path):
    images, labels, _ = shapes(20, 3)
    near = insight.nearest_images(taught, images[4], images, count=6)
    assert near[0].name == "images[4]" and near[0].similarity == pytest.approx(1, abs=1e-5)
    assert [int(one.name[7:-1]) % 2 for one in near] == [labels[4]] * 6
    assert [one.similarity for one in near] == sorted((one.similarity for one in near), reverse=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        (tmp_path / str(label) / f"{i}.png").write_bytes(encode(image))
    data = kc.load_data(tmp_path, kc.Preprocess(size=(40, 40), crop=1.0), val_split=0.2)
    found = insight.nearest_images(taught, images[5], data, count=3)
    assert {data.class_names[one.label] for one in found} == {"1"} and found[0].name.endswith(".png")
    with pytest.raises(BadData, match=r"give what kc\.load_data gives"):
        insight.nearest_images(taught, images[0], "photos")


@pytest.mark.parametrize("module", ["saliency", "maps"])
def test_the_examples_of_the_docstrings_run(module):
    failed, tried = doctest.testmod(importlib.import_module(f"keras_cnn.insight.{module}"))
    assert not failed and tried
