"""Kills runs with SIGKILL at random moments, lets them go on, and compares their end with that of an unbroken run.

    python tests/attacks/kill_runs.py --count 100 --verb train|fine_tune|save

Half of the kills come at a moment drawn from the length of an unbroken run, half as soon as a file is being written.
A run is killed up to three times, then goes on to its end, which must have the same bytes: weights, configuration, log.
A save is killed among many, while another process reads; what is there must be one of them, whole. Exit code 1 where
something was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.errors import KerasCnnError
from keras_cnn.models import registry
from keras_cnn.training import state

_ = kc.train, kc.fine_tune  # imported once, for all children
FORK = get_context("fork")  # a child has everything imported; nothing may be computed before it is made
RESULTS = (directory.WEIGHTS, directory.CONFIG, state.LOG)
KILLS = 3  # of one run, before it may end


def pair(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    return (rng.integers(0, 200, (count, 16, 16, 3)) + 50 * labels[:, None, None, None]).astype("uint8"), labels


def run(verb: str, out: Path, seed: int) -> None:
    """A whole run, or what is left of it; the seed of the process must not matter."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    tf.config.experimental.enable_op_determinism()
    state.EVERY = 0.0
    keras.utils.set_random_seed(0)
    shallow = registry.get("resnet20").backbone.with_(depths=(1, 1, 1))
    model = kc.build(shallow, head=kc.Head(classes=2, dropout=0.3), input_shape=(16, 16, 3))
    keras.utils.set_random_seed(seed)
    told: dict[str, Any] = {"out": out, "resume": True, "batch_size": 16, "verbose": 0}
    if verb == "train":
        kc.train(model, pair(64, 0), pair(32, 1), epochs=5, learning_rate=0.02, **told)
    else:
        kc.fine_tune(
            model, pair(64, 0), pair(32, 1), head_epochs=2, epochs=3, above="stage2", cache=False, ema=0.9, **told
        )


def kill_or_join(child: Any, out: Path, rng: random.Random, length: float) -> bool:
    """Kill a child at a moment of one of two kinds; whether it was still there."""
    until = time.monotonic() + rng.uniform(0.0, length)
    written = rng.random() < 0.5
    while child.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    while written and child.is_alive() and not (out.is_dir() and list(out.glob(".[a-z]*.safetensors.*"))):
        time.sleep(0.0002)
    if not child.is_alive():
        return False
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return True


def attack_run(verb: str, count: int, rng: random.Random, outcomes: Counter[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        whole, began = Path(place) / "run", time.monotonic()
        child = FORK.Process(daemon=True, target=run, args=(verb, whole, 0))
        child.start()
        child.join()
        assert child.exitcode == 0, "the unbroken run failed"
        length, kills, number = time.monotonic() - began, 0, 0
        expected = {name: (whole / name).read_bytes() for name in RESULTS}
        while kills < count:
            number += 1
            out = Path(place) / str(number) / "run"
            for attempt in range(KILLS + 1):
                child = FORK.Process(daemon=True, target=run, args=(verb, out, rng.randrange(2**31)))
                child.start()
                if attempt < KILLS and kill_or_join(child, out, rng, length):
                    kills += 1
                    outcomes["killed"] += 1
                    continue
                child.join()
                break
            same = [name for name in RESULTS if (out / name).exists() and (out / name).read_bytes() == expected[name]]
            if child.exitcode:
                outcomes["COULD NOT GO ON"] += 1
            elif len(same) < len(RESULTS):
                outcomes[f"ENDED OTHERWISE: {set(RESULTS) - set(same)}"] += 1
            elif left := [file.name for file in out.iterdir() if file.name.startswith(".") or file.name == state.STATE]:
                outcomes[f"LEFT BEHIND: {left}"] += 1
            else:
                outcomes["ended with the same bytes"] += 1


# --- saving ---------------------------------------------------------------------------------------------------------


def save(model: Any, values: arrays.Arrays, out: Path, first: int) -> None:
    """Save for ever; each save has another number, in its arrays and in its configuration."""
    for number in range(first, first + 10**6):
        arrays.arrays = lambda _, number=number: {**values, "head_logits/bias": np.full(2, number, "float32")}
        kc.save_pretrained(model, out, provenance={"number": number})


def readable(out: Path) -> tuple[int, str]:
    """The number of the save that a directory holds, and what is amiss."""
    try:
        source = directory.read(out)
        assert source.load
        config, arrays = source.load()
    except KerasCnnError as error:
        return -1, f"COULD NOT BE READ: {error}"[:100]
    number = int(arrays["head_logits/bias"][0])
    return number, "" if config.provenance["number"] == number else "ARRAYS OF ONE SAVE, FACTS OF ANOTHER"


def attack_save(count: int, rng: random.Random, outcomes: Counter[str]) -> None:
    model = kc.build("resnet20", classes=2, input_shape=(16, 16, 3))
    values = arrays.arrays(model)  # children compute nothing: TensorFlow does not outlive a fork
    with tempfile.TemporaryDirectory() as place:
        out, number = Path(place) / "net", 0
        kc.save_pretrained(model, out, provenance={"number": 0})
        for _ in range(count):
            child = FORK.Process(daemon=True, target=save, args=(model, values, out, number + 1))
            child.start()
            until = time.monotonic() + rng.uniform(0.0, 0.4)
            while time.monotonic() < until:
                found, wrong = readable(out)
                outcomes[wrong or "read while another saved"] += 1
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            outcomes["killed"] += 1
            found, wrong = readable(out)
            outcomes[wrong or "whole after a kill"] += 1
            number = max(number, found)
        arrays.arrays = lambda _: values
        kc.save_pretrained(model, out, provenance={"number": 0})
        names = sorted(file.name for file in out.iterdir())
        outcomes["nothing left behind" if len(names) == 3 else f"LEFT BEHIND: {names}"] += 1


Attack = Callable[[int, random.Random, Counter[str]], None]
ATTACKS: dict[str, Attack] = {
    "train": partial(attack_run, "train"),
    "fine_tune": partial(attack_run, "fine_tune"),
    "save": attack_save,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="kills of each verb")
    parser.add_argument("--verb", choices=ATTACKS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    failures = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped early, it tells what it has found
    print("| verb | outcome | how often |\n|---|---|---|")
    for verb in told.verb or ATTACKS:  # saving comes last: it computes in this process
        outcomes: Counter[str] = Counter()
        try:
            ATTACKS[verb](told.count, random.Random(told.seed), outcomes)
        finally:
            for outcome, count in outcomes.most_common():
                failures += outcome.partition(":")[0].isupper()
                print(f"| {verb} | {outcome} | {count} |", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
