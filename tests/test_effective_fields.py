"""The effective field is the gradient's: by hand for linear networks, and smaller than the theoretical one for real."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnn as kc
from keras_cnn.errors import BadData, BadSpec

effective_field = kc.insight.effective_field


def stack(depth, size=31, width=1, ones=True, **options):
    """3x3 convolutions without bias, linear by default, whose weights are all 1 or random."""
    start = "ones" if ones else "he_normal"
    options = {"padding": "same", "use_bias": False, "kernel_initializer": start} | options
    parts = [layers.Conv2D(width, 3, name=f"conv{i}", **options) for i in range(1, depth + 1)]
    return keras.Sequential([keras.Input((size, size, 1)), *parts])


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_equal_weights_give_a_trinomial_that_is_almost_a_gaussian(depth):
    """Section 2.2 of the paper: (1 + z + z^2)^n, whose spread is sqrt(2 n / 3)."""
    row = [1.0]
    for _ in range(depth):
        row = np.convolve(row, [1, 1, 1])
    found = effective_field(stack(depth), f"conv{depth}")
    inside = slice(15 - depth, 16 + depth)
    assert found.position == (15, 15)
    np.testing.assert_allclose(found.map[inside, inside], np.outer(row, row) / max(row) ** 2, atol=1e-6)
    assert found.map.sum() == pytest.approx((np.sum(row) / max(row)) ** 2)  # nothing outside
    assert found.size == np.sqrt((np.outer(row, row) / max(row) ** 2 > 1 - 0.9545).sum())


def test_channels_do_not_cancel_and_are_not_summed():
    """Of a fixed linear map the size is the norm over channels in and out, which random signs estimate."""
    model = keras.Sequential([keras.Input((5, 2)), layers.Conv1D(3, 3, padding="same", use_bias=False, name="conv")])
    kernel = np.random.default_rng(0).normal(size=(3, 2, 3)).astype("float32")
    model.set_weights([kernel])
    found = effective_field(model, "conv", np.zeros((3_000, 5, 2), "float32"))
    exact = np.sqrt(np.square(kernel).sum((1, 2)))
    assert found.position == (2,) and found.map.shape == (5,)
    np.testing.assert_allclose(found.map[1:4], exact / exact.max(), atol=0.05)  # three deviations of the estimate
    assert found.map[[0, 4]].tolist() == [0, 0] and found.size == 3


def test_the_effective_field_grows_as_the_root_of_the_depth():
    """The theoretical one grows in proportion (the paper's theorem, and figure 1 for random weights and ReLU)."""
    model = stack(16, size=41, width=8, ones=False, activation="relu")
    sizes = [effective_field(model, f"conv{depth}").size for depth in (4, 16)]
    theory = [kc.insight.receptive_field(model)[f"conv{depth}"].size[0] for depth in (4, 16)]
    assert theory == [9, 33] and sizes[0] < 9 and sizes[1] < 0.75 * 33
    assert 1.6 < sizes[1] / sizes[0] < 2.5  # sqrt(16 / 4) = 2, where the theoretical ratio is 3.7


@pytest.mark.large_graphs
def test_of_pretrained_weights_it_is_a_part_of_the_theoretical_field():
    model = kc.build("resnet18.tiny_in200", input_shape=(160, 160, 3))
    theory = kc.insight.receptive_field(model)
    for name in ("stage1_block2_act", "stage2_block2_act"):
        found, box = effective_field(model, name), theory[name]
        first = [int(s + p * j) for s, p, j in zip(box.start, found.position, box.jump, strict=True)]
        rows, columns = np.nonzero(found.map)
        assert first[0] <= rows.min() and rows.max() < first[0] + box.size[0] <= 160
        assert first[1] <= columns.min() and columns.max() < first[1] + box.size[1] <= 160
        assert 3 < found.size < 0.7 * box.size[0]


def test_residual_branches_that_start_at_zero_leave_what_shortcuts_see():
    model = kc.build("resnet20")
    assert effective_field(model, "stage1_block3_act").size == 3  # the stem's convolution
    assert kc.insight.receptive_field(model)["stage1_block3_act"].size == (15, 15)


def test_sequences_pooled_outputs_and_open_sizes():
    net = kc.build("tcn", input_shape=(64, 2), classes=3, widths=(8,), dilations=(1, 2, 4, 8, 16))
    found, reach = effective_field(net, "stage3_act"), kc.TCN(dilations=(1, 2, 4)).receptive_field
    assert reach == 29 and [*np.flatnonzero(found.map)[[0, -1]]] == [32 - 28, 32]  # causal
    assert found.position == (32,) and 1 < found.size <= reach
    open_ = kc.build("resnet20", input_shape=(None, None, 3), classes=2, norm="none")
    pooled = effective_field(open_, "head_pool", np.random.default_rng(0).integers(0, 255, (2, 24, 16, 3)))
    assert pooled.position == () and pooled.map.shape == (24, 16) and (pooled.map > 0).all()


def test_given_images_are_taken_in_parts_and_the_order_of_a_mean_does_not_matter():
    model, images = stack(3, size=9), np.random.default_rng(0).normal(size=(40, 9, 9, 1))
    np.testing.assert_allclose(effective_field(model, "conv3", images).map, effective_field(model, "conv3").map)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def shared():
    image, conv = keras.Input((9, 9, 1)), layers.Conv2D(1, 3, padding="same", name="twice")
    return keras.Model(image, conv(conv(image)))


@pytest.mark.parametrize(
    "model, layer, images, error, told",
    [
        (lambda: Subclassed(name="own"), "conv", None, BadSpec, "'own' has no graph"),
        (lambda: stack(2), "conf1", None, BadSpec, "has no layer 'conf1'; it has conv"),
        (shared, "twice", None, BadSpec, "twice is called several times"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)]), "dense", None, BadSpec, "one input of floats"),
        (lambda: stack(1, size=None), "conv1", None, BadSpec, "size open, (None, None, 1): give images"),
        (lambda: stack(1), "conv1", np.zeros((1, 8, 8, 1)), BadData, "images of shape (1, 8, 8, 1)"),
        (lambda: stack(1), "conv1", np.zeros((0, 31, 31, 1)), BadData, "images of shape (0, 31, 31, 1)"),
        (lambda: stack(1, activation="relu"), "conv1", -np.ones((1, 31, 31, 1)), BadData, "conv1: no position"),
    ],
)
def test_what_cannot_be_measured_is_told(model, layer, images, error, told):
    with pytest.raises(error) as caught:
        effective_field(model(), layer, images)
    assert told in str(caught.value)


PROGRAM = """
import keras, numpy as np
from keras_cnn.insight import effective_field
model = keras.Sequential([keras.Input((7, 1)), keras.layers.Conv1D(1, 3, padding="same", kernel_initializer="ones",
                          name="a"), keras.layers.Conv1D(1, 3, padding="same", kernel_initializer="ones", name="b")])
found = effective_field(model, "b")
np.testing.assert_allclose(found.map, np.array([0, 1, 2, 3, 2, 1, 0]) / 3, atol=1e-6)
"""


@pytest.mark.no_keras
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=os.environ | {"KERAS_BACKEND": backend})


def test_the_docstring_example_runs():
    module = importlib.import_module("keras_cnn.insight.effective_fields")
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted
