"""At prediction batch norm is a fixed straight line for each channel, which the convolution before it can take over.

    python examples/notes/prediction_time.py prediction_time.png

In training an image's answer depends on the images beside it; at prediction it does not. Shows both on crops of two
photos with pretrained weights; that each channel's batch norm is then a factor and a summand; and folds all of them
into the convolutions (1712.05877, section 3.2): the same answers, by fewer layers. `kc.predictor` does so by itself.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import keras_cnn as kc
from keras_cnn.deploy.fold import fold

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--rounds", type=int, default=8, help="of measuring time, both networks in turn")
given = parser.parse_args()
numbers = keras.ops.convert_to_numpy

network = kc.build("resnet18.tiny_in200")
side = network.input_shape[1]
photos = [photo[::2, ::2] for photo in load_sample_images().images]
crops = [photo[y : y + side, x : x + side] for photo in photos for y in (0, 70, 140) for x in range(0, 256, 48)]
images = np.stack(crops[:32])
surest = network.predict(images, verbose=0).max(1).argmax()
images[[0, surest]] = images[[surest, 0]]

# The images beside it: one network, one image, alone and as the first of 32.
answers = {
    (mode, count): numbers(network(images[:count], training=mode == "training"))[0]
    for mode in ("prediction", "training")
    for count in (1, 32)
}
moved = {mode: abs(answers[mode, 1] - answers[mode, 32]).max() for mode in ("prediction", "training")}
np.testing.assert_allclose(moved["prediction"], 0, atol=1e-5)

# A batch norm at prediction: a factor and a summand for each channel.
norm = network.get_layer("stage2_block1_norm1")
entering, leaving = (numbers(x) for x in keras.Model(network.input, [norm.input, norm.output])(images, training=False))
gamma, beta, mean, variance = (numbers(v.value) for v in norm.weights)
factor = gamma / np.sqrt(variance + norm.epsilon)
np.testing.assert_allclose(entering * factor + (beta - mean * factor), leaving, atol=1e-4)

# All of them folded into the convolutions.
folded = fold(network)
before, after = (model.predict(images, verbose=0) for model in (network, folded))
np.testing.assert_allclose(before, after, atol=1e-5)
seconds = {"batch norms": [], "folded": []}
for _ in range(given.rounds):
    for name, model in zip(seconds, (network, folded), strict=True):
        start = time.perf_counter()
        model.predict_on_batch(images)
        seconds[name].append(time.perf_counter() - start)
quickest = {name: min(times) for name, times in seconds.items()}
norms = [sum(isinstance(x, keras.layers.BatchNormalization) for x in model.layers) for model in (network, folded)]

figure = Figure(figsize=(15, 4.5), layout="constrained")
beside, lines, speed = figure.subplots(1, 3)
top = np.argsort(-answers["prediction", 1])[:5]
for i, ((mode, count), answer) in enumerate(answers.items()):
    label = f"{mode}, {'alone' if count == 1 else 'beside 31 others'}"
    beside.bar(np.arange(5) + 0.2 * i - 0.3, answer[top], 0.2, color=["C0", "C9", "C1", "C3"][i], label=label)
beside.set(title="probabilities of one image", xticks=range(5))
beside.set_xticklabels([f"class {i}" for i in top])
beside.legend()
for channel in range(4):
    shown = np.random.default_rng(0).choice(entering[..., channel].size, 300, replace=False)
    x, y = entering[..., channel].ravel()[shown], leaving[..., channel].ravel()[shown]
    slope = f"channel {channel + 1}: {factor[channel]:.2f} x {beta[channel] - mean[channel] * factor[channel]:+.2f}"
    lines.plot(x, y, ".", markersize=4, label=slope)
lines.set(title=f"{norm.name} at prediction", xlabel="what comes in (x)", ylabel="what goes out")
lines.legend()
bars = speed.bar(list(quickest), [1000 * t for t in quickest.values()], color=["0.6", "C0"])
speed.bar_label(bars, [f"{1000 * t:.0f} ms\n{n} batch norms" for t, n in zip(quickest.values(), norms, strict=True)])
speed.set(title="32 images, the quickest of each", ylabel="milliseconds")
speed.margins(y=0.15)
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

print(
    f"Seen: with 31 other images beside it, an image's probabilities move by at most {moved['prediction']:.0e} at "
    f"prediction and by {moved['training']:.2f} in training. {norms[0]} batch norms folded, {norms[1]} left: answers "
    f"differ by at most {abs(before - after).max():.0e}, and take {quickest['folded'] / quickest['batch norms']:.2f} "
    "of the time."
)
