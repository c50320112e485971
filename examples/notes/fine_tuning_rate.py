"""Fine-tuning is dangerous: a rate too high destroys what was learnt, and a head that knows nothing needs such a rate.

    python examples/notes/fine_tuning_rate.py path/to/photos fine_tuning_rate.png

Photos lie in one folder a class; without DATA these are scikit-learn's digits. A pretrained network learns new classes
at several rates, all at once with a random head, and with a head that learnt first, on frozen features. Measured behind
each: the new classes, and how much is left of the old: for how many images the old head still says what it said.
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
parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-3, 1e-2, 1e-1], help="learning rates of SGD")
parser.add_argument("--images", type=int, default=20, help="of each class, to learn from")
parser.add_argument("--steps", type=int, default=12)
given = parser.parse_args()

original = kc.build("resnet18.tiny_in200")
data = kc.load_data(given.data, original).subset(given.images)
train = data.arrays("train")
some = np.random.default_rng(0).permutation(data.sizes["val"])[:200]
images, labels = data.arrays("val").images[some], data.arrays("val").labels[some]
old_kernel, old_bias = original.get_layer("head_logits").get_weights()
said = original.predict(images, verbose=0).argmax(1)

keras.utils.set_random_seed(0)
model = kc.build("resnet18.tiny_in200", classes=data.class_names)
starts = {"all at once": model.get_weights()}
kc.fine_tune(model, data, schedule="head", probe=False, verbose=0, cache=False)
starts["head first"] = model.get_weights()
kc.unfreeze(model)
model.compile(keras.optimizers.SGD(momentum=0.9), "sparse_categorical_crossentropy")
seeing = keras.Model(model.input, [model.output, model.get_layer("head_logits").input])


def judged():
    """(share of new images named right, share of them for which the old head says what it said)."""
    answers, features = seeing.predict(images, verbose=0)
    kept = np.argmax(features @ old_kernel + old_bias, 1) == said
    return np.mean(answers.argmax(1) == labels), np.mean(kept)


figures = {}
for way, weights in starts.items():
    model.set_weights(weights)
    figures[way, 0.0] = judged()
    for rate in given.rates:
        model.set_weights(weights)
        for variable in model.optimizer.variables:  # momentum of the run before
            variable.assign(keras.ops.zeros_like(variable))
        model.optimizer.learning_rate = rate
        draws = np.random.default_rng(0)
        for _ in range(given.steps):
            batch = draws.choice(len(train.labels), 25)
            model.train_on_batch(train.images[batch], train.labels[batch])
        figures[way, rate] = judged()
assert all(figures[way, 0.0][1] == 1 for way in starts), "before it learns, the old head says what it said"

rates = [0.0, *given.rates]
figure = Figure(figsize=(12, 4.5), layout="constrained")
for i, (axis, title) in enumerate(
    zip(figure.subplots(1, 2), ("new classes: named right", "old head: says what it said"), strict=True)
):
    for way, style in zip(starts, ("s--", "o-"), strict=True):
        axis.plot(range(len(rates)), [figures[way, rate][i] for rate in rates], style, label=way)
    axis.set(title=title, xticks=range(len(rates)), xticklabels=["before", *(f"{rate:g}" for rate in given.rates)])
    axis.set(xlabel=f"learning rate, {given.steps} steps", ylabel=f"share of {len(some)} images", ylim=(0, 1.03))
    axis.legend()
given.out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(given.out, dpi=100)

best = {way: max(given.rates, key=lambda rate: figures[way, rate][0]) for way in starts}
print(
    "Seen: "
    + "; ".join(
        f"{way}, best at rate {best[way]:g}: {figures[way, best[way]][0]:.0%} of the new images right and "
        f"{figures[way, best[way]][1]:.0%} of the old answers kept, at {max(given.rates):g} "
        f"{figures[way, max(given.rates)][0]:.0%} and {figures[way, max(given.rates)][1]:.0%}"
        for way in starts
    )
    + f". The head that learnt first, on frozen features, began with {figures['head first', 0.0][0]:.0%}."
)
