"""Measure on photos: teach a pretrained network a number of each, here the share of road in a street scene.

    python examples/measure_photos.py camvid.zip runs/road --of road

What it learns from is a small table, a row a photo: its path, its split, the number. Here the table is made of masks,
so that the truth is known; yours may come from a scale or a ruler. The answers are in the unit of the table.
From 40 drawn scenes it explains more than half of the variance (R2) of the share in others.

The picture has what was predicted against what is true.
"""

import argparse
import csv
from pathlib import Path

import keras
import numpy as np

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="a folder or zip of images/ and masks/")
parser.add_argument("out", type=Path, help="the only folder that is written to; the same command goes on after a crash")
parser.add_argument("--of", default="road", help="the class whose share is measured")
parser.add_argument("--weights", default="resnet18.tiny_in200", help="a tag, directory or address")
parser.add_argument("--size", type=int, nargs=2, default=[96, 128], help="height and width at which photos are seen")
parser.add_argument("--epochs", type=int, default=5, help="of the head, and as many of the whole network")
given = parser.parse_args()
TARGET = f"share of {given.of}"


def table(path: Path) -> Path:
    """A row a photo: its path in the data set, its split, and the share of the class among pixels that have one."""
    masks = kc.load_data(given.data, kc.Preprocess(size=given.size).whole(), task="segmentation")
    number = masks.class_names.index(given.of)
    photos = sorted((name, mask) for split in masks.sizes for name, _, mask in masks.each(split))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", TARGET])
        for i, (name, mask) in enumerate(photos):
            # Neighbours in a film look alike: not single photos are held out, but every fifth of 25 pieces.
            split = "val" if i * 25 // len(photos) % 5 == 4 else "train"
            rows.writerow([Path(name).relative_to(given.data).as_posix(), split, np.mean(mask[mask < 255] == number)])
    return path


keras.utils.set_random_seed(0)
given.out.mkdir(parents=True, exist_ok=True)

# The mean and the spread of the training numbers go into the network, which answers in their unit. Photos are seen
# whole, since what is cropped could not be measured.
whole = kc.Preprocess.of(kc.build(given.weights)).whole()
model = kc.build(given.weights, targets=[TARGET], input_shape=(*given.size, 3), preprocess=whole)
if not kc.config_of(model).provenance:
    print(f"{given.weights} names no weights: the network begins at random, and needs more photos and epochs")
data = kc.load_data(kc.Table(table(given.out / "shares.csv"), root=given.data), model, augment="light")
print(data)
kc.fine_tune(model, data, head_epochs=given.epochs, epochs=given.epochs, out=given.out / "weights", resume=True)

result = kc.evaluate(model, data)
for row in result.worst(3):
    print(f"{row['predicted']:.3f} instead of {row['true']:.3f}: {Path(row['image']).name}")
for name, title in result.pictures(given.out).items():
    print(f"{given.out / name}: {title}")
print(f"R2 {result.metrics['r2']:.3f}, off by {result.metrics['mae']:.4f} on average")
