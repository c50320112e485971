"""What TCNs reach on real sequences beside keras-tcn's of the same size, trained alike, and beside plain baselines.

    python tests/benchmarks/tcn_accuracy.py vowels.npz elnino.csv [--seeds 0 1 2] [--epochs 40] [--width 32]

Needs keras-tcn. The files are those of `examples/sequences.py`, whose head says how they are made: Japanese vowels of
nine speakers, and the temperature of the Pacific by month, of which 48 months are seen and 12 forecast. Both networks
have the same blocks, widths and dilations and no norm, see the same sequences standardised by channel, and learn with
Adam over one cosine, by Keras' own `fit`. Prints mean and standard deviation on the test part. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tcn

import keras_cnn as kc

SEASON, WINDOW, HORIZON = 12, 48, 12


def networks(found: kc.Sequences, width: int, classes: int) -> dict[str, keras.Model]:
    """Both, for as many classes, or for a forecast of one channel where there are none."""
    shape = found.input_shape
    dilations = [2**i for i in range(12) if 1 + 4 * (2**i - 1) < shape[0]]
    head = {"classes": classes} if classes else {"targets": found.targets, "horizon": HORIZON}
    ours = kc.build("tcn", input_shape=shape, widths=(width,), dilations=dilations, norm="none", **head)
    sequence = keras.Input(shape)
    last = tcn.TCN(width, dilations=dilations, use_skip_connections=False)(sequence)
    answer = keras.layers.Dense(classes, "softmax") if classes else keras.layers.Dense(HORIZON)
    return {"keras_cnn": ours, "keras-tcn": keras.Model(sequence, answer(last))}


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, epochs: int) -> None:
    steps = epochs * -(-len(x) // 32)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=4e-3, warmup_steps=steps // 5)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), loss)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled")
    parser.add_argument("series")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=32)
    told = parser.parse_args()
    labelled = kc.load_sequences(told.labelled, val_split=0)
    series = kc.load_sequences(told.series, window=WINDOW, horizon=HORIZON, val_split=0, test_split=0.25)
    found: dict[tuple[str, str], list[float]] = {}
    for what, data in (("accuracy", labelled), ("mean absolute error", series)):
        classes = len(labelled.class_names) if data is labelled else 0
        (x, y), (seen, truth) = data.train, data.test
        mean, std = x.mean((0, 1)), x.std((0, 1))
        x, inputs = (x - mean) / std, (seen - mean) / std
        y = y if classes else (y[..., 0] - mean) / std
        loss = "sparse_categorical_crossentropy" if classes else "mean_absolute_error"
        for seed in told.seeds:
            for name in ("keras_cnn", "keras-tcn"):
                keras.utils.set_random_seed(seed)
                model = networks(data, told.width, classes)[name]
                fit(model, x, y if classes else y.reshape(-1, *model.output_shape[1:]), loss, told.epochs)
                rows = model.predict(inputs, verbose=0)
                if classes:
                    figure = (rows.argmax(-1) == truth).mean()
                else:
                    figure = np.abs(rows.reshape(len(rows), -1) * std + mean - truth[..., 0]).mean()
                found.setdefault((what, f"{name}, {model.count_params():,} parameters"), []).append(float(figure))
    for (what, name), figures in found.items():
        print(f"{what:20} {name:32} {np.mean(figures):.4f} +- {np.std(figures):.4f} over {len(figures)}")


if __name__ == "__main__":
    main()
