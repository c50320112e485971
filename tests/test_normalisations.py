"""Normalisation of maps and of kernels: what each averages over, as papers and timm have it, and where it cannot be."""

from __future__ import annotations

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.deploy.fold import fold
from keras_cnn.errors import BadSpec
from keras_cnn.insight.gradients import gradients
from keras_cnn.models import registry, shapes
from keras_cnn.models.families.efficientnet import EfficientNet
from keras_cnn.models.layers import (
    StandardisedConv1D,
    StandardisedConv2D,
    StandardisedDepthwiseConv2D,
    WeightStandardised,
)

RNG = np.random.default_rng(0)
WS = {"norm": "group:8", "weight_standardised": True}
# A layer of each kind, its input, and Keras' own operation with the same options.
KINDS = {
    "image": (StandardisedConv2D(6, 3, 2, "same", dilation_rate=1, groups=2), (9, 7, 4)),
    "dilated": (StandardisedConv2D(6, 3, 1, "valid", dilation_rate=2, activation="relu"), (9, 7, 4)),
    "causal": (StandardisedConv1D(6, 3, 1, "causal", dilation_rate=2), (9, 4)),
    "depthwise": (StandardisedDepthwiseConv2D(3, 1, "same", depth_multiplier=2), (9, 7, 4)),
}


def rescaled(kernel: np.ndarray, outputs: int) -> np.ndarray:
    """The papers' formula in float64, a filter at a time."""
    filters = kernel.astype("float64").reshape(-1, *kernel.shape[kernel.ndim - outputs :])
    spread = np.sqrt(((filters - filters.mean(0)) ** 2).mean(0) + 1e-8)
    return ((filters - filters.mean(0)) / spread).reshape(kernel.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_a_standardised_convolution_is_the_plain_one_with_the_papers_kernel(kind):
    layer, shape = KINDS[kind]
    x = RNG.normal(size=(2, *shape)).astype("float32")
    layer(x)
    kernel, bias = (3 + RNG.normal(size=v.shape).astype("float32") for v in layer.get_weights())
    layer.set_weights([kernel, bias])
    plain = layer.PLAIN.from_config(layer.plain_config())
    plain(x)
    plain.set_weights([rescaled(kernel, layer.OUTPUTS), bias])
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-4)
    assert layer(x).shape == layer.compute_output_shape(x.shape)
    again = type(layer).from_config(layer.get_config())
    again(x)
    again.set_weights([5 * kernel - 7, bias])  # neither the size nor the mean of a filter tells
    np.testing.assert_allclose(again(x), layer(x), atol=1e-4)


def test_its_gradient_passes_through_the_statistics():
    """None of it lies along the kernel or a constant, which would not change the output (1903.10520, section 3.2)."""
    layer = StandardisedConv2D(5, 3, use_bias=False)
    x = RNG.normal(size=(2, 6, 6, 4)).astype("float32")
    layer(x)
    above, kernel = RNG.normal(size=(2, 4, 4, 5)).astype("float32"), layer.get_weights()[0]
    _, (found,) = gradients(lambda k: ops.sum(layer.stateless_call([k], [], x)[0] * above), [kernel])
    assert np.abs(found).max() > 1
    for along in (kernel - kernel.mean((0, 1, 2)), np.ones_like(kernel)):
        parts = (found * along).sum((0, 1, 2)) / np.linalg.norm(along.reshape(-1, 5), axis=0)
        np.testing.assert_allclose(parts, 0, atol=1e-4 * np.linalg.norm(found))


def test_half_precision_takes_statistics_in_full(precision):
    precision("mixed_float16")
    layer = StandardisedConv2D(4, 3, use_bias=False)
    layer(np.zeros((1, 5, 5, 2)))
    kernel = 1e-4 * RNG.normal(size=(3, 3, 2, 4))  # the squares are below float16's least number
    layer.set_weights([kernel])
    x = RNG.normal(size=(1, 5, 5, 2))
    expected = ops.conv(x.astype("float32"), rescaled(kernel, 1).astype("float32"))
    assert "float16" in str(layer(x).dtype)
    np.testing.assert_allclose(np.asarray(layer(x), "float32"), expected, rtol=0.01, atol=0.05)


@pytest.mark.parametrize(
    "name, options, plain",
    [
        ("resnet20", {}, set()),
        ("resnetv2_18", {"merge": "concat"}, {"fuse"}),
        ("efficientnet_b0", {}, {"reduce", "expand"}),
        ("inception_resnet_v2", {}, {"up"}),
        ("tcn", {"norm": "layer"}, {"conv"}),
        ("resnet20_unet", {}, {"logits"}),
    ],
)
def test_every_family_standardises_what_a_norm_follows(name, options, plain):
    config = registry.get(name)
    rows = shapes.tally(config.with_(backbone=config.backbone.with_(**WS | options)))
    kinds = {row.layer: row.kind for row in rows if row.kind.endswith(("conv", "depthwise"))}
    assert {layer.split("_")[-1] for layer, kind in kinds.items() if not kind.startswith("standardised")} == plain
    assert sum(kind.startswith("standardised") for kind in kinds.values()) > len(kinds) / 3


