"""What pruning costs: a fine-tuned ResNet loses channels within its blocks, and is taught again.

    python tests/benchmarks/pruning.py flowers.zip runs/flowers --base 32

Of each convolution within a block those channels stay whose batch norm scales them most, times how much the next
convolution makes of them (1708.06519 has the scale alone); as many in every block as `base` says, 64 being all, so that
a `ResNet` with that `base` is what comes of it. Printed are the network's accuracy on the validation images as it was,
pruned, and taught again, and how much faster the smaller one answers.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import replace
from typing import Any

import keras
import numpy as np

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.deploy import engines

OF_A_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
WITHIN = re.compile(r"(stage\d+_block\d+_)norm(\d+)/gamma")


def pruned(model: Any, base: int) -> Any:
    """The same network, random, with fewer channels within its blocks; and then its most important ones."""
    config, values = kc.config_of(model), dict(arrays.arrays(model))
    if config.backbone.family != "ResNet" or config.backbone.grouped or config.backbone.preact:
        raise SystemExit(f"{model.name} is no ResNet whose norms follow its convolutions: give one.")
    share = base / config.backbone.base
    for key in list(values):
        found = WITHIN.fullmatch(key)
        if not found or (after := f"{found[1]}conv{int(found[2]) + 1}/kernel") not in values:
            continue
        importance = np.abs(values[key]) * np.sqrt((values[after] ** 2).sum((0, 1, 3)))
        keep = np.sort(np.argsort(-importance)[: int(len(importance) * share)])
        for part in (f"conv{found[2]}/kernel", *(f"norm{found[2]}/{n}" for n in OF_A_NORM)):
            values[found[1] + part] = values[found[1] + part][..., keep]
        values[after] = values[after][:, :, keep]
    smaller = kc.build(replace(config, backbone=config.backbone.with_(base=base)))
    arrays.assign(smaller, values)
    return smaller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("run", help="what fine_tune wrote")
    parser.add_argument("--base", type=int, default=32, help="channels that stay, of 64")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="float32", help="of the training: or mixed_bfloat16")
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    whole = kc.build(args.run)
    keras.config.set_dtype_policy(args.precision)
    model = pruned(whole, args.base)
    data = kc.load_data(args.data, model, augment="light", seed=args.seed)
    score = lambda net: 100 * kc.evaluate(net, data, split="val").metrics["accuracy"]  # noqa: E731
    was, cut = score(whole), score(model)
    told = {"schedule": "all", "head_epochs": 0, "epochs": args.epochs, "learning_rate": args.rate, "layer_decay": 1.0}
    with tempfile.TemporaryDirectory() as out:
        kc.fine_tune(model, data, out=out, overwrite=True, seed=args.seed, probe=False, **told)
        keras.config.set_dtype_policy("float32")
        taught = kc.build(out)
    print(f"as it was {was:.2f} %, pruned {cut:.2f}, taught again {score(taught):.2f}")
    for engine in (name for name in ("keras", "openvino") if name in engines.installed()):
        for batch in (1, 32):
            images = np.random.default_rng(0).integers(0, 256, (batch, *whole.input_shape[1:])).astype("float32")
            runs = [engines.running(net, engine).predict_on_batch for net in (whole, taught)]
            turns = [[min(engines.measure(run, images)) for run in runs] for _ in range(3)]
            before, after = (1e3 * min(times) for times in zip(*turns, strict=True))
            print(f"{engine}, {batch} at once: {before:.2f} and {after:.2f} ms, {before / after:.2f} times as fast")


if __name__ == "__main__":
    main()
