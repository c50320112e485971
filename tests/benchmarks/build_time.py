"""Time of building a network with random weights, beside keras.applications in the same process.

    python tests/benchmarks/build_time.py [--rounds 7]

Prints the median of alternated builds and their ratio. Nothing is asserted: timings are for reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_cnn as kc

PAIRS = {"resnet50": "ResNet50", "inception_resnet_v2": "InceptionResNetV2", "tf_efficientnet_b7": "EfficientNetB7"}


def seconds(build, *args, **kwargs) -> float:
    keras.utils.clear_session()
    start = time.perf_counter()
    build(*args, **kwargs)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{'':<22}{'keras_cnn':>11}{'keras.applications':>20}{'ratio':>8}")
    for ours, theirs in PAIRS.items():
        times = [
            (seconds(kc.build, ours), seconds(getattr(keras.applications, theirs), weights=None)) for _ in range(rounds)
        ]
        a, b = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{ours:<22}{a:>9.2f} s{b:>18.2f} s{a / b:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
