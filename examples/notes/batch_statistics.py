"""Prediction uses a moving average of batch statistics, which lags: after few steps it is mostly where it began.

    python examples/notes/batch_statistics.py batch_statistics.png
    python examples/notes/batch_statistics.py path/to/photos batch_statistics.png

After n batches a moving average with momentum m has seen 1 - m^n of the truth. Shows it for one layer, and what it does
to a whole network: the accuracy on validation images during its first steps, with the statistics of those images
themselves, with the moving average, and with those of all training images (`kc.recalibrate_batchnorm`; Ioffe & Szegedy
2015, 1502.03167, algorithm 2). Without DATA it learns scikit-learn's handwritten digits.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", default="digits", help="photos, one folder a class")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--steps", type=int, nargs="+", default=[10, 40, 160, 480], help="after which it is judged")
parser.add_argument("--momentum", type=float, default=0.99, help="of the network; Keras' own default is 0.99")
given = parser.parse_args()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# One layer: batches of mean 5; the moving mean starts at 0.
MOMENTA, BATCHES, MEAN = (0.9, 0.99, 0.999), 300, 5
moving = {}
for momentum in MOMENTA:
    layer = keras.layers.BatchNormalization(momentum=momentum)
    layer.build((None, 1))
    batch = rng.normal(size=(64, 1)).astype("float32")
    batch += MEAN - batch.mean()
    seen = [0.0]
    for _ in range(BATCHES):
        layer(batch, training=True)
        seen.append(float(keras.ops.convert_to_numpy(layer.moving_mean.value)[0]))
    moving[momentum] = np.array(seen)
    np.testing.assert_allclose(moving[momentum], MEAN * (1 - momentum ** np.arange(BATCHES + 1)), atol=2e-3)

# A network: its first steps, judged three ways.
shape = {"depths": (1, 1, 1), "norm_momentum": given.momentum, "input_shape": (16, 16, 3)}
data = kc.load_data(given.data, kc.build("resnet20", **shape))
model = kc.build("resnet20", classes=data.class_names, **shape)
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
train, held_out = data.arrays("train"), data.arrays("val")
norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
accuracy = {"statistics of the images themselves": [], "moving average": [], "statistics of all training images": []}
own, averaged, exact = accuracy.values()


def right(training=False):
    kept = [layer.get_weights() for layer in norms]
    answers = keras.ops.convert_to_numpy(model(held_out.images, training=training)).argmax(1)
    for layer, weights in zip(norms, kept, strict=True):  # looking must not move the average
        layer.set_weights(weights)
    return np.mean(answers == held_out.labels)


done = 0
for count in sorted(given.steps):
    while done < count:
        batch = rng.choice(len(train.labels), 32)
        model.train_on_batch(train.images[batch], train.labels[batch])
        done += 1
    own.append(right(training=True))
    averaged.append(right())
    kept = [layer.get_weights() for layer in norms]
    kc.recalibrate_batchnorm(model, train.images, batch_size=512)
    exact.append(right())
    for layer, weights in zip(norms, kept, strict=True):
        layer.set_weights(weights)

figure = Figure(figsize=(12, 4.5), layout="constrained")
one, whole = figure.subplots(1, 2)
for momentum, seen in moving.items():
    one.plot(seen, label=f"momentum {momentum}")
one.axhline(MEAN, color="black", linestyle=":", label="mean of every batch")
one.set(title="one layer: its moving mean", xlabel="batches", ylabel="moving mean")
one.legend()
for (name, values), style in zip(accuracy.items(), ("s:", "o-", "^--"), strict=True):
    whole.plot(sorted(given.steps), values, style, label=name)
whole.set(title=f"a network, momentum {given.momentum}: validation accuracy", xlabel="training steps", ylim=(0, 1))
whole.set_xscale("log")
whole.set(xticks=sorted(given.steps), xticklabels=sorted(given.steps))
whole.minorticks_off()
whole.legend(title="batch norm uses the")
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

worst = int(np.argmax(np.array(exact) - averaged))
print(
    f"Seen: after 100 batches a moving mean has reached {', '.join(f'{m[100] / MEAN:.2f}' for m in moving.values())} "
    f"of the truth with momentum {', '.join(map(str, MOMENTA))}, as 1 - m^n says. The network after "
    f"{sorted(given.steps)[worst]} steps: {averaged[worst]:.0%} right with the moving average, {exact[worst]:.0%} with "
    f"exact statistics and the same weights; after {done}: {averaged[-1]:.0%} and {exact[-1]:.0%}."
)
