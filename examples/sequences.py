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
Of 40 waves, slow and fast, it names more than 90 % right; where a season drifts, its error is below the baseline's.
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


def fit(model, found, **told):
    """Learn, all layers from the start; the mean and the spread of each channel go into the network by themselves."""
    kc.fine_tune(model, found.train, schedule="all", epochs=given.epochs, learning_rate=4e-3, verbose=0, **told)
    return kc.evaluate(model, found.test)


def nearest(found) -> np.ndarray:
    """The class of the training sequence with the least squared distance, channels standardised."""
    (x, y), (test, _) = found.train, found.test
    mean, std = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    x, test = (x - mean) / std, (test - mean) / std
    return np.array([y[((x - one) ** 2).sum((1, 2)).argmin()] for one in test])


labelled = kc.load_sequences(given.labelled, val_split=0)
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
    classified = fit(network(labelled, classes=labelled.class_names), labelled, seed=seed)
    accuracies["TCN"].append(classified.metrics["accuracy"])
    forecast = fit(network(series, targets=series.targets, horizon=series.horizon), series, loss="absolute", seed=seed)
    errors["TCN"].append(forecast.metrics["mae"])

for what, figures in {"accuracy": accuracies, "mean absolute error": errors}.items():
    for name, values in figures.items():
        print(f"{what:20} {name:16} {np.mean(values):.4f} +- {np.std(values):.4f} over {len(values)}")

given.out.mkdir(parents=True, exist_ok=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
spread = [np.ptp(values) / 2 for values in accuracies.values()]
bars = left.bar(list(accuracies), [np.mean(values) for values in accuracies.values()], yerr=spread, color=["0.6", "C0"])
left.bar_label(bars, fmt="{:.3f}", label_type="center")
left.set(title=f"{labelled.source}: {len(truth)} test sequences", ylabel="accuracy", ylim=(0, 1))
one, steps = len(seen) // 2, np.arange(given.window + given.horizon)
name = series.targets[0]
right.plot(steps[: given.window], seen[one, :, places[0]], color="0.4", label="seen")
right.plot(steps[given.window :], coming[one, :, 0], color="black", label="what came")
right.plot(steps[given.window :], forecast.outputs[one, :, 0], label="TCN")
right.plot(steps[given.window :], naive[one, :, 0], ":", label="seasonal naive")
right.set(title=f"{series.source}: {given.horizon} steps ahead", xlabel="step", ylabel=name)
figure.legend(loc="outside lower right", ncols=4)  # below, where no curve is
figure.savefig(given.out / "sequences.png", dpi=120)
print(f"{given.out}/sequences.png shows both")
