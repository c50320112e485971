"""Time of reading ResNet50's weights from the hub's cache, hash check included, beside Keras' `load_weights`.

    python tests/benchmarks/load_weights.py [--rounds 9]

Both give the same arrays to the same built network, in turns. Ours resolves the address, checks the sha256, reads the
safetensors file, checks keys, shapes and values, and assigns; Keras reads a .weights.h5. Prints medians and their
ratio. Nothing is asserted: timings are for reading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
from huggingface_hub import constants

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, hashes
from keras_cnn.hub import resolve

COMMIT = "c" * 40


def cached(model, home: Path) -> str:
    """Put the network into the cache as a pull leaves it, with our note of what the hub said; its address."""
    folder = home / "hub" / "models--me--net" / "snapshots" / COMMIT
    kc.save_pretrained(model, folder, provenance={"license": "mit"})
    prints = {
        file.name: {"hash": f"sha256:{hashes.digest(file)}", "size": file.stat().st_size} for file in folder.iterdir()
    }
    note = home / "keras_cnn" / "models--me--net" / f"{COMMIT}.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps(prints))
    return f"hf://me/net@{COMMIT}"


def ours(model, address: str) -> None:
    source = resolve(address)
    assert source.load
    arrays.assign(model, source.load()[1])


def seconds(call, *given) -> float:
    start = time.perf_counter()
    call(*given)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        constants.HF_HOME, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = folder, str(home / "hub"), True
        model = kc.build("resnet50")
        address, h5 = cached(model, home), str(home / "net.weights.h5")
        model.save_weights(h5)
        times = [(seconds(ours, model, address), seconds(model.load_weights, h5)) for _ in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{'':<12}{'keras_cnn':>11}{'load_weights':>14}{'ratio':>8}   ({keras.backend.backend()}, {rounds} rounds)")
    print(f"{'resnet50':<12}{a * 1e3:>8.0f} ms{b * 1e3:>11.0f} ms{a / b:>8.2f}")


if __name__ == "__main__":
    main()
