"""Two linear maps with nothing between are one linear map: layers without an activation add weights and no functions.

    python examples/notes/linear_after_linear.py linear_after_linear.png

A convolution behind a convolution as one with a larger kernel, and as a product of matrices; the rank that a narrow
layer leaves; and what depth brings with and without an activation, on points that no line divides. `kc.lint`
finds such pairs in a model.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_cnn.insight import conv_matrix

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--epochs", type=int, default=60)
given = parser.parse_args()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Two convolutions: the product of their matrices is the matrix of one, whose kernel is larger.
IMAGE, FIRST, SECOND = (8, 8, 3), (3, 3, 3, 4), (3, 3, 4, 2)
first, second = (rng.normal(size=shape).astype("float32") for shape in (FIRST, SECOND))
merged = np.zeros((5, 5, 3, 2), "float32")
for i, j in np.ndindex(3, 3):
    merged[i : i + 3, j : j + 3] += first @ second[i, j]
below, above, one = conv_matrix(first, IMAGE), conv_matrix(second, (6, 6, 4)), conv_matrix(merged, IMAGE)
np.testing.assert_allclose((above @ below).toarray(), one.toarray(), atol=1e-4)
image = rng.normal(size=(1, *IMAGE)).astype("float32")
both = [keras.ops.conv(keras.ops.conv(image, first), second), keras.ops.conv(image, merged)]
both, at_once = map(keras.ops.convert_to_numpy, both)
np.testing.assert_allclose(both, at_once, atol=1e-3)

# A narrow map between: the product has its rank, whatever the widths around it.
WIDE = 32
ranks = {n: np.linalg.matrix_rank(rng.normal(size=(WIDE, n)) @ rng.normal(size=(n, WIDE))) for n in (1, 4, 16, 64)}

# Points of two classes in four quadrants: depth without activations stays a line.
points = rng.uniform(-1, 1, (512, 2)).astype("float32")
classes = (points.prod(1) > 0).astype("float32")


def learnt(depth, activation):
    """(accuracy, a function of points) of a network of so many layers."""
    layers = [keras.layers.Dense(16, activation) for _ in range(depth - 1)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(2e-2), "binary_crossentropy", metrics=["accuracy"])
    model.fit(points, classes, epochs=given.epochs, batch_size=128, verbose=0)
    return model.evaluate(points, classes, verbose=0)[1], model


networks = {
    "1 layer": learnt(1, None),
    "4 layers, linear": learnt(4, None),
    "4 layers, relu": learnt(4, "relu"),
}

figure = Figure(figsize=(15, 7.5), layout="constrained")
matrices, fits = figure.subplots(2, 3)
for axis, (title, matrix) in zip(
    matrices,
    {
        f"a 3x3 convolution, 4 channels to 2: {above.shape[0]}x{above.shape[1]}": above,
        f"times a 3x3 convolution, 3 channels to 4: {below.shape[0]}x{below.shape[1]}": below,
        f"is a 5x5 convolution, 3 channels to 2: {one.shape[0]}x{one.shape[1]}": one,
    }.items(),
    strict=True,
):
    largest = abs(matrix).max()
    axis.imshow(matrix.toarray(), cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axis.set(title=title, xlabel="input", ylabel="output")
grid = np.stack(np.meshgrid(np.linspace(-1, 1, 101), np.linspace(-1, 1, 101)), -1).reshape(-1, 2)
for axis, (name, (accuracy, model)) in zip(fits, networks.items(), strict=True):
    answer = model.predict(grid, verbose=0, batch_size=2048).reshape(101, 101)
    axis.imshow(answer, extent=(-1, 1, -1, 1), origin="lower", cmap="RdBu_r", vmin=0, vmax=1, alpha=0.35)
    axis.scatter(*points[:300].T, c=np.where(classes[:300] > 0, "darkred", "darkblue"), s=8)
    axis.set(title=f"{name}: {accuracy:.0%} right (colour: what it says)")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

flat, linear, bent = (accuracy for accuracy, _ in networks.values())
print(
    f"Seen: a 3x3 behind a 3x3 is one 5x5 convolution (largest difference {abs(both - at_once).max():.0e}), with "
    f"{merged.size} weights in place of {first.size + second.size}; maps of {WIDE} channels with n between have rank "
    f"{', '.join(f'{rank} (n={n})' for n, rank in ranks.items())}. Four quadrants: {flat:.0%} right with one layer, "
    f"{linear:.0%} with four linear ones, {bent:.0%} with activations between."
)
