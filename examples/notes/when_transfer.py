"""Transfer saves images: pretrained features do with few of them what learning from random weights takes many for.

    python examples/notes/when_transfer.py path/to/photos when_transfer.png

Photos lie in one folder a class; without DATA these are scikit-learn's digits. For several sizes of the training set:
a linear head on pretrained features, the same on features of random weights (`kc.probe`), and a small network that
learns everything from random weights (`kc.train`), at least 15 times from each image. `examples/what_to_expect.py`
compares fine-tuning of one and the same network, with repetitions.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="digits", help="photos, one folder a class")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--sizes", type=int, nargs="+", default=[2, 8, 32, 128], help="training images of each class")
parser.add_argument(
    "--steps", type=int, default=150, help="of learning from random weights, at least; in batches of 32"
)
given = parser.parse_args()

pretrained = kc.build("resnet18.tiny_in200")
keras.utils.set_random_seed(0)
untrained = kc.build("resnet18", input_shape=pretrained.input_shape[1:], preprocess=kc.Preprocess.of(pretrained))
SMALL = {"depths": (1, 1, 1), "input_shape": (32, 32, 3)}  # ResNet-8
data = kc.load_data(given.data, pretrained)
coarse = kc.load_data(given.data, kc.build("resnet20", **SMALL))
chance = max(data.counts["val"].values()) / data.sizes["val"]


def learnt(part):
    """The best validation accuracy of a small network from random weights."""
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", classes=part.class_names, **SMALL)
    (x, y), val = ((part.arrays(split).images, part.arrays(split).labels) for split in ("train", "val"))
    drawn = np.random.default_rng(0).integers(len(y), size=max(32 * given.steps // 5, 3 * len(y)))  # few ones often
    options = {"epochs": 5, "batch_size": 32, "learning_rate": 0.05, "validation_data": val}
    return max(kc.train(model, x[drawn], y[drawn], verbose=0, **options).history["val_accuracy"])


curves = {"pretrained features, linear head": [], "random features, linear head": [], "all from random weights": []}
ready, random, scratch = curves.values()
sizes = [size for size in sorted(given.sizes) if size <= min(data.counts["train"].values())]
with tempfile.TemporaryDirectory() as cache:  # features of validation images are computed once
    for size in sizes:
        ready.append(kc.probe(pretrained, data.subset(size), cache=cache).linear)
        random.append(kc.probe(untrained, data.subset(size), cache=cache).linear)
        scratch.append(learnt(coarse.subset(size)))

figure = Figure(figsize=(7.5, 5), layout="constrained")
axis = figure.subplots()
for (name, values), style in zip(curves.items(), ("o-", "s:", "^--"), strict=True):
    axis.plot(sizes, values, style, label=name)
axis.axhline(chance, color="0.6", linewidth=0.8, label="always the commonest class")
axis.set_xscale("log")
axis.set(xticks=sizes, xticklabels=sizes, ylim=(0, 1), xlabel="training images of each class")
axis.minorticks_off()
axis.set(ylabel="validation accuracy", title=f"{data.sizes['val']} images of {len(data.class_names)} classes")
axis.legend()
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)


def worth(accuracy):
    """How many images a class the network that learns from random weights takes for it."""
    enough = [size for size, value in zip(sizes, scratch, strict=True) if value >= accuracy]
    return f"{enough[0]}" if enough else f"more than {sizes[-1]}"


print(
    "Seen: a linear head on pretrained features names "
    + ", ".join(
        f"{value:.0%} right with {size} images a class (for which random weights take {worth(value)})"
        for size, value in zip(sizes, ready, strict=True)
    )
    + f". All from random weights: {', '.join(f'{value:.0%}' for value in scratch)}; a linear head on random features: "
    f"{', '.join(f'{value:.0%}' for value in random)}."
)
