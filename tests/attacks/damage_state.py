"""Damages what is kept on disk at random, and tells what became of it.

    python tests/attacks/damage_state.py --count 1000

Each trial changes a good file (bits flipped, bytes zeroed, cut short, a part copied over another one, junk at the end)
and reads it. A state, the end of a run and a weights directory must be refused in a sentence of ours, or read as they
were written; a feature cache must give an image its own features, or none. Exit code 1 where one did otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import keras_cnn as kc
from keras_cnn.checkpoints import directory
from keras_cnn.errors import KerasCnnError, WeightsMismatch
from keras_cnn.training import state
from keras_cnn.transfer import cache


def damage(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    kind, at = rng.randrange(5), rng.randrange(len(content))
    length = min(rng.choice((1, 16, 512, 4096)), len(content) - at)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 1, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[at : at + length] = bytes(length)
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        other = rng.randrange(len(content) - length + 1)
        content[at : at + length] = content[other : other + length]
    else:
        content += rng.randbytes(length)
    path.write_bytes(content)


# --- what is damaged: each makes a good folder, names the files at risk, and judges what reading one gives ----------


class State:
    names = (state.STATE,)

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {f"network/{i}": rng.normal(size=(3, 3, 8, 8)).astype("float32") for i in range(8)}
        self.good = arrays, {"options": {"rate": 0.1}, "epoch": 3, "history": [{"loss": 0.5}], "value": 0.25}
        state.write(folder / state.STATE, *self.good)

    def read(self, folder: Path) -> str:
        arrays, facts = state.read(folder / state.STATE)
        same = facts == self.good[1] and arrays.keys() == self.good[0].keys()
        same = same and all(np.array_equal(arrays[key], value) for key, value in self.good[0].items())
        return "as written" if same else "SOMETHING ELSE"


class End:
    names = (state.RUN,)

    def __init__(self, folder: Path) -> None:
        with state.Run(folder, {"rate": 0.1}) as run:
            run.finish({"history": [{"loss": 0.5, "val_accuracy": 0.75}] * 20})
        self.good = self._facts(folder)

    def _facts(self, folder: Path) -> object:
        with state.Run(folder, {"rate": 0.1}, resume=True) as run:
            return run.end

    def read(self, folder: Path) -> str:
        return "as written" if self._facts(folder) == self.good else "SOMETHING ELSE"


class Weights:
    names = (directory.WEIGHTS, directory.CONFIG)

    def __init__(self, folder: Path) -> None:
        self.model = kc.build("resnet20", classes=3, input_shape=(16, 16, 3))
        kc.save_pretrained(self.model, folder)
        self.config, self.arrays = directory.read(folder).load()

    def read(self, folder: Path) -> str:
        source = directory.read(folder)
        assert source.load
        config, arrays = source.load()
        if not all(np.array_equal(arrays[key], value) for key, value in self.arrays.items()):
            return "SOMETHING ELSE"
        return "as written" if config == self.config else "as written, the text of config.json is not"


class Network:
    output_shape = (None, 64)

    def predict_on_batch(self, images):
        return images.reshape(len(images), -1)[:, :64].astype("float32") + np.float32(0.5)


class Features:
    def __init__(self, folder: Path) -> None:
        cache.digest = lambda network: "0" * 64
        self.names = ("0" * 32 + ".sqlite",)
        images = np.random.default_rng(1).integers(0, 255, (400, 8, 8, 1), "uint8")
        expected = Network().predict_on_batch(images)
        cache.features(Network(), [images], cache.Store(Network(), folder))
        self.expected = dict(zip(map(cache._key, images), expected, strict=True))

    def read(self, folder: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = cache.Store(Network(), folder)
            found = store.get(list(self.expected))
            right = all(np.array_equal(self.expected[key], value) for key, value in found.items())
            for _ in range(2):  # goes on as if nothing had happened; damage may show late
                store.put(self.expected)
                again = store.get(list(self.expected))
        if not right or not all(np.array_equal(self.expected[key], value) for key, value in again.items()):
            return "ANOTHER IMAGE'S FEATURES"
        return "its own features or none" if len(again) == len(self.expected) else "NOT KEPT ANY MORE"


KINDS: dict[str, Callable[[Path], object]] = {"state": State, "end": End, "weights": Weights, "features": Features}


def attack(kind: str, count: int, seed: int = 0) -> Counter[str]:
    """What became of so many damages of one kind of file."""
    outcomes: Counter[str] = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        good = Path(place) / "good"
        good.mkdir()
        target = KINDS[kind](good)
        for number in range(count):
            folder = Path(place) / str(number)
            shutil.copytree(good, folder)
            damage(folder / rng.choice(target.names), rng)
            try:
                outcome = target.read(folder)
            except KerasCnnError as error:
                short = "\n" not in str(error) or isinstance(error, WeightsMismatch)  # that one has a list
                outcome = "refused" if short else "REFUSED IN MORE THAN A SENTENCE"
            except Exception as error:
                outcome = f"{type(error).__name__.upper()}: {error}"[:100]
            outcomes[outcome] += 1
            shutil.rmtree(folder)
    return outcomes


def bad(outcomes: Counter[str]) -> int:
    """How many ended as they should not: these are in capitals."""
    return sum(count for outcome, count in outcomes.items() if outcome.partition(":")[0].isupper())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="damages of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    failures = 0
    print("| what | damages | outcome | how often |\n|---|---|---|---|")
    for kind in told.kind or KINDS:
        outcomes = attack(kind, told.count, told.seed)
        failures += bad(outcomes)
        for outcome, count in outcomes.most_common():
            print(f"| {kind} | {told.count} | {outcome} | {count} |")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
