"""A temporal convolutional network sees the past alone, and doubling dilations let it see far with few layers.

    python examples/notes/tcn.py tcn.png

Changes one step of a sequence and looks which outputs change (Bai et al. 2018, 1803.01271, section 3): causal and
centred windows, and how far they see: 1 + 2 (kernel - 1) (sum of the dilations), by formula, by a walk through the
graph, and by what really changes. Draws the steps on which one output depends, layer by layer.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
out = parser.parse_args().out

STEPS, KERNEL, DILATIONS = 128, 3, (1, 2, 4, 8)
ROUNDING = 1e-5  # changes that float32 makes by itself, on some backends
middle = STEPS // 2


def network(causal):
    """A score for every step, random weights."""
    numbers = {"widths": (16,), "kernel": KERNEL, "dilations": DILATIONS, "causal": causal}
    head = kc.SequenceHead(classes=2, task="segmentation", activation=None)
    return kc.build("tcn", input_shape=(STEPS, 1), head=head, **numbers)


def influence(model):
    """How much each output (row) changes with each step of the input (column): the most of four random sequences."""
    sequences = np.random.default_rng(0).normal(size=(4, 1, STEPS, 1))
    moved = sequences + 3 * np.eye(STEPS)[:, :, None]
    before = model.predict(sequences[:, 0], verbose=0)[:, None]
    after = model.predict(moved.reshape(-1, STEPS, 1), verbose=0).reshape(4, STEPS, STEPS, -1)
    return abs(after - before).max((0, 3)).T


def span(row):
    """The steps on which an output depends, relative to its own."""
    found = np.flatnonzero(row > ROUNDING) - middle
    return found.min(), found.max()


models = {"causal": network(True), "centred": network(False)}
changes = {name: influence(model) for name, model in models.items()}
spans = {name: span(rows[middle]) for name, rows in changes.items()}
formula = 1 + 2 * (KERNEL - 1) * sum(DILATIONS)
walked = {name: kc.insight.receptive_field(model)["head_logits"].size[0] for name, model in models.items()}
leaks = np.triu(changes["causal"], 1).max()  # outputs before the step that changes
assert leaks < ROUNDING, "an output depends on a later step"
for name, (first, last) in spans.items():
    assert formula == walked[name] == last - first + 1, (name, formula, walked[name], first, last)

figure = Figure(figsize=(15, 4.8), layout="constrained")
tree, *maps = figure.subplots(1, 3, width_ratios=(2, 1, 1))
levels = [dilation for dilation in DILATIONS for _ in range(2)]  # two convolutions a block
seeing = {0}
for level, dilation in reversed(list(enumerate(levels))):
    taps = [(step, step - k * dilation) for step in sorted(seeing) for k in range(KERNEL)]
    for above, below in taps:
        tree.plot([above, below], [level + 1, level], color=f"C{level // 2}", linewidth=0.6)
    tree.plot(sorted(seeing), [level + 1] * len(seeing), "o", color="black", markersize=3)
    seeing = {below for _, below in taps}
tree.plot(sorted(seeing), [0] * len(seeing), "o", color="black", markersize=3)
tree.set(title=f"the {len(seeing)} steps that the output of step 0 sees", xlabel="step", yticks=range(len(levels) + 1))
tree.set_yticklabels(["input", *(f"block {i // 2 + 1}, dilation {d}" for i, d in enumerate(levels))])
for axis, (name, rows) in zip(maps, changes.items(), strict=True):
    shown = np.where(rows > ROUNDING, np.log10(np.maximum(rows, ROUNDING)), np.nan)
    image = axis.imshow(shown, vmin=-3, vmax=1, cmap="viridis")
    axis.set(title=f"{name}: output {middle} sees\nsteps {spans[name][0]:+d} to {spans[name][1]:+d}", facecolor="0.93")
    axis.set(xlabel="input step that is changed", ylabel="output step")
    axis.axhline(middle, color="red", linewidth=0.8)
figure.colorbar(image, ax=maps, label="change of the output, powers of 10", shrink=0.8)
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=100)

print(
    f"Seen: {len(levels)} convolutions of {KERNEL} steps with dilations {DILATIONS} see {formula} steps by formula, "
    f"{walked['causal']} by the graph, and {-spans['causal'][0]} steps back by changing the input; without dilation "
    f"it would be {1 + len(levels) * (KERNEL - 1)}. No output changes before its cause (largest change {leaks:.0e}); "
    f"centred windows also see {spans['centred'][1]} steps ahead."
)
