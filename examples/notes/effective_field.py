"""What a layer could see, and what matters to it: the effective receptive field is the smaller (Luo, 1701.04128).

    python examples/notes/effective_field.py effective_field.png

Draws how much each pixel matters to one position of three layers of a ResNet-18, in the box of what they could see:
with the weights of He's initialisation, and with those that learnt from Tiny ImageNet. Then how both grow with depth.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--side", type=int, default=224, help="of the noise that the network is shown, in pixels")
asked = parser.parse_args()

BLOCKS = [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2)]
DRAWN = ("stage1_block2", "stage2_block2", "stage3_block2")
shape = (asked.side, asked.side, 3)
keras.utils.set_random_seed(0)
learnt, random = kc.build("resnet18.tiny_in200", input_shape=shape), kc.build("resnet18", input_shape=shape)
for layer in random.layers:  # `build` starts residual branches at 0; here they start as any other layer
    if getattr(layer, "gamma", None) is not None:
        layer.gamma.assign(np.ones(layer.gamma.shape))

boxes = kc.insight.receptive_field(learnt)
theory = {block: boxes[f"{block}_act"] for block in BLOCKS}
fields = {
    name: {block: kc.insight.effective_field(model, f"{block}_act") for block in BLOCKS}
    for name, model in (("random weights", random), ("learnt weights", learnt))
}


def draw(axis, block, field):
    """The field around its position, as dark as it matters, and the box that the network's graph allows."""
    box = theory[block]
    left, top = (s + p * j - 0.5 for s, p, j in zip(box.start, field.position, box.jump, strict=True))
    axis.imshow(field.map, cmap="magma_r", vmin=0, vmax=1)
    axis.add_patch(Rectangle((top, left), box.size[1], box.size[0], fill=False, edgecolor="tab:blue", linewidth=1.5))
    axis.contour(field.map > 1 - 0.9545, levels=[0.5], colors="tab:green", linewidths=0.8)
    axis.set(xticks=[], yticks=[], title=f"{block}: {field.size:.0f} of {box.size[0]}")


figure = Figure(figsize=(15, 7.5), layout="constrained")
maps, lines = figure.subfigures(1, 2, width_ratios=(2, 1))
for row, (name, found) in zip(maps.subplots(2, len(DRAWN)), fields.items(), strict=True):
    for axis, block in zip(row, DRAWN, strict=True):
        draw(axis, block, found[block])
    row[0].set_ylabel(name, fontsize="large")
maps.suptitle("blue: what it could see; the darker, the more a pixel matters; green: above 4.55 % of the largest")
axis = lines.subplots()
axis.plot(BLOCKS, [theory[block].size[0] for block in BLOCKS], "o-", color="tab:blue", label="theoretical")
for (name, found), style in zip(fields.items(), ("o--", "o-"), strict=True):
    axis.plot(BLOCKS, [found[block].size for block in BLOCKS], style, color="tab:green", label=f"effective, {name}")
axis.set(ylabel="side of the field, pixels", ylim=(0, None), title="size by depth")
axis.tick_params(axis="x", rotation=40)
axis.grid(alpha=0.3)
axis.legend()
asked.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(asked.out, dpi=90)

first, last = BLOCKS[0], BLOCKS[-1]
told = "; ".join(
    f"with {name} {found[first].size:.0f} of {theory[first].size[0]} pixels at {first}, "
    f"{found[last].size:.0f} of {theory[last].size[0]} at {last}"
    for name, found in fields.items()
)
print(f"Seen: the effective field is a part of the theoretical one: {told}.")
