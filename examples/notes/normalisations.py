"""Over which of batch, channels and positions a normalisation takes its mean and variance: seen from its own outputs.

    python examples/notes/normalisations.py normalisations.png

One value of the input is changed; what moves was divided by the same standard deviation, so that the picture shows over
what each layer averages: batch norm (Ioffe & Szegedy, 1502.03167), layer norm (Ba et al., 1607.06450), instance norm
(Ulyanov et al., 1607.08022), group norm (Wu & He, 1803.08494) and, over a kernel's weights in the place of a map's
values, weight standardisation (Qiao et al., 1903.10520). The layers are those of the package's networks.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import keras_cnn as kc

out = Path(sys.argv[1])
rng = np.random.default_rng(0)
IMAGES, SIDE, CHANNELS = 3, 2, 6
CHANGED, MOVED, STILL = "crimson", "steelblue", "whitesmoke"


def of_image(norm):
    """The first norm of a network, as it works in training."""
    model = kc.build("resnet20", widths=(CHANNELS, 8 * CHANNELS, 8 * CHANNELS), input_shape=(64, 64, 3), norm=norm)
    layer = model.get_layer("stem_norm")
    return lambda maps: keras.ops.convert_to_numpy(layer(maps, training=True))


def of_sequence():
    layer = kc.build("tcn", widths=(CHANNELS,), input_shape=(SIDE**2, 3)).get_layer("stage1_norm1")
    return lambda maps: keras.ops.convert_to_numpy(layer(maps))


def of_kernel():
    """Not a norm of maps: the kernel that inputs meet, from the one that is learnt."""
    model = kc.build("resnet20", widths=(CHANNELS,) * 3, input_shape=(32, 32, IMAGES), weight_standardised=True)
    layer = model.get_layer("stem_conv")

    def standardised(kernel):
        layer.set_weights([kernel])
        return keras.ops.convert_to_numpy(layer.standardised_kernel())

    return standardised


def moved(function, shape):
    """(the changed value, which outputs moved) when the first value of the input is changed."""
    x = rng.normal(size=shape).astype("float32")
    first = np.zeros(shape, bool)
    first[(0,) * len(shape)] = True
    return first, ~np.isclose(function(x + first), function(x), rtol=0, atol=1e-5)


def block(values, axes):
    """Any array as a cube: its axes joined to three, in the order in which they are drawn."""
    order = [axis for group in axes for axis in group]
    sides = [int(np.prod([values.shape[axis] for axis in group])) for group in axes]
    return values.transpose(order).reshape(sides)


MAPS, STEPS = (IMAGES, SIDE, SIDE, CHANNELS), (IMAGES, SIDE**2, CHANNELS)
KERNEL = (3, 3, IMAGES, CHANNELS)
OF_MAPS = ("channels", "images", "positions"), ((3,), (0,), (1, 2))
rows = {  # title: what is changed and what moved, the names of the axes, and which of the array's each one joins
    "batch norm:\nall images, one channel": (moved(of_image("batch"), MAPS), *OF_MAPS),
    "layer norm:\none image, all channels": (moved(of_image("layer"), MAPS), *OF_MAPS),
    "instance norm:\none image, one channel": (moved(of_image("instance"), MAPS), *OF_MAPS),
    "group norm, 2 groups:\none image, half of the channels": (moved(of_image("group:2"), MAPS), *OF_MAPS),
    "layer norm of sequences:\none step, all channels": (
        moved(of_sequence(), STEPS),
        ("channels", "sequences", "steps"),
        ((2,), (0,), (1,)),
    ),
    "weight standardisation:\none filter, all that it sees": (
        moved(of_kernel(), KERNEL),
        ("filters", "input channels", "window"),
        ((3,), (2,), (0, 1)),
    ),
}
figure = Figure(figsize=(13, 9))
figure.subplots_adjust(left=0.03, right=0.97, bottom=0.1, top=0.92, wspace=0.12, hspace=0.2)
for place, (title, ((first, moves), names, axes)) in enumerate(rows.items(), 1):
    axis = figure.add_subplot(2, 3, place, projection="3d")
    first, moves = (block(values, axes)[:, :, ::-1] for values in (first, moves))  # position 1 is at the top
    colours = np.where(first, CHANGED, np.where(moves, MOVED, STILL))
    faces = np.array([to_rgba(colour) for colour in colours.ravel()]).reshape(*colours.shape, 4)
    axis.voxels(np.ones(moves.shape, bool), facecolors=faces, edgecolor="gray", linewidth=0.5, shade=False)
    axis.view_init(elev=25, azim=-125)
    axis.set_box_aspect(moves.shape, zoom=0.9)
    axis.set(title=title, xlabel=names[0], ylabel=names[1], zlabel=names[2], xticks=[], yticks=[], zticks=[])
labels = {CHANGED: "this value was changed", MOVED: "moved with it: same mean and variance", STILL: "did not move"}
handles = [Patch(facecolor=colour, edgecolor="gray", label=label) for colour, label in labels.items()]
figure.legend(handles=handles, loc="lower center", ncols=3)
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=100)

counts = {title.split(":")[0]: f"{moves.sum()} of {moves.size}" for title, ((_, moves), *_) in rows.items()}
print("Seen: with one value move " + "; ".join(f"{count} in {name}" for name, count in counts.items()) + ".")
