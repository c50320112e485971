"""A convolution is its matrix, and gradients and transposes of the one are those of the other, as Keras has them."""

from __future__ import annotations

import doctest
import importlib
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from PIL import Image

from keras_cnn.errors import BadSpec
from keras_cnn.insight import (
    checkerboard,
    conv_matrix,
    kernel_gradient,
    transposed_as_convolution,
    transposed_output_shape,
)

CLOSE = {"rtol": 0, "atol": 1e-5}
few = lambda most: st.integers(1, most)  # noqa: E731


@st.composite
def convolutions(draw, transposed=False):
    """(kernel, example, options) whose window fits; strided or dilated, not both, as in Keras."""
    axes = draw(few(2))
    groups = 1 if transposed else draw(few(3))
    sides = lambda most: tuple(draw(few(most)) for _ in range(axes))  # noqa: E731
    window, strides, padding = sides(4), sides(4), draw(st.sampled_from(["valid", "same"]))
    dilation = sides(3) if max(strides) == 1 else (1,) * axes
    least = [1 if transposed else (k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    lengths = [n + draw(st.integers(0, 4)) for n in least]
    channels, filters = draw(few(2)), groups * draw(few(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (*window, filters, channels) if transposed else (*window, channels, filters)
    kernel = rng.uniform(-1, 1, shape).astype("float32")
    example = rng.uniform(-1, 1, (*lengths, channels * groups)).astype("float32")
    return kernel, example, {"strides": strides, "padding": padding, "dilation": dilation}, groups


def keras_conv(x, kernel, *, strides, padding, dilation):
    """Of one example; Keras finds the groups in the shapes."""
    if len(strides) == 1 and dilation != (1,):  # TensorFlow takes one number there
        strides = strides[0]
    return ops.conv(x[None], kernel, strides, padding, "channels_last", dilation)[0]


def gradients(function, *values):
    """Of the scalar that the function gives, by each value, on whichever backend runs."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            variables = [tf.Variable(value) for value in values]
            with tf.GradientTape() as tape:
                loss = function(*variables)
            return [found.numpy() for found in tape.gradient(loss, variables)]
        case "jax":
            import jax

            return [np.asarray(found) for found in jax.grad(function, tuple(range(len(values))))(*values)]
        case _:
            import torch

            tensors = [torch.tensor(value, requires_grad=True) for value in values]
            return [found.numpy() for found in torch.autograd.grad(function(*tensors), tensors)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(convolutions())
def test_the_matrix_and_its_gradients_are_those_of_keras(drawn):
    kernel, x, options, groups = drawn
    matrix = conv_matrix(kernel, x.shape, groups=groups, **options)
    y = ops.convert_to_numpy(keras_conv(x, kernel, **options))
    np.testing.assert_allclose((matrix @ x.ravel()).reshape(y.shape), y, **CLOSE)

    above = np.random.default_rng(0).uniform(-1, 1, y.shape).astype("float32")
    by_x, by_kernel = gradients(lambda x, kernel: ops.sum(keras_conv(x, kernel, **options) * above), x, kernel)
    np.testing.assert_allclose((matrix.T @ above.ravel()).reshape(x.shape), by_x, **CLOSE)
    outer = np.outer(above, x.ravel())
    folded = kernel_gradient(outer, kernel.shape, x.shape, groups=groups, **options)
    np.testing.assert_allclose(folded, by_kernel, **CLOSE)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(convolutions(transposed=True))
def test_a_transposed_convolution_is_zeros_and_a_convolution_and_the_transposed_matrix(drawn):
    kernel, x, options, _ = drawn
    strides, padding, dilation = options.values()
    y = ops.convert_to_numpy(ops.conv_transpose(x[None], kernel, strides, padding, None, "channels_last", dilation)[0])
    assert transposed_output_shape(kernel.shape, x.shape, **options) == y.shape
    insertion, convolution = transposed_as_convolution(kernel, x.shape, **options)
    np.testing.assert_allclose((convolution @ (insertion @ x.ravel())).reshape(y.shape), y, **CLOSE)
    assert abs(convolution @ insertion - conv_matrix(kernel, y.shape, **options).T).max() == 0
    assert insertion.nnz == x.size and set(insertion.data) == {1}


def test_where_all_weights_are_used_as_often_the_average_is_the_sum_with_a_smaller_step():
    kernel, example = (3, 2, 4), (9, 2)
    gradient = np.random.default_rng(0).normal(size=(7 * 4, 9 * 2))
    total, uses = (kernel_gradient(g, kernel, example) for g in (gradient, np.ones_like(gradient)))
    assert np.all(uses == 7)  # valid: each of 7 positions
    assert np.vdot(total, total / uses) == pytest.approx(np.linalg.norm(total) * np.linalg.norm(total / uses))
    uses = kernel_gradient(np.ones((9 * 4, 9 * 2)), kernel, example, padding="same")
    assert [set(tap.ravel()) for tap in uses] == [{8}, {9}, {8}]


def test_a_sparse_gradient_folds_as_a_dense_one():
    matrix = conv_matrix(np.random.default_rng(0).normal(size=(2, 2, 1, 3)), (4, 4, 1))
    folded = [kernel_gradient(given, (2, 2, 1, 3), (4, 4, 1)) for given in (matrix, matrix.toarray())]
    np.testing.assert_array_equal(*folded)
    np.testing.assert_allclose(folded[0] / 9, np.random.default_rng(0).normal(size=(2, 2, 1, 3)))  # 9 copies of itself


def test_strides_and_dilation_at_once_are_the_strided_rows_of_the_dilated_matrix():
    kernel = np.arange(1.0, 4).reshape(3, 1, 1)
    both = conv_matrix(kernel, (12, 1), strides=2, dilation=3).toarray()
    np.testing.assert_array_equal(both, conv_matrix(kernel, (12, 1), dilation=3).toarray()[::2])


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: conv_matrix(np.ones((3, 1, 1)), (5, 2)), "2 channels"),
        (lambda: conv_matrix(np.ones((3, 2, 3)), (5, 4), groups=2), "divide the 3 filters"),
        (lambda: conv_matrix(np.ones((3, 1, 1)), (5, 5, 1)), "kernel of 3 axes"),
        (lambda: conv_matrix(np.ones((2, 2, 2, 1, 1)), (5, 5, 5, 1)), "kernel of 5 axes"),
        (lambda: conv_matrix(np.ones((3, 1, 1)), (2, 1)), "smaller than the window"),
        (lambda: conv_matrix(np.ones((3, 1, 1)), (5, 1), padding="full"), "padding='full'"),
        (lambda: conv_matrix(np.ones((3, 1, 1)), (5, 1), strides=0), "strides=0"),
        (lambda: conv_matrix(np.ones((3, 1, 1)), (5, 1), dilation=(1, 2)), "dilation=(1, 2)"),
        (lambda: kernel_gradient(np.ones((3, 4)), (3, 1, 1), (5, 1)), "this matrix has (3, 5)"),
        (lambda: transposed_as_convolution(np.ones((3, 1, 2)), (5, 1)), "(..., out, in)"),
        (lambda: transposed_output_shape((3, 1, 2), (5, 2), padding="full"), "padding='full'"),
    ],
)
def test_what_does_not_fit_is_told(call, told):
    with pytest.raises(BadSpec) as error:
        call()
    assert told in str(error.value)


def test_the_docstring_examples_run():
    module = importlib.import_module("keras_cnn.insight.linear_maps")
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


def test_the_note_on_convolution_matrices_ends_in_a_picture_and_what_was_seen(tmp_path, monkeypatch, capsys):
    note = Path(__file__).parents[1] / "examples" / "notes" / "convolution_matrix.py"
    assert len(note.read_text().splitlines()) < 120
    picture = tmp_path / "new" / "picture.png"
    monkeypatch.setattr("sys.argv", [note.name, str(picture)])
    runpy.run_path(str(note), run_name="__main__")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("Seen: 3 weights fill 24 of 80 entries") and "cosine 1.0000" in said and "0.1250" in said
    with Image.open(picture) as image:
        assert image.size == (1500, 800)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(few(7), few(7), few(4), few(4))
def test_inputs_that_reach_an_output_are_those_of_equal_weights(height, width, down, across):
    counts = checkerboard((height, width), (down, across))
    assert counts.shape == (down, across) and counts.sum() == height * width
    assert (np.ptp(counts) == 0) == (height % down == 0 and width % across == 0)
    insertion, convolution = transposed_as_convolution(np.ones((height, width, 1, 1)), (9, 9, 1), (down, across))
    *shape, _ = transposed_output_shape((height, width, 1, 1), (9, 9, 1), (down, across))
    response = (convolution @ (insertion @ np.ones(81))).reshape(shape)
    rows, columns = ((n // step // 2) * step for n, step in zip(shape, (down, across), strict=True))
    np.testing.assert_array_equal(response[rows : rows + down, columns : columns + across], counts)


def test_a_checkerboard_of_sequences_and_what_does_not_fit():
    assert checkerboard((3,), (2,)).tolist() == [2, 1] and checkerboard((4,), 2).tolist() == [2, 2]
    with pytest.raises(BadSpec, match="kernel=0"):
        checkerboard(0, 2)
