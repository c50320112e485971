"""What networks learn from street scenes with masks, from pretrained and from random weights.

    python tests/benchmarks/street_scenes.py camvid.zip masks|labels|share [--weights NAME] [--seeds 0 1 2]
        [--size 180 240] [--out DIR]

masks: a U-Net, by default at 240x180; mean IoU. --out keeps it. labels: which of four classes have more than 1 % of the
pixels, at 120x90; mean average precision. share: the share of road in per cent, at 120x90; R2. Masks and labels on val,
which is one short drive whose share of road hardly changes: that is judged on every fourth run of ten photos, of train
and val together, which has neighbours in time among the others. 10 epochs each; without --weights from random ones.
Prints a line a seed. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_cnn as kc

RARE, ROAD = ("pole", "sign", "car", "pedestrian"), 3  # classes that some photos of train and val lack
WHOLE = {"schedule": "all", "head_epochs": 0, "epochs": 10, "learning_rate": 1e-3}


def masks(path: str, network: str, seed: int, size: list[int]):
    names = kc.load_data(path, kc.Preprocess(size=size).whole()).class_names
    model = kc.build(network, head=kc.UNet(classes=names), input_shape=(*size, 3))
    data = kc.load_data(path, model, batch_size=8, augment="light", seed=seed)
    return model, data, WHOLE


def derived(path: str, network: str, seed: int, what: str, pretrained: bool):
    """A network for labels that follow from the masks."""
    scenes = kc.load_data(path, kc.Preprocess(size=(90, 120)).whole())
    rare = [scenes.class_names.index(name) for name in RARE]

    def shows(drawn):
        return np.stack([(drawn == c).mean((1, 2)) > 0.01 for c in rare], 1).astype("uint8")

    def road(drawn):
        known = np.maximum((drawn != 255).sum((1, 2)), 1)
        return (100 * (drawn == ROAD).sum((1, 2)) / known)[:, None].astype("float32")

    label = shows if what == "labels" else road
    asked = {"classes": RARE, "task": "multilabel"} if what == "labels" else {"targets": ["road"]}
    model = kc.build(network, input_shape=(90, 120, 3), **asked)
    pairs = {name: (scenes.arrays(name).images, label(scenes.arrays(name).labels)) for name in ("train", "val")}
    if what == "share":
        inputs, truth = (np.concatenate(parts) for parts in zip(*pairs.values(), strict=True))
        held_out = np.arange(len(inputs)) // 10 % 4 == 3
        pairs = {name: (inputs[part], truth[part]) for name, part in (("train", ~held_out), ("val", held_out))}
    names = list(RARE) if what == "labels" else ["road"]
    data = kc.load_data(pairs, model, augment="light", seed=seed, class_names=names)
    return model, data, {"head_epochs": 5, "epochs": 5} if pretrained else {**WHOLE, "probe": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("what", choices=("masks", "labels", "share"))
    parser.add_argument("--weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, nargs=2, default=[180, 240])
    parser.add_argument("--out")
    told = parser.parse_args()
    network = told.weights or "resnet18"
    for seed in told.seeds:
        keras.utils.set_random_seed(seed)
        if told.what == "masks":
            model, data, options = masks(told.data, network, seed, told.size)
        else:
            model, data, options = derived(told.data, network, seed, told.what, bool(told.weights))
        history = kc.fine_tune(model, data, seed=seed, verbose=0, out=told.out, **options).history
        figure = next(key for key in history if key in ("val_miou", "val_map", "val_r2"))
        print(f"seed {seed}: last epoch {history[figure][-1]:.4f}; best: {kc.evaluate(model, data, split='val')}")


if __name__ == "__main__":
    main()
