"""How a block's input joins its output: a sum, or at the same cost a concatenation (ResNet, or DenseNet, 1608.06993).

    python examples/notes/sum_or_concatenation.py cifar10.zip sum_or_concatenation.png

The zip or folder has train/CLASS/ with images such as CIFAR-10's. A concatenation needs a 1x1 convolution back to the
width, which costs multiply-accumulates: its network is as much narrower as makes it as dear. That convolution starts as
the sum, so that both start alike but for the width. Trains each from several seeds, and draws the loss. About 3 minutes
on 2 cores.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.models.shapes import macs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar", help="the images")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--steps", type=int, default=200, help="batches of 64 that each network learns from")
parser.add_argument("--width", type=int, default=16, help="channels of the first stage of the network with sums")
parser.add_argument("--seeds", type=int, default=2)
asked = parser.parse_args()

data = kc.load_data(asked.cifar, kc.build("resnet20"), val_split=0, decode=("train",)).arrays("train")
images, labels = data.images.astype("float32"), data.labels


def network(merge, width, seed=0):
    keras.utils.set_random_seed(seed)
    return kc.build("resnet20", widths=(width, 2 * width, 4 * width), merge=merge, classifier_activation=None)


def cost(merge, width):
    return macs(row for rows in kc.profile(network(merge, width)).values() for row in rows)


def losses(model, seed):
    """Of each batch, before its step."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, asked.steps, warmup_target=0.05, warmup_steps=asked.steps // 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, 0.9), loss, jit_compile=False)
    for some in np.random.default_rng(seed).integers(len(images), size=(asked.steps, 64)):
        model.reset_metrics()
        yield float(model.train_on_batch(images[some], labels[some]))


goal = cost("add", asked.width)
narrower = min(range(max(1, asked.width - 2), asked.width + 1), key=lambda width: abs(cost("concat", width) - goal))
widths = {"add": asked.width, "concat": narrower}
costs = {merge: cost(merge, width) for merge, width in widths.items()}
runs = {
    merge: [list(losses(network(merge, width, seed), seed)) for seed in range(asked.seeds)]
    for merge, width in widths.items()
}

figure = Figure(figsize=(8, 5), layout="constrained")
axis = figure.subplots()
window = max(1, asked.steps // 10)
for (merge, found), colour in zip(runs.items(), ("tab:blue", "tab:orange"), strict=True):
    for seed, values in enumerate(found):
        label = f"{merge}, width {widths[merge]}: {costs[merge] / 1e6:.1f} million multiply-accumulates"
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(smooth, color=colour, label=None if seed else label)
axis.set(title="residual network of 20 layers, a line a seed", xlabel="step", ylabel=f"loss, mean of {window} steps")
axis.grid(alpha=0.3)
axis.legend()
asked.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(asked.out, dpi=100)

ends = {merge: [np.mean(values[-max(1, asked.steps // 6) :]) for values in found] for merge, found in runs.items()}
told = " and ".join(f"{merge} {' '.join(f'{end:.2f}' for end in each)}" for merge, each in ends.items())
print(
    f"Seen: at a cost that differs by {abs(costs['concat'] / costs['add'] - 1):.1%}, the loss of each seed after "
    f"{asked.steps} steps: {told}."
)
