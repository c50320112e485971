"""A U-Net's skips carry past the bottleneck what pooling would lose: residual learning by concatenation.

    python examples/notes/unet_skips.py unet_skips.png

Draws discs and thin rings, and teaches three networks to mark them, alike but for the skips: none, summed, and
concatenated as in the paper (Ronneberger et al. 2015, 1505.04597, section 2). Where a thing is thinner than the
stride of the deepest map, only the skips know its place. Also names the map that each stage of the decoder joins.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--images", type=int, default=128, help="to learn from")
parser.add_argument("--epochs", type=int, default=8)
given = parser.parse_args()

SIDE, NAMES = 32, ("ground", "disc", "ring")
WAYS = {"none": None, "sum": "add", "concatenation": "concat"}
BACKBONE = {"depths": (1,) * 4, "widths": (16, 24, 32, 48), "strides": (1, 2, 2, 2)}


def drawn(count, seed):
    """Noisy pictures of discs and of rings two pixels thin, in random gray, and their masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    images, masks = np.empty((count, SIDE, SIDE, 3), "uint8"), np.zeros((count, SIDE, SIDE), "uint8")
    for image, mask in zip(images, masks, strict=True):
        for kind in rng.integers(1, 3, size=5):
            radius, (y, x) = rng.uniform(3, 7), rng.uniform(4, SIDE - 4, 2)
            distance = np.hypot(rows - y, columns - x)
            if mask[distance < radius + 2].any():
                continue  # nothing lies on another
            mask[(distance < radius) if kind == 1 else abs(distance - radius) < 1] = kind
        shades = np.array([rng.uniform(20, 90), *rng.uniform(140, 230, 2)])
        image[:] = np.clip(shades[mask][..., None] + rng.normal(0, 15, (SIDE, SIDE, 1)), 0, 255)
    return images, masks


train, val = drawn(given.images, 0), drawn(64, 1)
results, networks = {}, {}
for name, skip in WAYS.items():
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", head=kc.UNet(classes=NAMES, skip=skip), input_shape=(SIDE, SIDE, 3), **BACKBONE)
    steps = {"schedule": "all", "epochs": given.epochs, "batch_size": 16, "learning_rate": 4e-3, "probe": False}
    kc.fine_tune(model, *train, validation_data=val, cache=False, verbose=0, **steps)
    networks[name], results[name] = model, kc.evaluate(model, val)
answers = {name: model.predict(val[0], verbose=0).argmax(-1) for name, model in networks.items()}


def iou(answer, kind):
    """Intersection over union of a class over all pixels."""
    found, true = answer == kind, val[1] == kind
    return (found & true).sum() / max((found | true).sum(), 1)


scores = {name: [iou(answer, kind) for kind in range(3)] for name, answer in answers.items()}
for name in WAYS:
    np.testing.assert_allclose(np.mean(scores[name]), results[name].metrics["miou"], atol=1e-4)
joined = {}  # decoder stage: the backbone's layer whose map it concatenates
for layer in networks["concatenation"].layers:
    if layer.name.startswith("decoder") and isinstance(layer, keras.layers.Concatenate):
        below, skipped = layer.input
        height, width, channels = skipped.shape[1:]
        stage = skipped._keras_history.operation.name.split("_")[0]
        joined[layer.name.split("_")[0]] = f"{stage} {height}x{width}x{channels}"

figure = Figure(figsize=(14, 6.5), layout="constrained")
grid = figure.add_gridspec(3, 6, width_ratios=(1, 1, 1, 1, 1, 2.2))
colours = np.array([(0.92, 0.92, 0.92), (0.12, 0.47, 0.71), (1.0, 0.5, 0.05)])
for row in range(3):
    shown = {"image": val[0][row], "truth": colours[val[1][row]]}
    shown |= {f"skips: {name}": colours[answer[row]] for name, answer in answers.items()}
    for column, (title, picture) in enumerate(shown.items()):
        axis = figure.add_subplot(grid[row, column])
        axis.imshow(picture)
        axis.set_axis_off()
        axis.set_title(title if row == 0 else "")
bars = figure.add_subplot(grid[:, 5])
for i, (name, values) in enumerate(scores.items()):
    drawn_bars = bars.bar(np.arange(3) + 0.27 * (i - 1), values, 0.27, color=["0.6", "C2", "C4"][i], label=name)
    bars.bar_label(drawn_bars, fmt="{:.2f}", fontsize="small")
bars.set(
    title="64 other drawings", xticks=range(3), xticklabels=NAMES, ylabel="intersection over union", ylim=(0, 1.15)
)
bars.legend(title="skips", loc="upper right", ncols=3)
told = ", ".join(f"{decoder} joins {what}" for decoder, what in joined.items())
figure.supxlabel(f"concatenated: {told}", fontsize="medium")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

by_skips = "; ".join(f"{name} {values[1]:.2f} and {values[2]:.2f}" for name, values in scores.items())
print(
    f"Seen: the deepest map has a stride of {np.prod(BACKBONE['strides'])}. Intersection over union of discs and of "
    f"rings, by skips: {by_skips}. Concatenated, {told}."
)
