"""This package's settings of TensorFlow beside TensorFlow's own: training step, prediction, evaluation, demo.

    python tests/benchmarks/cpu_defaults.py --isa avx2

Each time is of a fresh process, ours and theirs in turns, since TensorFlow reads its settings once. A ratio above 1
means that ours is faster; ratios are of the least time of all rounds. The processor's time counts on a machine that is
not idle, the clock's on one that is.

The commands `predict` and `evaluate` choose for prediction alone; Python, which may train next, does not know. So tasks
of prediction have two lines. Where the settings are TensorFlow's own there is nothing to compare, and nothing is run;
--force does it all the same, and shows the noise.

--isa avx2 emulates a processor without AVX-512, on one that has it: oneDNN and XLA are held to AVX2
(ONEDNN_MAX_CPU_ISA, XLA's xla_cpu_max_isa), so that the demo learns in float32; TensorFlow's own setting is oneDNN off,
as it is there, and ours is what `runtime.settings` chooses for such instruction sets. TensorFlow's other kernels are
not held to anything: caches, clock and the width of the processor's units stay those of this machine, so that a real
one will differ.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from keras_cnn import runtime

AVX2 = ("sse4_2", "avx", "fma", "avx2")
PREDICTOR, EVALUATE = "kc.predictor", "kc.evaluate"  # what they compute with by default
VALIDATE = "validation"  # in as many images at once as ours takes in training, beside Keras' 32 of a training batch
# name: (network, side in pixels, images in a batch, what is done)
TASKS = {
    "step resnet18": ("resnet18", 64, 32, "train_on_batch"),
    "step resnet50": ("resnet50", 128, 16, "train_on_batch"),
    "step efficientnet_b0": ("efficientnet_b0", 128, 16, "train_on_batch"),
    "predict resnet50": ("resnet50", 128, 32, "predict_on_batch"),
    "predict one image": ("resnet50", 128, 1, "predict_on_batch"),
    "predictor resnet50": ("resnet50", 128, 32, PREDICTOR),
    "predictor four images": ("resnet50", 128, 4, PREDICTOR),
    "predictor one image": ("resnet50", 128, 1, PREDICTOR),
    "predictor one of 224 pixels": ("resnet50", 224, 1, PREDICTOR),
    "predictor one by efficientnet_b0": ("efficientnet_b0", 224, 1, PREDICTOR),
    "evaluate resnet18": ("resnet18", 64, 32, EVALUATE),
    "validate resnet18": ("resnet18", 64, 256, VALIDATE),
    "validate resnet18, both by 256": ("resnet18", 64, 256, "test_on_batch"),
    "validate resnet50": ("resnet50", 128, 255, VALIDATE),
}
DEMO = "demo"
PYTHON, COMMANDS, THEIRS = "ours", "ours, commands that predict", "TensorFlow's"
Times = tuple[float, float]  # by the clock, of the processor; seconds


def environments(isa: str) -> dict[str, dict[str, str]]:
    """Settings of each side, on this processor or on the one that is emulated."""
    clean = {k: v for k, v in os.environ.items() if k not in (runtime.ONEDNN, *runtime.THREADS)}
    if isa == "here":
        flags, held, default = runtime.instructions(), {}, {}
    else:
        flags, default = frozenset(AVX2), {runtime.ONEDNN: "0"}
        held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}
    theirs = {**clean, **held, **default}
    python, commands = (runtime.settings(flags, runtime.allowed(), runtime.quota(), training=t) for t in (True, False))
    return {PYTHON: {**theirs, **python}, COMMANDS: {**theirs, **commands}, THEIRS: theirs}


def demo(environment: dict[str, str]) -> Times:
    """The README's demo as a person would run it, features computed anew."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "keras_cnn.cli", "demo", "--out", f"{folder}/out", "--json"]
        environment = {**environment, "KERAS_CNN_CACHE": f"{folder}/cache"}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(isa: str, side: str, environment: dict[str, str], names: list[str], seconds: float) -> dict[str, Times]:
    """Times of a call, in a fresh process."""
    command = [sys.executable, __file__, "--isa", isa, "--inside", str(seconds), "--side", side, "--tasks", *names]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {name: tuple(times) for name, times in json.loads(done.stdout.splitlines()[-1]).items()}


