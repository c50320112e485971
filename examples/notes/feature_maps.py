"""Features grow more complex from stage to stage: each sees more of the image, and answers to less of it.

    python examples/notes/feature_maps.py feature_maps.png
    python examples/notes/feature_maps.py path/to/photos feature_maps.png

For each stage of a pretrained ResNet-18: its strongest maps of a photo; the places in two photos that excite one of its
channels most, as large as the channel can see (what `kc.insight.receptive_field` says; a cross is in their middle); and
what a linear probe makes of its features, on photos of classes that the network never learnt. Without DATA these are
scikit-learn's digits.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="digits", help="photos, one folder a class")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--images", type=int, default=40, help="of each class, that the probe learns from")
given = parser.parse_args()

WEIGHTS, MAPS, PLACES = "resnet18.tiny_in200", 4, 4
photos = np.stack([photo[10:-9:2, :640:2] for photo in load_sample_images().images])  # 204x320, a temple and a flower
network = kc.build(WEIGHTS, input_shape=photos.shape[1:])
stages = [name for name in kc.stages(network) if name.startswith("st")]
views = dict(zip(stages, kc.features(network, stages).predict(photos, verbose=0), strict=True))
fields = {name: kc.insight.receptive_field(network)[kc.stages(network)[name][-1].name] for name in stages}


def strongest(maps):
    """The channel with the most outstanding place, among the stronger half of them."""
    peaks = maps.max((0, 1, 2))
    scores = (peaks - maps.mean((0, 1, 2))) / (maps.std((0, 1, 2)) + 1e-6)
    return int(np.where(peaks > np.median(peaks), scores, 0).argmax())


def places(maps, channel, jump):
    """(photo, row, column) of a map where a channel is excited most, at least 16 pixels apart."""
    left, found = maps[..., channel].copy(), []
    for _ in range(PLACES):
        n, row, column = np.unravel_index(left.argmax(), left.shape)
        found.append((n, row, column))
        near = max(16 // jump, 1)
        left[n, max(row - near, 0) : row + near + 1, max(column - near, 0) : column + near + 1] = -np.inf
    return found


def patch(place, field):
    """The part of the photo that a position sees, and where in it the position lies."""
    n, *position = place
    first = [int(start + i * jump) for start, i, jump in zip(field.start, position, field.jump, strict=True)]
    top, left = (max(start, 0) for start in first)
    centre = [start + field.size[0] // 2 - cut for start, cut in zip(first, (top, left), strict=True)]
    return photos[n][top : first[0] + field.size[0], left : first[1] + field.size[0]], centre


small = kc.build(WEIGHTS)
data = kc.load_data(given.data, small).subset(given.images)
pooled = {}
for split in ("train", "val"):
    maps = kc.features(small, stages).predict(data.arrays(split).images, verbose=0)
    pooled[split] = [keras.ops.convert_to_numpy(keras.ops.mean(x, (1, 2))) for x in maps]
truth = {split: data.arrays(split).labels for split in pooled}
accuracy = {}
for name, train, val in zip(stages, pooled["train"], pooled["val"], strict=True):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(train, truth["train"])
    accuracy[name] = probe.score(val, truth["val"])

figure = Figure(figsize=(15, 1.65 * len(stages)), layout="constrained")
axes = figure.subplots(len(stages), 2 + MAPS + PLACES, width_ratios=(1.5, *[1.5] * MAPS, 0.25, *[1] * PLACES))
answering = {}
for row, (name, maps) in zip(axes, views.items(), strict=True):
    field, channel = fields[name], strongest(maps)
    answering[name] = np.mean(maps > 0.5 * maps.max((0, 1, 2)))
    for axis in row:
        axis.set_axis_off()
    row[0].imshow(photos[1])
    row[0].set_title(f"{name}: sees {field.size[0]} pixels,\nprobe {accuracy[name]:.0%} right", fontsize="medium")
    for axis, i in zip(row[1 : 1 + MAPS], np.argsort(-maps[1].std((0, 1)))[:MAPS], strict=True):
        axis.imshow(maps[1, ..., i], cmap="gray")
        axis.set_title(f"channel {i}", fontsize="small")
    for axis, place in zip(row[2 + MAPS :], places(maps, channel, field.jump[0]), strict=True):
        seen, (y, x) = patch(place, field)
        axis.imshow(seen)
        axis.plot(x, y, "c+", markersize=9, markeredgewidth=2)
        axis.set_title(f"excites {channel}", fontsize="small")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=80)

print(
    "Seen: "
    + "; ".join(
        f"{name} sees {fields[name].size[0]} pixels, {answering[name]:.0%} of its places exceed half of a channel's "
        f"maximum, a probe on it names {accuracy[name]:.0%}"
        for name in stages
    )
    + f" of {len(truth['val'])} images of {len(data.class_names)} new classes."
)
