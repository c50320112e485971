"""A gradient shrinks or grows by every layer that it passes, unless a shortcut carries it.

    python examples/notes/vanishing_gradient.py vanishing_gradient.png

Stacks of 3x3 convolutions with random weights, nothing learnt yet: how much of the gradient at the output arrives at
each layer, by activation and initialisation, without shortcuts and with them (He et al. 2015, 1502.01852 and
1512.03385). A branch whose last factor starts at 0, as in our residual networks (1706.02677, section 5.1), hands
on exactly what comes in.
"""

import argparse
from pathlib import Path

import numpy as np
from keras import ops
from matplotlib.figure import Figure

from keras_cnn.insight.gradients import gradients

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--depth", type=int, default=30, help="convolutions")
given = parser.parse_args()

WIDTH, SIDE = 32, 12
FAN = 9 * WIDTH  # inputs of a weight's output, and outputs of its input
NETWORKS = {  # activation, variance of the weights, how much of a branch is added at the start
    "sigmoid, Glorot": (ops.sigmoid, 1 / FAN, 1),
    "relu, Glorot": (ops.relu, 1 / FAN, 1),
    "relu, He": (ops.relu, 2 / FAN, 1),
    "relu, He, branch starts at 0": (ops.relu, 2 / FAN, 0),
}


def arriving(activation, variance, gamma, shortcuts):
    """The norm of the loss's gradient by what enters each convolution, as a share of that at the output."""
    rng = np.random.default_rng(0)
    shape = (1, SIDE, SIDE, WIDTH)
    kernels = rng.normal(0, variance**0.5, (given.depth, 3, 3, WIDTH, WIDTH)).astype("float32")
    image, loss = (rng.normal(size=shape).astype("float32") for _ in range(2))

    def network(*offsets):
        """Zeros are added to what enters each layer: the gradient by them is the one that arrives there."""
        x = ops.convert_to_tensor(image)
        for kernel, offset in zip(kernels, offsets, strict=False):
            x = x + offset
            branch = activation(ops.conv(x, kernel, padding="same"))
            x = x + gamma * branch if shortcuts else branch
        return ops.sum((x + offsets[-1]) * loss)

    _, found = gradients(network, [np.zeros(shape, "float32")] * (given.depth + 1))
    norms = np.array([np.linalg.norm(one) for one in found])
    return norms / norms[-1]


plain = {name: arriving(*network, False) for name, network in NETWORKS.items() if network[2]}
residual = {name: arriving(*network, True) for name, network in NETWORKS.items()}
np.testing.assert_allclose(residual["relu, He, branch starts at 0"], 1, rtol=1e-5)  # the identity

figure = Figure(figsize=(11, 4.5), layout="constrained")
axes = figure.subplots(1, 2, sharey=True)
for axis, title, curves in zip(axes, ("x = f(x): plain", "x = x + f(x): residual"), (plain, residual), strict=True):
    for i, (name, shares) in enumerate(curves.items()):
        axis.semilogy(shares, f"C{i}", label=name, linestyle="--" if "starts" in name else "-")
    axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axis.set(title=title, xlabel="convolutions below (0: the image)")
    axis.legend()
axes[0].set_ylabel("gradient there / gradient at the output")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)


def told(curves):
    return "; ".join(f"{name} {shares[0]:.2g}" for name, shares in curves.items())


least = {name: np.exp(np.log(shares[0]) / given.depth) for name, shares in plain.items()}
print(
    f"Seen: of the gradient at the output there arrives at the image, through {given.depth} convolutions, plain: "
    f"{told(plain)} (a factor of {', '.join(f'{factor:.2f}' for factor in least.values())} a layer); with shortcuts: "
    f"{told(residual)}."
)
