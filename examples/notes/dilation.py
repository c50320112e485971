"""Dilation sees as far as a stride and keeps every position, with the same weights; equal dilations leave a grid.

    python examples/notes/dilation.py dilation.png

Draws which inputs three 3x3 convolutions see, and by how many paths: plain, dilated alike, by 1, 2, 4, and strided.
Then a pretrained ResNet-18 on a photo at output strides 32, 16 and 8, as segmentation wants it (DeepLab, 1606.00915,
section 3.1): the same features wherever the grids coincide, and more of them between.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--side", type=int, default=256, help="of the photo, in pixels; a multiple of 32")
asked = parser.parse_args()

STACKS = {  # (stride, dilation) of each convolution
    "plain": [(1, 1)] * 3,
    "dilated by 2, 2, 2: a grid": [(1, 2)] * 3,
    "dilated by 1, 2, 4": [(1, 1), (1, 2), (1, 4)],
    "strides of 2, 2, 2": [(2, 1)] * 3,
}
SIDE = 31


def stack(steps):
    """3x3 convolutions whose weights are all 1, so that a gradient counts paths."""
    x = image = keras.Input((SIDE, SIDE, 1))
    for i, (stride, dilation) in enumerate(steps, 1):
        options = {"strides": stride, "dilation_rate": dilation, "use_bias": False, "kernel_initializer": "ones"}
        x = keras.layers.Conv2D(1, 3, padding="same", name=f"conv{i}", **options)(x)
    return keras.Model(image, x)


seen = {}
for name, steps in STACKS.items():
    model = stack(steps)
    seen[name] = (kc.insight.receptive_field(model)["conv3"], kc.insight.effective_field(model, "conv3").map)
for dilation in (1, 2, 4):  # the effective kernel: k + (k - 1)(d - 1)
    told = kc.insight.receptive_field(stack([(1, dilation)]))["conv1"]
    assert told.size == (3 + 2 * (dilation - 1),) * 2

photo = Image.fromarray(load_sample_image("china.jpg")).crop((100, 0, 527, 427)).resize((asked.side,) * 2)
pixels = np.asarray(photo, "float32")[None]
maps = {}
for stride in (32, 16, 8):
    net = kc.build(
        "resnet18.tiny_in200", input_shape=pixels.shape[1:], head=kc.Head(classes=0, pooling=None), output_stride=stride
    )
    maps[stride] = keras.ops.convert_to_numpy(net(pixels, training=False))[0]
coarse = maps[32]
differences = {s: abs(maps[s][:: 32 // s, :: 32 // s] - coarse).max() / abs(coarse).max() for s in (16, 8)}
channel = coarse.std((0, 1)).argmax()

figure = Figure(figsize=(14, 7.6), layout="constrained")
above, below = figure.subplots(2, 4)
for axis, (name, (field, paths)) in zip(above, seen.items(), strict=True):
    axis.imshow(np.where(paths > 0, paths, np.nan), cmap="viridis_r", vmin=0, vmax=1)
    inputs = (paths > 0).sum()
    axis.set(title=f"{name}\n{inputs} inputs in {field.size[0]}x{field.size[1]}, an output every {field.jump[0]}")
    axis.set(xticks=[], yticks=[], facecolor="0.93")
above[0].set_ylabel("inputs that one output sees;\nthe darker, the more paths")
below[0].imshow(photo)
below[0].set(title="a photo", ylabel="ResNet-18, the same weights", xticks=[], yticks=[])
for axis, (stride, values) in zip(below[1:], maps.items(), strict=True):
    axis.imshow(values[..., channel], cmap="magma", vmin=0, vmax=maps[8][..., channel].max())
    rows, columns, _ = values.shape
    equal = f"\non the grid of 32 off by {differences[stride]:.0e}" if stride in differences else "\n"
    axis.set(title=f"output_stride={stride}: {rows}x{columns}, one channel{equal}", xticks=[], yticks=[])
asked.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(asked.out, dpi=80)

told = "; ".join(f"{name} {(paths > 0).sum()} of {field.size[0] ** 2}" for name, (field, paths) in seen.items())
print(
    f"Seen: inputs that one output of three 3x3 convolutions sees, of those in its field: {told}. A ResNet-18 at "
    f"output_stride=8 has {maps[8].size // coarse.size} times the features, equal where the grids coincide (largest "
    f"difference {differences[8]:.0e} of the largest feature)."
)