def test_a_standardised_network_is_saved_folded_and_seen_as_others(tmp_path):
    blocks = (("ds", 1, 3, 1, 1, 16, 0.25), ("ir", 1, 3, 2, 4, 24, 0.0))
    model, plain = (
        kc.build(EfficientNet(blocks=blocks, top=32, **norm), classes=3, input_shape=(32, 32, 3))
        for norm in (WS, {"norm": "group:8"})
    )
    x = RNG.integers(0, 255, (2, 32, 32, 3))
    expected, values = np.asarray(model(x)), arrays.arrays(model)
    model.save(tmp_path / "model.keras")
    for source in (kc.save_pretrained(model, tmp_path / "weights"), tmp_path / "model.keras"):
        again = kc.build(source)
        assert kc.config_of(again).backbone.weight_standardised
        assert all((values[key] == value).all() for key, value in arrays.arrays(again).items())
        np.testing.assert_array_equal(again(x), expected)
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), expected)
    folded = fold(model)
    assert not any(isinstance(layer, WeightStandardised) for layer in folded.layers)
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=1e-5)
    assert kc.insight.receptive_field(model) == kc.insight.receptive_field(plain)
    costs = [[row[2:] for rows in kc.profile(m).values() for row in rows] for m in (model, plain)]
    assert costs[0] == costs[1] and model.count_params() == plain.count_params()


def test_folding_takes_a_batch_norm_into_a_standardised_kernel():
    model = kc.build("resnet20", weight_standardised=True, classes=3, classifier_activation=None)
    x = RNG.integers(0, 255, (2, 32, 32, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    folded, expected = fold(model), np.asarray(model(x))
    assert not any(isinstance(layer, keras.layers.BatchNormalization | WeightStandardised) for layer in folded.layers)
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("resnet50", {"norm": "group:7"}, "7 does not divide the 64 channels of stem_norm"),
        ("resnet50", {"norm": "instance", "input_shape": (32, 32, 3)}, "at least 33x33 pixels, not 32x32: norm='inst"),
        ("resnet50", {"norm": "group:64", "input_shape": (2, 2, 3)}, "at least 5x5 pixels, not 2x2: norm='group:64'"),
        ("tcn", {"norm": "instance", "causal": False, "input_shape": (1, 3)}, "sequences of at least 2 steps, not 1"),
        ("resnet20", {"norm": "none", "weight_standardised": True}, "give a norm"),
        ("tcn", {"kernel": 1, "input_shape": (9, 1), "weight_standardised": True}, "stage1_conv1 has one weight"),
        ("resnet20", {"weight_standardised": "yes"}, "give true or false"),
    ],
)
def test_a_norm_that_cannot_be_is_told(name, options, told):
    with pytest.raises(BadSpec) as error:
        kc.build(name, **options)
    assert told in str(error.value)


def test_the_smallest_size_that_is_told_works():
    model = kc.build("resnet50", norm="instance", input_shape=(33, 33, 3))
    assert model.get_layer("stage4_block3_norm3").output.shape[1:3] == (2, 2)


# --- the notes ------------------------------------------------------------------------------------------------------

NOTES = Path(__file__).parents[1] / "examples" / "notes"


def seen(monkeypatch, capsys, name, *arguments) -> str:
    """The last line that a note prints."""
    note = NOTES / name
    assert len(note.read_text().splitlines()) < 120
    monkeypatch.setattr("sys.argv", [note.name, *map(str, arguments)])
    runpy.run_path(str(note), run_name="__main__")
    return capsys.readouterr().out.splitlines()[-1]


def test_the_note_on_normalisations_counts_what_moves(tmp_path, monkeypatch, capsys):
    """3 images, 4 positions, 6 channels; sequences alike; a kernel (3, 3, 3, 6)."""
    said = seen(monkeypatch, capsys, "normalisations.py", tmp_path / "new" / "picture.png")
    counts = [
        f"{3 * 4} of 72 in batch norm",
        f"{4 * 6} of 72 in layer norm",
        f"{4} of 72 in instance norm",
        f"{4 * 3} of 72 in group norm",
        f"{6} of 72 in layer norm of sequences",
        f"{3 * 3 * 3} of 162 in weight standardisation",
    ]
    assert said.startswith("Seen: ") and all(count in said for count in counts)
    with Image.open(tmp_path / "new" / "picture.png") as image:
        assert image.size == (1300, 900)


@pytest.mark.slow
def test_the_note_on_small_batches_ends_in_a_picture_and_what_was_seen(tmp_path, monkeypatch, capsys, shared):
    cifar, picture = shared / "data" / "cifar10_jpeg.zip", tmp_path / "picture.png"
    said = seen(monkeypatch, capsys, "normalisations_training.py", cifar, picture, "--images", 64)
    assert said.startswith("Seen: from batches of 32 to batches of 2") and "with batch;" in said
    with Image.open(picture) as image:
        assert image.size == (1200, 500)
