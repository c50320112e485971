"""Training a head on a frozen ResNet50: features computed once, beside Keras' `fit` that runs the backbone each epoch.

    python tests/benchmarks/frozen_head.py path/to/images --epochs 10 30 --size 128

Same images (not augmented), head, optimiser, cycle of the rate, order of magnitude of everything but the backbone's
runs. Each time is a whole run from a built network to validated weights, tracing and the disk's part included, with an
empty cache. Prints a line for each number of epochs: both times, their ratio, both accuracies.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--images", type=int, help="Train on so many only, spread over all, and validate on a quarter.")
    args = parser.parse_args()

    import keras

    import keras_cnn as kc
    from keras_cnn.training import loop, optimizers, schedules

    shape = (args.size, args.size, 3)
    data = kc.load_data(args.data, kc.build(args.model, input_shape=shape), batch_size=args.batch_size)
    train, val = (some(data.arrays(name), n) for name, n in (("train", args.images), ("val", (args.images or 0) // 4)))
    counts = f"{len(train[1])} training and {len(val[1])} validation images"
    print(f"{args.model} at {args.size} pixels, {counts}, {os.cpu_count()} cores, Keras {keras.__version__}")

    def build():
        keras.utils.set_random_seed(0)  # the same random backbone and head
        return kc.build(args.model, input_shape=shape, classes=data.class_names, freeze="stage4")

    def plain(epochs: int) -> Took:
        net = build()
        watch = Watch()
        cycle = schedules.OneCycle(args.learning_rate, epochs * -(-len(train[1]) // args.batch_size))
        loop.compile_(net, optimizers.adamw(cycle, weight_decay=0.05))
        history = loop.fit(net, train, val, batch_size=args.batch_size, epochs=epochs, verbose=0).history
        return watch.report(f"{epochs} epochs, backbone run every epoch", history)

    def once(epochs: int) -> Took:
        net = build()
        with tempfile.TemporaryDirectory() as cache:
            watch = Watch()
            told = {"schedule": "head", "head_epochs": epochs, "head_learning_rate": args.learning_rate}
            told |= {"probe": False, "cache": cache}
            history = kc.fine_tune(net, train, val, batch_size=args.batch_size, **told, verbose=0).history
        return watch.report(f"{epochs} epochs, backbone run once", history)

    for epochs in args.epochs:
        first = once(epochs)
        slow = plain(epochs)
        second = once(epochs)  # on both sides of the long run, since a machine's speed drifts
        wall, cpu = (2 * slow[i] / (first[i] + second[i]) for i in range(2))
        print(f"{epochs} epochs: {wall:.1f} times as fast by the clock, {cpu:.1f} by the processor", flush=True)


Took = tuple[float, float]


def some(split, count: int | None):
    """(images, labels) of a split, or so many of them, spread over all."""
    step = max(len(split.labels) // count, 1) if count else 1
    return split.images[::step][: count or None], split.labels[::step][: count or None]


class Watch:
    """Time since it was made, by the clock and of the processor: the second one holds on a machine that is not idle."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def report(self, what: str, history: dict[str, list[float]]) -> Took:
        wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        best, last = max(history["val_accuracy"]), history["val_accuracy"][-1]
        print(f"{what}: {wall:.1f} s, {cpu:.1f} s of processor; accuracy {last:.4f}, best {best:.4f}", flush=True)
        return wall, cpu


if __name__ == "__main__":
    main()
