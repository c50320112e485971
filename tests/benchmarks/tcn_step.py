"""Time of a training step of a TCN beside keras-tcn's of the same size, in turns.

    python tests/benchmarks/tcn_step.py [--rounds 9] [--steps 256] [--filters 64] [--batch 32]

Needs keras-tcn. Both have the same blocks, widths, dilations and no norm, learn with Adam, and are compiled as Keras
does by default; ours standardises its input besides. Prints medians of a step, and how many times as fast ours is.
Nothing is asserted: timings are for reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tcn

import keras_cnn as kc

DILATIONS = (1, 2, 4, 8, 16, 32)


def networks(steps: int, channels: int, filters: int, norm: str) -> dict[str, keras.Model]:
    ours = kc.TCN(widths=(filters,), dilations=DILATIONS, norm=norm)
    sequence = keras.Input((steps, channels))
    told = {"use_batch_norm": norm == "batch", "use_layer_norm": norm == "layer", "use_skip_connections": False}
    layer = tcn.TCN(filters, dilations=list(DILATIONS), **told)
    theirs = keras.Model(sequence, keras.layers.Dense(4, "softmax")(layer(sequence)))
    return {"keras_cnn": kc.build(ours, input_shape=(steps, channels), classes=4), "keras-tcn": theirs}


def seconds(model: keras.Model, x, y, batches: int) -> float:
    """Of one step, all of them in one call of Keras' fit, as people train."""
    start = time.perf_counter()
    model.fit(x, y, batch_size=len(x) // batches, epochs=1, verbose=0, shuffle=False)
    return (time.perf_counter() - start) / batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"rounds": 9, "steps": 256, "channels": 8, "filters": 64, "batch": 32, "batches": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    x = np.random.default_rng(0).normal(size=(given.batch * given.batches, given.steps, given.channels))
    x, y = x.astype("float32"), np.arange(len(x)) % 4
    print(f"{'':<8}{'keras_cnn':>12}{'keras-tcn':>12}{'times as fast':>15}   ({keras.backend.backend()}, {given})")
    for norm in ("none", "batch", "layer"):
        models = networks(given.steps, given.channels, given.filters, norm)
        for model in models.values():
            model.compile("adam", "sparse_categorical_crossentropy")
            seconds(model, x, y, given.batches)
        turns = [[seconds(model, x, y, given.batches) for model in models.values()] for _ in range(given.rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(b / a for a, b in turns)
        print(f"{norm:<8}{ours * 1e3:>9.1f} ms{theirs * 1e3:>9.1f} ms{ratio:>15.2f}")


if __name__ == "__main__":
    main()
