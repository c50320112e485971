"""What batch norm takes away, gamma and beta can give back: with them it can be the identity.

    python examples/notes/gamma_and_beta.py gamma_and_beta.png

Normalised values have mean 0 and spread 1, whatever the layer before says; a layer that had better not be normalised
can learn so (Ioffe & Szegedy 2015, 1502.03167, section 3). With gamma the standard deviation of what comes in, and beta
its mean, output equals input; and a batch norm that is taught to copy its input finds these by itself.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--steps", type=int, default=100, help="of learning to copy")
given = parser.parse_args()
keras.utils.set_random_seed(0)

MEANS, SPREADS = np.array([-3.0, 0.5, 4.0]), np.array([0.5, 2.0, 1.0])
rng = np.random.default_rng(0)
x = (MEANS + SPREADS * rng.normal(size=(4096, 3))).astype("float32")
mean, deviation = x.mean(0), x.std(0)

norm = keras.layers.BatchNormalization(epsilon=1e-5)
norm.build(x.shape)
normalised = keras.ops.convert_to_numpy(norm(x, training=True))
np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-4)
np.testing.assert_allclose(normalised.std(0), 1, atol=1e-4)
norm.gamma.assign(np.sqrt(deviation**2 + norm.epsilon))
norm.beta.assign(mean)
undone = abs(keras.ops.convert_to_numpy(norm(x, training=True)) - x).max()
np.testing.assert_allclose(undone, 0, atol=1e-4)


model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(epsilon=1e-5)])
model.compile(keras.optimizers.SGD(0.2), "mse")
seen = [model.layers[-1].get_weights()[:2]]
for _ in range(given.steps):
    model.train_on_batch(x, x)
    seen.append(model.layers[-1].get_weights()[:2])
gammas, betas = np.array(seen).swapaxes(0, 1)
error = np.concatenate([gammas[-1] - deviation, betas[-1] - mean])

figure = Figure(figsize=(15, 4.5), layout="constrained")
before, after, learning = figure.subplots(1, 3)
bins = np.linspace(-8, 9, 120)
for axis, title, values in ((before, "what comes in", x), (after, "normalised: all channels are alike", normalised)):
    for channel in range(3):
        axis.hist(values[:, channel], bins, alpha=0.6, color=f"C{channel}", label=f"channel {channel + 1}")
    axis.set(title=title, xlabel="value", ylabel="how many")
    axis.legend()
for channel in range(3):
    learning.plot(gammas[:, channel], f"C{channel}", label=f"gamma {channel + 1}")
    learning.plot(betas[:, channel], f"C{channel}--", label=f"beta {channel + 1}")
    learning.axhline(deviation[channel], color=f"C{channel}", linewidth=0.5)
    learning.axhline(mean[channel], color=f"C{channel}", linewidth=0.5, linestyle="--")
learning.set(title="taught to copy its input\n(thin lines: deviations and means)", xlabel="step")
learning.legend(ncols=3, fontsize="small", loc="center right", bbox_to_anchor=(1, 0.28))
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

print(
    f"Seen: with gamma = standard deviation and beta = mean, batch norm gives its input back (largest difference "
    f"{undone:.0e}). Taught to copy, after {given.steps} steps its gammas are {np.round(gammas[-1], 2)} where the "
    f"deviations are {np.round(deviation, 2)}, its betas {np.round(betas[-1], 2)} where the means are "
    f"{np.round(mean, 2)}: at most {abs(error).max():.2g} away."
)
