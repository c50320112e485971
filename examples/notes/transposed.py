"""A transposed convolution is an upsampling and a convolution, and draws a checkerboard where strides leave a rest.

    python examples/notes/transposed.py transposed.png

Draws how many inputs reach each output for kernels of 2, 3, 4 and 5 at stride 2, what random kernels make of a map
that is 1 everywhere, and what a convolution behind a nearest or bilinear upsampling makes of it (Odena et al. 2016,
distill.pub, "Deconvolution and checkerboard artifacts"). Checks both steps and the rule of the output's size by Keras.
"""

import argparse
from pathlib import Path

import numpy as np
from keras import ops
from matplotlib.figure import Figure

from keras_cnn.insight import checkerboard, transposed_as_convolution, transposed_output_shape

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
out = parser.parse_args().out

SIDE, STRIDE, KERNELS = 8, 2, (2, 3, 4, 5)  # a U-Net's `upsample="transposed"` has a kernel of its stride, 2
INSIDE = slice(4, -4)  # where no border is seen
rng = np.random.default_rng(0)
ones = np.ones((1, SIDE, SIDE, 1), "float32")


def transposed(kernel):
    return ops.convert_to_numpy(ops.conv_transpose(ones, kernel, STRIDE, "same"))[0]


def resized(kernel, interpolation):
    large = ops.image.resize(ones, (STRIDE * SIDE, STRIDE * SIDE), interpolation)
    return ops.convert_to_numpy(ops.conv(large, kernel, padding="same"))[0]


def random(size, filters=2000):
    """Independent filters, scaled so that an output of all of a kernel's weights would have spread 1."""
    return rng.normal(size=(size, size, filters, 1)).astype("float32") / size


def spread(maps):
    """Root mean square over the filters, at each position inside."""
    return np.sqrt(np.square(maps).mean(-1))[INSIDE, INSIDE]


def unevenness(values):
    """Spread over the positions, as a share of their mean: 0 where all are alike."""
    return values.std() / values.mean()


# Two steps, and the size of what comes out.
x = rng.normal(size=(SIDE, SIDE, 2)).astype("float32")
for size in KERNELS:
    for padding in ("same", "valid"):
        kernel = rng.normal(size=(size, size, 3, 2)).astype("float32")
        y = ops.convert_to_numpy(ops.conv_transpose(x[None], kernel, STRIDE, padding))[0]
        zeros, convolution = transposed_as_convolution(kernel, x.shape, STRIDE, padding)
        assert transposed_output_shape(kernel.shape, x.shape, STRIDE, padding) == y.shape
        np.testing.assert_allclose((convolution @ (zeros @ x.ravel())).reshape(y.shape), y, atol=1e-4)

# What kernels make of a constant map: all weights alike, one drawn at random, and the spread over many of these.
columns = {
    f"transposed, kernel {size}": (transposed(np.ones((size, size, 1, 1), "float32")), transposed(random(size)))
    for size in KERNELS
} | {
    f"{how}, convolution of 3": tuple(
        resized(kernel, how) for kernel in (np.ones((3, 3, 1, 1), "float32"), random(3).swapaxes(2, 3))
    )
    for how in ("nearest", "bilinear")
}
uneven = {
    name: (unevenness(alike[INSIDE, INSIDE, 0]), unevenness(spread(many))) for name, (alike, many) in columns.items()
}

figure = Figure(figsize=(15, 8.4), layout="constrained")
rows = figure.subplots(3, len(columns))
rows[0, 0].set_ylabel("all weights 1")
rows[1, 0].set_ylabel("one random kernel")
rows[2, 0].set_ylabel("2000 random kernels:\nroot mean square")
for column, (name, (alike, many)) in zip(rows.T, columns.items(), strict=True):
    most = abs(many[INSIDE, INSIDE, 0]).max()
    top, middle, bottom = column
    top.imshow(alike[INSIDE, INSIDE, 0], cmap="viridis", vmin=0, vmax=9)
    for (row, place), value in np.ndenumerate(alike[INSIDE, INSIDE, 0]):
        top.text(
            place, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value < 6 else "black"
        )
    middle.imshow(many[INSIDE, INSIDE, 0], cmap="RdBu_r", vmin=-most, vmax=most)
    bottom.imshow(spread(many), cmap="viridis", vmin=0, vmax=1.2)
    top.set_title(f"{name}\nuneven by {uneven[name][0]:.0%}")
    bottom.set_title(f"uneven by {uneven[name][1]:.0%}", fontsize="medium")
    for axis in column:
        axis.set(xticks=[], yticks=[])
figure.suptitle("A map that is 1 everywhere, upsampled by 2: what should be as even as the map")
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=80)

assert all((uneven[f"transposed, kernel {k}"][0] < 1e-6) == (np.ptp(checkerboard(k, STRIDE)) == 0) for k in KERNELS)
told = ", ".join(f"{k} {uneven[f'transposed, kernel {k}'][0]:.0%}" for k in KERNELS)
print(
    "Seen: zeros between and a convolution are Keras' transposed one, of the size that the rule gives. With equal "
    f"weights the outputs at stride 2 are uneven by: kernel {told}; nearest and bilinear with a convolution behind 0%, "
    "with any weights. A kernel that the stride divides, as a U-Net's, has no uneven overlap, but each of its outputs "
    "has weights of its own, which training has to bring together."
)
