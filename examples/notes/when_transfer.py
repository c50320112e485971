"""Transfer pays where there are few images, and the less, the more of them there are.

    python examples/notes/when_transfer.py path/to/photos when_transfer.png

Photos lie in one folder a class; without DATA these are scikit-learn's digits. For several sizes of the training set:
a linear head on pretrained features (`kc.probe`), the same on features of random weights, and a small network that
learns everything from random weights. What it costs is beside it. `examples/what_to_expect.py` compares fine-tuning too,
with repetitions.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="digits", help="photos, one folder a class")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--sizes", type=int, nargs="+", default=[2, 5, 20, 80], help="training images of each class")
parser.add_argument("--steps", type=int, default=120, help="of learning from random weights, in batches of 32")
given = parser.parse_args()

pretrained = kc.build("resnet18.tiny_in200")
alike = {"input_shape": pretrained.input_shape[1:], "preprocess": kc.Preprocess.of(pretrained)}
keras.utils.set_random_seed(0)
untrained = kc.build("resnet18", classes=2, **alike)
data = kc.load_data(given.data, pretrained)
chance = max(data.counts["val"].values()) / data.sizes["val"]


def learnt(part):
    """The best validation accuracy of a CIFAR net from random weights, as `kc.train` has it."""
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", classes=data.class_names, **SMALL)
    images, labels = (part.arrays("train").images, part.arrays("train").labels)
    epochs = max(given.steps * 32 // len(labels), 1)
    history = kc.train(
        model, images, labels, validation_data=held_out, epochs=epochs, batch_size=32, learning_rate=0.05, verbose=0
    )
    return max(history.history["val_accuracy"])
