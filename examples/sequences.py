"""Classify sequences and forecast a series with temporal convolutional networks, beside plain baselines.

    python examples/sequences.py vowels.npz elnino.csv runs/sequences --season 12 --window 48 --horizon 12

The first file has x_train, y_train, x_test, y_test, x being (n, time, channels); the second a column `time` and one for
each channel, a row a step. Real ones come with two packages: aeon's Japanese vowels (nine speakers, 12 channels), and
the temperature of the Pacific, month by month since 1950, of statsmodels:

    (x, y), (xt, yt) = (load_from_ts_file(f"{AEON}/JapaneseVowels_eq_{part}.ts") for part in ("TRAIN", "TEST"))
    np.savez("vowels.npz", x_train=x.swapaxes(1, 2), y_train=y, x_test=xt.swapaxes(1, 2), y_test=yt)
    months = statsmodels.datasets.elnino.load_pandas().data.iloc[:, 1:].to_numpy().ravel()
    pd.DataFrame({"time": range(len(months)), "celsius": months}).to_csv("elnino.csv", index=False)

Baselines: the class of the nearest training sequence; the value of the same month a year ago.
"""

import argparse
from pathlib import Path

import keras
import matplotlib
import numpy as np

import keras_cnn as kc

matplotlib.use("agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("labelled", help="an .npz file of sequences with classes")
parser.add_argument("series", help="a table of one long series")
parser.add_argument("out", type=Path, help="the only folder that is written to")
parser.add_argument("--season", type=int, default=12, help="steps after which the series repeats itself, roughly")
parser.add_argument("--window", type=int, default=48, help="steps that are seen")
parser.add_argument("--horizon", type=int, default=12, help="steps that are forecast")
parser.add_argument("--width", type=int, default=32, help="channels of each block")
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--seeds", type=int, default=3)
given = parser.parse_args()


def network(found, **head):
    """A network whose blocks reach over the whole sequence."""
    dilations = [2**i for i in range(12) if 1 + 4 * (2**i - 1) < found.input_shape[0]]
    return kc.build("tcn", input_shape=found.input_shape, widths=(given.width,), dilations=dilations, **head)


def standardise(model, found) -> None:
    """Tell the network the mean and the spread of what it sees, and of what it forecasts."""
    for layer, values in {"stem_standardise": found.train[0], "head_unit": found.train[1]}.items():
        if layer in {one.name for one in model.layers}:
            model.get_layer(layer).mean.assign(values.mean((0, 1)))
            model.get_layer(layer).std.assign(values.std((0, 1)) + 1e-6)


def fit(model, found, loss: str):
    standardise(model, found)
    steps = given.epochs * -(-len(found.train[0]) // 32)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), loss)
    model.fit(*found.train, batch_size=32, epochs=given.epochs, verbose=0)
    return model.predict(found.test[0], verbose=0)


def nearest(found) -> np.ndarray:
    """The class of the training sequence with the least squared distance, channels standardised."""
    (x, y), (test, _) = found.train, found.test
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std
    return np.array([y[((x - one) ** 2).sum((1, 2)).argmin()] for one in test])


labelled = kc.load_sequences(given.labelled)
print(labelled)
truth = labelled.test[1]
accuracies = {"1-NN": [np.mean(nearest(labelled) == truth)], "TCN": []}

series = kc.load_sequences(given.series, window=given.window, horizon=given.horizon, val_split=0, test_split=0.25)
print(series)
seen, coming = series.test
places = [series.channels.index(name) for name in series.targets]
naive = np.stack([seen[:, h % given.season - given.season, places] for h in range(given.horizon)], axis=1)
errors = {"seasonal naive": [np.abs(naive - coming).mean()], "TCN": []}

for seed in range(given.seeds):
    keras.utils.set_random_seed(seed)
    model = network(labelled, classes=labelled.class_names)
    accuracies["TCN"].append(np.mean(fit(model, labelled, "sparse_categorical_crossentropy").argmax(1) == truth))
    model = network(series, targets=series.targets, horizon=series.horizon)
    forecast = fit(model, series, "mae")
    errors["TCN"].append(np.abs(forecast - coming).mean())

for what, figures in {"accuracy": accuracies, "mean absolute error": errors}.items():
    for name, values in figures.items():
        print(f"{what:20} {name:16} {np.mean(values):.4f} +- {np.std(values):.4f} over {len(values)}")

given.out.mkdir(parents=True, exist_ok=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.bar(list(accuracies), [np.mean(v) for v in accuracies.values()], yerr=[np.ptp(v) / 2 for v in accuracies.values()])
left.set(title=f"{labelled.source}: {len(truth)} test sequences", ylabel="accuracy", ylim=(0, 1))
one, steps = len(seen) // 2, np.arange(given.window + given.horizon)
name = series.targets[0]
right.plot(steps[: given.window], seen[one, :, places[0]], color="0.4", label="seen")
right.plot(steps[given.window :], coming[one, :, 0], color="black", label="what came")
right.plot(steps[given.window :], forecast[one, :, 0], label="TCN")
right.plot(steps[given.window :], naive[one, :, 0], ":", label="seasonal naive")
right.set(title=f"{series.source}: {given.horizon} steps ahead", xlabel="step", ylabel=name)
right.legend()
figure.savefig(given.out / "sequences.png", dpi=120)
print(f"{given.out}/sequences.png shows both")
