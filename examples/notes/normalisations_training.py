"""Which normalisations let a network learn in small batches, and at which learning rates.

    python examples/notes/normalisations_training.py cifar10.zip normalisations_training.png

The zip or folder has train/CLASS/ with images such as CIFAR-10's. A small residual network learns from the same images
each time, by SGD with momentum whose rate grows with the batch (Goyal et al., 1706.02677, section 2.1), with each norm:
first in batches of 2, 4, 8 and 32 images, then in batches of 8 at other rates. Its accuracy on images that it has not
learnt from is drawn. Batch norm's statistics are noise in batches of 2, others do not see the batch (Wu & He,
1803.08494, section 4.1). Images are halved, to 16x16 pixels; about 10 minutes on 2 cores.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.models.families.resnet import CIFAR, ResNet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar", help="the images")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--images", type=int, default=4000, help="images that are learnt from, each of them once")
asked = parser.parse_args()

BATCHES, RATES, BATCH = (2, 4, 8, 32), (0.25, 1, 4, 16), 8
RATE = 0.05 / 32  # an image of a batch; the rates above are multiples of it
GROUPS = {"norm": "group:8"}
KINDS = {  # what is told to `build`, and how it is drawn
    "batch": ({"norm": "batch"}, "C0-o"),
    "layer": ({"norm": "layer"}, "C1-s"),
    "instance": ({"norm": "instance"}, "C2-^"),
    "group, 8 groups": (GROUPS, "C3-D"),
    "the same, kernels standardised": (GROUPS | {"weight_standardised": True}, "C4-*"),
    "none": ({"norm": "none"}, "k--x"),
}
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
data = kc.load_data(asked.cifar, kc.build("resnet20"), val_split=0, decode=("train",)).arrays("train")
chosen = np.random.default_rng(0).permutation(len(data.labels))
images = data.images[chosen].reshape(-1, 16, 2, 16, 2, 3).mean((2, 4), dtype="float32")
labels = data.labels[chosen]
(images, held), (labels, held_labels) = ((a[: asked.images], a[asked.images :][:2000]) for a in (images, labels))


def learner(options):
    """One network, and how it is brought back to where it started: compiling takes longer than a run."""
    keras.utils.set_random_seed(0)
    backbone = ResNet(depths=(1, 1, 1), **CIFAR | options)
    model = kc.build(backbone, input_shape=(16, 16, 3), classes=10, classifier_activation=None)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [keras.ops.convert_to_numpy(variable) for variable in variables]

    def accuracy(batch, rate):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        model.optimizer.learning_rate.assign(RATE * rate * batch)
        for i in range(0, len(images), batch):
            model.train_on_batch(images[i : i + batch], labels[i : i + batch])
        logits = model.predict(held, batch_size=500, verbose=0)
        return np.mean(logits.argmax(-1) == held_labels) if np.isfinite(logits).all() else float("nan")

    return accuracy


by_batch, by_rate = {}, {}
for kind, (options, _) in KINDS.items():
    accuracy = learner(options)
    by_batch[kind] = [accuracy(batch, 1) for batch in BATCHES]
    by_rate[kind] = [by_batch[kind][BATCHES.index(BATCH)] if rate == 1 else accuracy(BATCH, rate) for rate in RATES]
    told = [" ".join(f"{100 * a:.1f}" for a in found[kind]) for found in (by_batch, by_rate)]
    print(f"{kind}: batches of {BATCHES}: {told[0]} %; rates times {RATES}: {told[1]} %", flush=True)

figure = Figure(figsize=(12, 5), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
texts = {
    "images in a batch; the rate grows with them": (BATCHES, by_batch),
    f"learning rate, as a multiple; batches of {BATCH}": (RATES, by_rate),
}
for axis, (name, (places, found)) in zip(panels, texts.items(), strict=True):
    for kind, (_, style) in KINDS.items():
        shown = [0.1 if np.isnan(a) else a for a in found[kind]]
        axis.plot(places, 100 * np.array(shown), style, label=kind)
    axis.axhline(10, color="gray", linestyle=":", label="chance, or not a number")
    axis.set_xscale("log", base=2)
    axis.set(xlabel=name, xticks=places, xticklabels=[f"{n:g}" for n in places])
    axis.grid(alpha=0.3)
panels[0].set(ylabel="accuracy on other images (%)", ylim=(0, None))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", title="norm")
figure.suptitle(f"CIFAR-10, each of {len(images)} images seen once, {len(held)} others answered")
asked.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(asked.out, dpi=100)

lost = {kind: 100 * (found[-1] - found[0]) for kind, found in by_batch.items()}
told = "; ".join(f"{points:+.0f} with {kind}" for kind, points in lost.items() if np.isfinite(points))
print(f"Seen: from batches of {BATCHES[-1]} to batches of {BATCHES[0]} the accuracy falls by (points): {told}.")