def inside(isa: str, side: str, names: list[str], seconds: float) -> dict[str, Times]:
    """What `measure` runs."""
    if isa == "avx2":
        runtime.instructions = lambda: frozenset(AVX2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import keras_cnn as kc
    from keras_cnn import tasks
    from keras_cnn.deploy import engines
    from keras_cnn.training import loop, optimizers

    found = {}
    for name in names:
        network, size, batch, what = TASKS[name]
        model: Any = kc.build(network, classes=10, input_shape=(size, size, 3))
        loop.compile_(model, optimizers.adamw(1e-3))
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype("uint8")
        labels = keras.utils.to_categorical(np.arange(batch) % 10, 10)
        arrays = (images, labels) if what in ("train_on_batch", "test_on_batch", VALIDATE) else (images,)
        if what == VALIDATE:
            at_once = 32 if side == THEIRS else loop.at_validation(model, tasks.of(model), 32)
            run = partial(model.evaluate, batch_size=at_once, verbose=0)
        else:
            does = {PREDICTOR: engines.running, EVALUATE: engines.as_it_is}.get(what)
            run = does(model).predict_on_batch if does else getattr(model, what)
        found[name] = least(lambda run=run, arrays=arrays: run(*arrays), seconds)
        keras.backend.clear_session()
    return found


def least(run: Callable[[], Any], seconds: float) -> Times:
    """Least time by the clock, mean time of the processor, over at least two calls; the first two do not count."""
    run(), run()
    walls, start, processor = [], time.perf_counter(), time.process_time()
    while len(walls) < 2 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        walls.append(time.perf_counter() - before)
    return min(walls), (time.process_time() - processor) / len(walls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=("here", "avx2"), default="here", help="instruction sets: the machine's, or")
    parser.add_argument("--tasks", nargs="+", choices=(*TASKS, DEMO), default=[*TASKS, DEMO], metavar="TASK")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each task in each process")
    parser.add_argument("--force", action="store_true", help="measure where both sides have the same settings, too")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        return print(json.dumps(inside(args.isa, args.side, args.tasks, args.inside)))
    sides = environments(args.isa)
    flags = AVX2 if args.isa == "avx2" else sorted(runtime.instructions() & {*AVX2, *runtime.BY_ITSELF, "avx512f"})
    print(f"{runtime.allowed()} cores; {', '.join(flags)}{' (emulated)' if args.isa == 'avx2' else ''}")
    for side, environment in sides.items():
        print(f"{side}: {runtime.ONEDNN}={environment.get(runtime.ONEDNN, 'not set')}")
    predicting = [name for name in args.tasks if name != DEMO and not name.startswith("step")]
    tasks = {PYTHON: args.tasks, COMMANDS: predicting}
    tasks = {side: names for side, names in tasks.items() if names and (args.force or sides[side] != sides[THEIRS])}
    for side in [side for side in (PYTHON, COMMANDS) if sides[side] == sides[THEIRS] and not args.force]:
        print(f"{side}: nothing to compare, the settings are TensorFlow's own")
    tasks[THEIRS] = [name for name in args.tasks if any(name in names for names in tasks.values())]
    took: dict[tuple[str, str], list[Times]] = {(side, name): [] for side, names in tasks.items() for name in names}
    for number in range(args.rounds):
        for side, names in tasks.items():
            calls = [name for name in names if name != DEMO]
            found = measure(args.isa, side, sides[side], calls, args.seconds) if calls else {}
            if DEMO in names and number == 0:
                found[DEMO] = demo(sides[side])
            for name, times in found.items():
                took[side, name].append(times)
    if not took:
        return
    least_of = {key: [min(times[i] for times in all_) for i in range(2)] for key, all_ in took.items()}
    print("| task | ours, s | TensorFlow's, s | by the clock | by the processor |\n|---|---|---|---|---|")
    for (side, name), (wall, processor) in least_of.items():
        if side == THEIRS:
            continue
        their_wall, their_processor = least_of[THEIRS, name]
        ratios = f"{their_wall / wall:.2f} | {their_processor / processor:.2f}"
        called = f"{name}, as a command" if side == COMMANDS else name
        print(f"| {called} | {wall:.3f} ({processor:.3f}) | {their_wall:.3f} ({their_processor:.3f}) | {ratios} |")
    print("Seconds by the clock, in brackets of the processor; ratios above 1: ours is faster.")


if __name__ == "__main__":
    main()
