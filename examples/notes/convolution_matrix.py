"""A convolution is a matrix product: most entries are zero, and the others are copies of a few shared weights.

    python examples/notes/convolution_matrix.py convolution_matrix.png

Draws the matrices of a small 1-D and a small 2-D convolution, each weight in its colour; the gradient of
each copy of a weight by itself, and the one that shared weights have; and a transposed convolution
as zeros put between the inputs and an ordinary convolution behind. Checks each statement against Keras, and says so.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_cnn.insight import conv_matrix, kernel_gradient, transposed_as_convolution

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
out = parser.parse_args().out

rng = np.random.default_rng(0)
STEPS, IMAGE = (10, 1), (6, 6, 1)
line = rng.normal(size=(3, 1, 1)).astype("float32")
square = rng.normal(size=(3, 3, 1, 1)).astype("float32")


def numbered(kernel):
    """1, 2, 3, ... in place of the weights, which tells their copies apart."""
    return np.arange(1, kernel.size + 1).reshape(kernel.shape)


def shown(matrix):
    """Dense, and nothing where no weight is."""
    return np.where(matrix.toarray() != 0, matrix.toarray(), np.nan)


def keras_gradient(x, target):
    """Of half the squared distance between a convolution and its target, by the kernel: one step of Keras' own SGD."""
    layer = keras.layers.Conv1D(1, 3, use_bias=False)
    model = keras.Sequential([keras.Input(x.shape), layer])
    layer.set_weights([line])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, predicted: keras.ops.sum((predicted - y) ** 2) / 2)
    model.train_on_batch(x[None], target[None])
    return line - layer.get_weights()[0]


# The same numbers, whether slid or multiplied.
x = rng.normal(size=STEPS).astype("float32")
matrix = conv_matrix(line, STEPS)
slid = keras.ops.convert_to_numpy(keras.ops.conv(x[None], line))[0]
np.testing.assert_allclose((matrix @ x.ravel()).reshape(slid.shape), slid, atol=1e-5)

# The gradient of every entry of the matrix, then of each weight: the sum over its copies.
target = rng.normal(size=slid.shape).astype("float32")
each = np.outer(slid - target, x)
total = kernel_gradient(each, line.shape, STEPS).ravel()
average = total / kernel_gradient(np.ones_like(each), line.shape, STEPS).ravel()
np.testing.assert_allclose(total, keras_gradient(x, target).ravel(), atol=1e-5)

# A transposed convolution: zeros between, then a convolution in steps of 1.
small = (4, 1)
insertion, convolution = transposed_as_convolution(line, small, strides=2)
spread = keras.ops.convert_to_numpy(keras.ops.conv_transpose(x[None, :4], line, 2))[0]
np.testing.assert_allclose((convolution @ (insertion @ x[:4].ravel())).reshape(spread.shape), spread, atol=1e-5)
difference = abs(convolution @ insertion - conv_matrix(line, spread.shape, strides=2).T).max()

in_line, in_square = (conv_matrix(numbered(k), shape) for k, shape in ((line, STEPS), (square, IMAGE)))
between, behind = transposed_as_convolution(numbered(line), small, strides=2)
copies = np.where(in_line.toarray() != 0, each, np.nan)
largest = np.nanmax(abs(copies))
pictures = {  # title: the matrix, its colours, and their range
    "1-D: 10 steps in, 8 out\n3 weights, 8 copies of each": (shown(in_line), "viridis", 1, 3),
    "its transpose: 8 in, 10 out\nspreads, carries gradients back": (shown(in_line.T), "viridis", 1, 3),
    "2-D: 6x6 in, 4x4 out\n9 weights, 16 copies of each": (shown(in_square), "viridis", 1, 9),
    "its transpose: 4x4 in, 6x6 out": (shown(in_square.T), "viridis", 1, 9),
    "gradient of each copy by itself\n(red above zero, blue below)": (copies, "RdBu_r", -largest, largest),
    "transposed, stride 2:\nzeros between and around...": (shown(between), "gray", 0, 3),
    "... then a convolution,\nthe kernel turned around": (shown(behind), "viridis", 1, 3),
}
figure = Figure(figsize=(15, 8), layout="constrained")
*matrices, bars = figure.subplots(2, 4).ravel()
for axis, (title, (values, colours, low, high)) in zip(matrices, pictures.items(), strict=True):
    axis.imshow(values, cmap=colours, vmin=low, vmax=high)
    axis.set(title=title, xlabel="input", ylabel="output", facecolor="0.93")
bars.bar(np.arange(3) - 0.2, total, 0.4, label="sum over the copies: Keras' gradient")
bars.bar(np.arange(3) + 0.2, average, 0.4, label="average: same direction, 1/8 of the step")
bars.axhline(0, color="black", linewidth=0.8)
bars.set(title="gradient of each shared weight", xticks=range(3), xticklabels=["w1", "w2", "w3"])
bars.set_ylim(top=1.3 * max(0, total.max()))
bars.legend(loc="upper left", fontsize="small")
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=100)

shorter = np.linalg.norm(average) / np.linalg.norm(total)
cosine = total @ average / np.linalg.norm(total) / np.linalg.norm(average)
print(
    f"Seen: 3 weights fill {matrix.nnz} of {np.prod(matrix.shape)} entries. The gradient of a shared weight is the sum "
    f"over its copies, as in Keras; the average has the same direction (cosine {cosine:.4f}) and {shorter:.4f} of the "
    f"length. A transposed convolution is zeros between and a convolution behind (largest difference {difference:g})."
)
