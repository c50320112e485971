"""What speaks for an answer is where the network looked, only if it changes once the network has forgotten.

    python examples/notes/saliency.py saliency.png

Draws by which parts of a photo a pretrained ResNet-18 came to its answer, by Grad-CAM, integrated gradients and
occlusion. Then the sanity check of Adebayo et al. 2018 (1810.03292, section 3.1): the weights are shuffled from the top
downwards, stage by stage, and after each the heat is compared with that of the network as it was, by rank correlation
over several photos. A method whose heat stayed would draw the photo, not the network.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.datasets import load_sample_images

import keras_cnn as kc
from keras_cnn import insight

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--photos", type=int, default=6, help="parts of photos over which likeness is averaged")
given = parser.parse_args()

SIDE, rng = 128, np.random.default_rng(0)
sources = load_sample_images().images  # a temple and a flower
corners = [(rng.integers(0, 427 - 2 * SIDE), rng.integers(0, 640 - 2 * SIDE)) for _ in range(given.photos)]
parts = [sources[i % 2][y : y + 2 * SIDE : 2, x : x + 2 * SIDE : 2] for i, (y, x) in enumerate(corners)]
photos = [sources[1][60 : 60 + 2 * SIDE : 2, 200 : 200 + 2 * SIDE : 2], *parts][: given.photos]  # the flower's heart

network = kc.build("resnet18.tiny_in200", input_shape=(SIDE, SIDE, 3))
[told] = kc.predictor(network)(photos[0], top=1)
answers = [int(row.argmax()) for row in network.predict(np.stack(photos), verbose=0)]
METHODS = {
    "Grad-CAM": insight.grad_cam,
    "integrated gradients": lambda *told: insight.integrated_gradients(*told, steps=16),
    "occlusion": lambda *told: insight.occlusion(*told, window=32, step=16),
}
CHECKED = ("Grad-CAM", "integrated gradients")  # occlusion takes as long as both together


def heats(method):
    return [METHODS[method](network, photo, answer) for photo, answer in zip(photos, answers, strict=True)]


def likeness(one, other):
    """Mean rank correlation of heats; where a heat is flat, there is none."""
    pairs = zip(one, other, strict=True)
    return float(np.mean([0.0 if not np.ptp(b) else spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]))


first = {method: heats(method) for method in CHECKED}
shown = {method: first[method][0] if method in first else heats(method)[0] for method in METHODS}
stages = list(kc.stages(network))[::-1]  # the head first
alike = {method: [1.0] for method in CHECKED}
after = [first["Grad-CAM"][0]]
for stage in stages:
    for layer in kc.stages(network)[stage]:
        shuffled = [rng.permutation(w.ravel()).reshape(w.shape) for w in layer.get_weights()]
        layer.set_weights(shuffled)
    for method in CHECKED:
        found = heats(method)
        alike[method].append(likeness(first[method], found))
        after += [found[0]] if method == "Grad-CAM" else []


def overlay(axis, heat, title):
    """Red speaks for the answer, blue against it."""
    most = np.quantile(np.abs(heat), 0.99) or 1.0
    axis.imshow(photos[0].mean(-1), cmap="gray", vmin=0, vmax=255)
    axis.imshow(heat / most, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.55)
    axis.set_title(title, fontsize="medium")


titles = ["as it was", *(f"and {stage}" if i else f"{stage} shuffled" for i, stage in enumerate(stages))]
figure = Figure(figsize=(2 * len(titles), 7.5), layout="constrained")
top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.15, 1, 1.3))
top.suptitle(f"What speaks for the answer {told.top[0].description!r} (red), and against it (blue)")
axes = top.subplots(1, 1 + len(shown))
axes[0].imshow(photos[0])
axes[0].set_title("the photo", fontsize="medium")
for axis, (method, heat) in zip(axes[1:], shown.items(), strict=True):
    overlay(axis, heat, method)
middle.suptitle("Grad-CAM as the network forgets, from the top downwards")
strip = middle.subplots(1, len(after))
for axis, heat, title in zip(strip, after, titles, strict=True):
    overlay(axis, heat, title)
for axis in (*axes, *strip):
    axis.set_axis_off()
curves = bottom.subplots()
for method, values in alike.items():
    curves.plot(titles, values, "o-", label=method)
curves.axhline(0, color="black", linewidth=0.8)
curves.set(ylabel="rank correlation\nwith the heat as it was", ylim=(-0.4, 1.05))
curves.legend()
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=80)

ends = "; ".join(f"{method} {values[1]:.2f} and {values[-1]:.2f}" for method, values in alike.items())
print(
    f"Seen: over {len(photos)} photos the rank correlation with the heat of the network as it was is, after the head "
    f"was shuffled and after all was: {ends}. Heat that stayed at 1 would say nothing of the network."
)
