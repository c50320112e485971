"""Whether heat lies on the object: the pointing game (Zhang et al. 2016, 1608.00507) on street scenes with masks.

    python tests/benchmarks/pointing_game.py camvid.zip [--weights NAME] [--methods grad-cam occlusion] [--photos 60]

A network learns which of pole, sign, car and pedestrian have more than 1 % of a photo's pixels; it never sees where. Of
validation photos and the classes that they show, masks tell where the object is. Prints for each method and class: the
share of the heat above zero that lies inside the object, how often its largest value does, and the share of the pixels,
which is what chance would give both. `random` is a network before it has learnt. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_cnn as kc
from keras_cnn.insight import saliency

CLASSES = ("pole", "sign", "car", "pedestrian")


def scenes(path: str, size: tuple[int, int]):
    """By split: (images, labels (images, classes), masks)."""
    data = kc.load_data(path, kc.Preprocess(size=size).whole())
    numbers = [data.class_names.index(name) for name in CLASSES]
    found = {}
    for split in ("train", "val"):
        held = data.arrays(split)
        inside = np.stack([held.labels == number for number in numbers], 1)
        found[split] = held.images, (inside.mean((2, 3)) > 0.01).astype("uint8"), inside
    return found


def played(model, images, labels, inside, method) -> list[list[float]]:
    """For each class, rows (share of the heat inside, whether the largest value is, share of the pixels)."""
    rows = [[] for _ in CLASSES]
    for image, shown, masks in zip(images, labels, inside, strict=True):
        for c in np.flatnonzero(shown):
            heat = np.maximum(saliency.METHODS[method](model, image, int(c)), 0)
            hit = heat.any() and masks[c].reshape(-1)[heat.argmax()]  # where nothing speaks for it, nothing is hit
            rows[c].append((heat[masks[c]].sum() / max(heat.sum(), 1e-12), hit, masks[c].mean()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--weights", default="resnet18.tiny_in200")
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["grad-cam", "grad-cam++"], choices=[*saliency.METHODS])
    parser.add_argument("--photos", type=int, default=101)
    told = parser.parse_args()
    keras.utils.set_random_seed(0)
    found = scenes(told.data, tuple(told.size))
    model = kc.build(told.weights, input_shape=(*told.size, 3), classes=CLASSES, task="multilabel")
    untaught = kc.build("resnet18", input_shape=(*told.size, 3), classes=CLASSES, task="multilabel")
    pairs = {split: (images, labels) for split, (images, labels, _) in found.items()}
    data = kc.load_data(pairs, model, augment="light", class_names=list(CLASSES))
    kc.fine_tune(model, data, head_epochs=told.epochs, epochs=told.epochs, verbose=0)
    print(kc.evaluate(model, data, split="val"))
    some = np.linspace(0, len(found["val"][0]) - 1, min(told.photos, len(found["val"][0]))).astype(int)
    images, labels, inside = (part[some] for part in found["val"])
    print(f"{'method':24}{'class':12}{'photos':>8}{'heat inside':>13}{'largest inside':>16}{'chance':>9}")
    for network, method in [*((model, name) for name in told.methods), (untaught, told.methods[0])]:
        rows = played(network, images, labels, inside, method)
        for name, some in (*zip(CLASSES, rows, strict=True), ("all", [row for part in rows for row in part])):
            if some:
                share, hit, chance = np.mean(some, 0)
                label = method if network is model else f"random, {method}"
                print(f"{label:24}{name:12}{len(some):8}{share:13.3f}{hit:16.3f}{chance:9.3f}")


if __name__ == "__main__":
    main()
