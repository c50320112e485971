"""The memory of a training step of resnet50 with 32 images of 224 pixels: at once, and as batches that are accumulated.

    python tests/benchmarks/step_memory.py --batches 32 8

Each is trained on in a process of its own, whose peak is printed.
"""

from __future__ import annotations

import argparse
import resource
from multiprocessing import get_context

IMAGES = 32


def peak(batch: int) -> float:
    """GiB that a process takes at most, everything included."""
    import numpy as np

    import keras_cnn as kc

    images, labels = np.zeros((IMAGES, 224, 224, 3), "uint8"), np.arange(IMAGES) % 10
    told = {"batch_size": batch, "accumulate": IMAGES // batch, "epochs": 2, "verbose": 0}
    kc.train(kc.build("resnet50", classes=10), (images, labels), **told)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 8], help="images at once, divisors of 32")
    print("| images at once | batches a step | peak, GiB |", "|---|---|---|", sep="\n")
    for batch in parser.parse_args().batches:
        with get_context("spawn").Pool(1) as pool:
            print(f"| {batch} | {IMAGES // batch} | {pool.apply(peak, (batch,)):.2f} |", flush=True)
