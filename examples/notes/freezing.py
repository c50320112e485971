"""Freezing keeps what a network knows: frozen stages do not learn, cost less, and their batch norm does not move.

    python examples/notes/freezing.py path/to/photos freezing.png

Photos lie in one folder a class; without DATA these are scikit-learn's digits. A pretrained network gets a new head and
is frozen up to a stage, for several stages: how much of it still learns (`kc.trainable_table`), what a step takes of
the processor, how far its weights and the statistics of its batch norms have moved, stage by stage, and how well it
does in the end.
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
parser.add_argument("--upto", nargs="+", default=["none", "stage2", "stage3", "stage4"], help="last frozen stages")
parser.add_argument("--images", type=int, default=20, help="of each class, to learn from")
parser.add_argument("--steps", type=int, default=20)
given = parser.parse_args()

WEIGHTS = "resnet18.tiny_in200"
data = kc.load_data(given.data, kc.build(WEIGHTS)).subset(given.images)
train = data.arrays("train")
some = np.random.default_rng(0).permutation(data.sizes["val"])[:200]
images, labels = data.arrays("val").images[some], data.arrays("val").labels[some]


def values(model, statistics):
    """All weights of each stage in one vector: those that are learnt, or the statistics of batch norm."""
    found = {}
    for name, layers in kc.stages(model).items():
        kept = [v for layer in layers for v in layer.weights if v.name.startswith("moving") == statistics]
        found[name] = np.concatenate([keras.ops.convert_to_numpy(v.value).ravel() for v in kept] or [np.zeros(1)])
    return found


def moved(before, after):
    """How far, as a share of what it was."""
    return {name: np.linalg.norm(after[name] - x) / max(np.linalg.norm(x), 1e-9) for name, x in before.items()}


rows = {}
for upto in given.upto:
    keras.utils.set_random_seed(0)
    model = kc.build(WEIGHTS, classes=data.class_names, freeze=None if upto == "none" else upto)
    table = kc.trainable_table(model)
    model.compile(keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    before, seconds = [values(model, statistics) for statistics in (False, True)], []
    draws = np.random.default_rng(0)
    for _ in range(given.steps):
        batch = draws.choice(len(train.labels), 25)
        start = time.process_time()
        model.train_on_batch(train.images[batch], train.labels[batch])
        seconds.append(time.process_time() - start)
    weights, statistics = (moved(b, values(model, kind)) for b, kind in zip(before, (False, True), strict=True))
    frozen = [] if upto == "none" else list(weights)[: list(weights).index(upto) + 1]
    assert all(weights[stage] == statistics[stage] == 0 for stage in frozen), "a frozen stage has moved"
    accuracy = model.evaluate(images, labels, verbose=0)[1]
    rows[upto] = (table.total.trainable, np.median(seconds[1:]), accuracy, weights, statistics)

names = [f"up to\n{upto}" if upto != "none" else "nothing" for upto in rows]
learning, seconds, accuracies, weights, statistics = zip(*rows.values(), strict=True)
stages = list(weights[0])
figure = Figure(figsize=(14, 7.5), layout="constrained")
grid = figure.add_gridspec(2, 6)
panels = {  # title: a figure for each row, and how it is written
    "weights that learn, millions": ([n / 1e6 for n in learning], "{:.2g}"),
    "a step, milliseconds of the processor": ([1000 * t for t in seconds], "{:.0f}"),
    f"right after {given.steps} steps": (accuracies, "{:.0%}"),
}
for i, (title, (figures, form)) in enumerate(panels.items()):
    axis = figure.add_subplot(grid[0, 2 * i : 2 * i + 2])
    axis.bar_label(axis.bar(names, figures, color=["C0", "C1", "C2"][i]), fmt=form)
    axis.set(title=title, xlabel="frozen")
    axis.margins(y=0.12)
for i, (title, shares) in enumerate({"weights": weights, "statistics of batch norm": statistics}.items()):
    axis = figure.add_subplot(grid[1, 3 * i : 3 * i + 3])
    for j, name in enumerate(rows):
        heights = [shares[j][stage] for stage in stages[:-1]]
        axis.bar(np.arange(len(heights)) + 0.8 * (j + 0.5) / len(rows) - 0.4, heights, 0.8 / len(rows), label=name)
    axis.set(title=f"how far {title} moved (none: frozen)", xticks=range(len(stages) - 1), xticklabels=stages[:-1])
    axis.set_ylabel("change / size before")
    axis.legend(title="frozen up to", loc="upper left")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

print(
    "Seen: "
    + "; ".join(
        f"frozen up to {name}: {count:,} weights learn, a step costs {1000 * t:.0f} ms, {share:.0%} right"
        for name, (count, t, share, *_) in rows.items()
    )
    + ". No weight and no statistic of a frozen stage has moved; of those that learn, statistics moved by up to "
    f"{max(max(share.values()) for share in statistics):.0%}."
)
