"""An Inception module looks at the same map through several windows at once, and factorises the large ones.

    python examples/notes/inception_module.py inception_module.png

Takes a module out of `inception_v3` (Szegedy et al. 2015, 1512.00567, figure 6): what each of its parallel branches
sees and costs, and what it would cost with whole 7x7 windows in place of 1x7 and 7x1. Shows what the saving takes
away: with nothing between, the two are one 7x7 kernel of rank 1 (for each pair of channels and inner channel).
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.insight import receptive_field
from keras_cnn.models import shapes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--block", default="stage3_block4", help="a module of inception_v3 without stride")
given = parser.parse_args()

network = kc.build("inception_v3")
join = network.get_layer(f"{given.block}_concat")
entering = network.get_layer(f"{given.block}_branch1_conv1").input
module = keras.Model(entering, join.output)
fields = receptive_field(module)
rows = [row for stage in kc.profile(module).values() for row in stage if row.macs and "kernel" in row.variables]
branches = {}
for row in sorted(rows, key=lambda row: row.layer):
    branches.setdefault(row.layer.split("_")[2], []).append(row)
ends = [tensor._keras_history.operation.name for tensor in join.input]
assert [end.split("_")[2] for end in ends] == list(branches)
assert len({tensor.shape[1:3] for tensor in join.input}) == 1  # one height and width: they can be concatenated
assert sum(tensor.shape[-1] for tensor in join.input) == join.output.shape[-1]


def cost(*windows, channels, side):
    """Parameters and multiply-accumulates of convolutions in a row, counted by kc.profile."""
    image = x = keras.Input((side, side, channels))
    for window in windows:
        x = keras.layers.Conv2D(channels, window, padding="same", use_bias=False)(x)
    counted = [row for stage in kc.profile(keras.Model(image, x)).values() for row in stage]
    return shapes.parameters(counted), shapes.macs(counted)


side, channels = entering.shape[1], rows[0].variables["kernel"][2]
windows = {
    "7x7": [(7, 7)],
    "1x7, 7x1": [(1, 7), (7, 1)],
    "5x5": [(5, 5)],
    "3x3, 3x3": [(3, 3), (3, 3)],
    "3x3": [(3, 3)],
    "1x3, 3x1": [(1, 3), (3, 1)],
}
costs = {name: cost(*some, channels=192, side=side)[1] for name, some in windows.items()}

# Two factors with nothing between, of one channel: their outer product, a 7x7 kernel of rank 1.
rng = np.random.default_rng(0)
image = rng.normal(size=(1, 20, 20, 1)).astype("float32")
across, down = rng.normal(size=(2, 7)).astype("float32")
whole = np.outer(down, across)
two = keras.ops.conv(keras.ops.conv(image, across.reshape(1, 7, 1, 1)), down.reshape(7, 1, 1, 1))
one = keras.ops.conv(image, whole.reshape(7, 7, 1, 1))
np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (two, one)), atol=1e-4)
rank = np.linalg.matrix_rank(whole)

figure = Figure(figsize=(15, 6.5), layout="constrained")
scheme, bars = figure.subplots(1, 2, width_ratios=(1.7, 1))
box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
heaviest = max(row.macs for row in rows)
height = max(map(len, branches.values())) + 1
for x, (name, convolutions) in enumerate(branches.items()):
    pool = [layer.name for layer in module.layers if f"{name}_pool" in layer.name]
    steps = [("average pool\n3x3", 0)] * len(pool)
    for row in convolutions:
        window = "x".join(map(str, row.variables["kernel"][:2]))
        steps.append((f"{window} to {row.output[-1]}\n{row.macs / 1e6:.0f} M", row.macs))
    scheme.plot([1.5, x, x, 1.5], [-1, 0, height - 1, height], color="0.7", zorder=0)
    for y, (label, macs) in enumerate(steps):
        colour = (1, 1 - 0.5 * macs / heaviest, 1 - 0.8 * macs / heaviest)
        scheme.text(x, y, label, ha="center", va="center", bbox=box | {"facecolor": colour})
    sees = "x".join(str(n) for n in fields[ends[x]].size)
    scheme.text(x, height - 0.8, f"sees {sees}", ha="center", va="center", weight="bold", backgroundcolor="white")
scheme.text(1.5, -1, f"map {side}x{side}x{channels}", ha="center", va="center", bbox=box)
scheme.text(1.5, height, f"concatenated: {side}x{side}x{join.output.shape[-1]}", ha="center", va="center", bbox=box)
scheme.set(xlim=(-0.6, 3.6), ylim=(-1.5, height + 0.5), title=f"{given.block} of inception_v3 (M: million products)")
scheme.axis("off")
drawn = bars.barh(list(costs), [macs / 1e6 for macs in costs.values()], color=["0.6", "C0"] * 3)
bars.bar_label(drawn, fmt=" {:.0f}")
bars.invert_yaxis()
bars.set(title=f"one window or its factors: {side}x{side}, 192 channels to 192", xlabel="million multiplications")
bars.margins(x=0.12)
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

seen = ", ".join("x".join(map(str, fields[end].size)) for end in ends)
pairs = zip(list(costs)[::2], list(costs)[1::2], strict=True)
ratios = ", ".join(f"{factors} {costs[factors] / costs[wide]:.3f} of {wide}" for wide, factors in pairs)
print(
    f"Seen: {len(branches)} branches look at one map through {seen} positions and give "
    f"{' + '.join(str(tensor.shape[-1]) for tensor in join.input)} = {join.output.shape[-1]} channels. "
    f"Multiplications, counted: {ratios}. The price: 1x7 behind 7x1 is a 7x7 kernel of rank {rank}, not 7."
)
