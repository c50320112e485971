"""Time of a training step on several workers of this machine, by part, and from it on paper that of many machines.

    python tests/benchmarks/workers.py --model resnet18 --size 64 --batch 16 --workers 1 2 4

Each worker is a process of its own on loopback, with its share of the cores, and learns a batch of its own of this
size (weak scaling). "step" is the median of `train`'s steps; "all-reduce" that of a sum, over all workers, of arrays of
the gradients' sizes, by the same TensorFlow; "rest" is the difference: computing, and waiting for the slowest worker.

On paper, a ring all-reduce sends and receives 2 (n - 1) / n of the gradients' bytes at each of n machines, one after
the other: with B bytes and W bit/s it takes 2 (n - 1) / n * 8 B / W seconds. A step that computes for c seconds, and
begins to reduce when it is done, keeps the share c / (c + t) of perfect scaling; what overlaps only makes it better.
resnet50 has 25.6 million parameters: B is 102 MB in float32. Latency, 2 (n - 1) messages for each array, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time


def measured(args: argparse.Namespace) -> None:
    """One worker: train, reduce, and print what that took, if it is the chief."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_cnn as kc

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    with kc.distribute("auto") as place:
        model = kc.build(args.model, classes=10, input_shape=(args.size, args.size, 3))
        whole = args.batch * place.workers
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (whole * args.steps, args.size, args.size, 3)).astype("uint8")
        clock = Clock()
        told = {"batch_size": whole, "epochs": 1, "verbose": 0, "callbacks": [clock]}
        kc.train(model, x, np.arange(len(x)) % 10, **told)
        sizes = [tuple(v.shape) for v in model.trainable_variables]
        reduced = []
        if place.workers > 1:
            strategy = tf.distribute.get_strategy()

            def summed():
                arrays = [tf.ones(shape) for shape in sizes]  # made here, where they have a device
                return tf.distribute.get_replica_context().all_reduce("SUM", arrays)

            @tf.function
            def reduce():
                return strategy.run(summed)

            for _ in range(args.steps):
                begun = time.perf_counter()
                strategy.experimental_local_results(reduce())[0][0].numpy()
                reduced.append(time.perf_counter() - begun)
        steps = np.diff(clock.ends)[1:]
        if place.chief:
            found = {"step": statistics.median(steps), "reduce": statistics.median(reduced[1:] or [0.0])}
            print("FOUND", json.dumps({**found, "bytes": 4 * sum(int(np.prod(shape)) for shape in sizes)}), flush=True)
        place.meet()


def started(args: argparse.Namespace, workers: int) -> dict[str, float]:
    """What the chief of so many workers measured."""
    held = [socket.socket() for _ in range(workers)]
    for one in held:
        one.bind(("localhost", 0))
    addresses = [f"localhost:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    cores = max(1, (os.cpu_count() or 1) // workers)
    processes = []
    for index in range(workers):
        told = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(cores)}
        env |= {"TF_CONFIG": json.dumps(told)} if workers > 1 else {}
        command = [sys.executable, __file__, "--worker", *sys.argv[1:]]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    out = [process.communicate() for process in processes]
    line = next((line for line in out[0][0].splitlines() if line.startswith("FOUND ")), None)
    if line is None:
        sys.exit(f"the chief of {workers} workers ended without a figure:\n{out[0][1][-2000:]}")
    return json.loads(line.removeprefix("FOUND "))


def ring(size: float, machines: int, gigabits: float) -> float:
    """Seconds of a ring all-reduce of so many bytes."""
    return 2 * (machines - 1) / machines * 8 * size / (gigabits * 1e9)


def on_paper(size: float, compute: float) -> None:
    print(f"gradients of {size / 1e6:.1f} MB, a step that computes for {1000 * compute:.0f} ms:")
    print("| machines | Gbit/s | all-reduce, ms | of perfect scaling |\n|---|---|---|---|")
    for machines in (8, 64):
        for gigabits in (10, 100):
            taken = ring(size, machines, gigabits)
            print(f"| {machines} | {gigabits} | {1000 * taken:.0f} | {compute / (compute + taken):.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="images a step of each worker")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--compute-ms", type=float, nargs="*", default=[100.0, 250.0], help="on paper, of resnet50")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return measured(args)
    print(f"{args.model}, {args.size} pixels, {args.batch} images a worker, {os.cpu_count()} cores in all")
    print("| workers | step, ms | all-reduce, ms | rest, ms | images/s |\n|---|---|---|---|---|")
    for workers in args.workers:
        one = started(args, workers)
        step, reduce = one["step"], one["reduce"]
        rate = args.batch * workers / step
        print(f"| {workers} | {1e3 * step:.0f} | {1e3 * reduce:.1f} | {1e3 * (step - reduce):.0f} | {rate:.1f} |")
    for compute in args.compute_ms:
        on_paper(4 * 25.6e6, compute / 1000)


if __name__ == "__main__":
    main()
