"""Any number of labels a photo: teach a pretrained network which things street scenes show.

    python examples/label_photos.py camvid.zip runs/labels

What it learns from is a small table, a row a photo: its path, its split, and a column of 0 and 1 for each label. Here
it is made of masks: a photo shows what covers more than a hundredth of it.
From 40 drawn scenes it learns two labels with a mean average precision above 0.8 on others.

The picture has precision over recall for each label; the best threshold of each is printed.
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
parser.add_argument("--weights", default="resnet18.tiny_in200", help="a tag, directory or address")
parser.add_argument("--size", type=int, nargs=2, default=[96, 128], help="height and width at which photos are seen")
parser.add_argument("--epochs", type=int, default=5, help="of the head, and as many of the whole network")
given = parser.parse_args()


def table(path: Path) -> tuple[str, ...]:
    """Write a row a photo, and tell the labels: the classes that some photos show, and others do not."""
    masks = kc.load_data(given.data, kc.Preprocess(size=given.size).whole(), task="segmentation")
    photos = sorted((name, mask) for split in masks.sizes for name, _, mask in masks.each(split))
    shown = np.array([[np.mean(mask == c) > 0.01 for c in range(len(masks.class_names))] for _, mask in photos])
    kept = np.flatnonzero(shown.any(0) & ~shown.all(0))
    names = tuple(masks.class_names[c] for c in kept)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", *names])
        for i, ((name, _), row) in enumerate(zip(photos, shown[:, kept].astype(int), strict=True)):
            # Neighbours in a film look alike: not single photos are held out, but every fifth of 25 pieces.
            split = "val" if i * 25 // len(photos) % 5 == 4 else "train"
            rows.writerow([Path(name).relative_to(given.data).as_posix(), split, *row])
    return names


keras.utils.set_random_seed(0)
given.out.mkdir(parents=True, exist_ok=True)
names = table(given.out / "labels.csv")
whole = kc.Preprocess.of(kc.build(given.weights)).whole()  # what is cropped could not be seen
model = kc.build(given.weights, classes=names, task="multilabel", input_shape=(*given.size, 3), preprocess=whole)
if not kc.config_of(model).provenance:
    print(f"{given.weights} names no weights: the network begins at random, and needs more photos and epochs")
data = kc.load_data(kc.Table(given.out / "labels.csv", labels=names, root=given.data), model, augment="light")
print(data)
kc.fine_tune(model, data, head_epochs=given.epochs, epochs=given.epochs, out=given.out / "weights", resume=True)

result = kc.evaluate(model, data)
print("average precision, photos, best threshold")
for row in result.by_class():
    if row["average precision"] is not None:  # held-out photos with the label, and without
        print(f"{row['average precision']:17.3f}{row['images']:8}{row['threshold']:16.2f}  {row['class']}")
for name, title in result.pictures(given.out).items():
    print(f"{given.out / name}: {title}")
print(f"mean average precision {result.metrics['map']:.3f}, F1 at 0.5 {result.metrics['f1']:.3f}")
