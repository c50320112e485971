"""Deeper plain networks train worse, deeper residual ones do not (He et al., 1512.03385); a sum or a concatenation.

    python examples/notes/residual_vs_plain.py cifar10.zip residual_vs_plain.png

The zip or folder has train/CLASS/ with images such as CIFAR-10's. Trains plain and residual networks of 20 and 56 layers,
half as wide as the paper's, with and without batch norm, and draws their loss and the gradient of every 3x3 kernel before
the first step; then a sum and a concatenation at equal cost. SGD with momentum and warm-up from He's initialisation;
without norm its gradients are clipped, since those of the sum would leap beyond all numbers. About 10 minutes on 2 cores.
What was measured is kept in residual_vs_plain.json, from which a second call draws at once.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.insight.gradients import gradients
from keras_cnn.models.shapes import macs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar", help="the images")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--steps", type=int, default=200, help="batches of 64 that each network learns from")
parser.add_argument("--width", type=int, default=8, help="channels of the first stage; the paper's have 16")
asked = parser.parse_args()

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
data = kc.load_data(asked.cifar, kc.build("resnet20"), val_split=0, decode=("train",)).arrays("train")
images, labels = data.images.astype("float32"), data.labels


def network(depth, width, seed=0, **options):
    """From the paper's start: every gamma is 1, where `build` lets each residual branch start at 0."""
    keras.utils.set_random_seed(seed)
    model = kc.build(f"resnet{depth}", widths=(width, 2 * width, 4 * width), classifier_activation=None, **options)
    for layer in model.layers:
        if getattr(layer, "gamma", None) is not None:
            layer.gamma.assign(np.ones(layer.gamma.shape))
    return model


def cost(model):
    return macs(sum(kc.profile(model).values(), []))


def kernel_gradients(model, x, y):
    """Norm of the loss's gradient by each 3x3 kernel, from the image on."""
    fixed = [v.value for v in model.non_trainable_variables]

    def value(*weights):
        return loss(y, model.stateless_call(weights, fixed, x, training=True)[0])

    _, found = gradients(value, [v.value for v in model.trainable_variables])
    return [float(np.linalg.norm(g)) for g in found if g.ndim == 4 and g.shape[0] == 3]


def measure(depth, width, seed=0, **options):
    model = network(depth, width, seed, **options)
    batches = np.random.default_rng(seed).integers(len(images), size=(asked.steps, 64))
    start = kernel_gradients(model, images[batches[0]], labels[batches[0]])
    rate = keras.optimizers.schedules.CosineDecay(0.0, asked.steps, warmup_target=0.05, warmup_steps=asked.steps // 8)
    clip = 1.0 if options.get("norm") == "none" else None
    model.compile(keras.optimizers.SGD(rate, 0.9, global_clipnorm=clip), loss, jit_compile=False)
    losses = []
    for some in batches:
        model.reset_metrics()
        losses.append(float(model.train_on_batch(images[some], labels[some])))
    return {"loss": losses, "gradients": start, "macs": cost(model), "width": width}


wide = 2 * asked.width  # at which a channel less makes up for the 1x1 convolutions behind a concatenation
sum_cost = cost(network(20, wide))
narrow = min(range(1, wide + 1), key=lambda w: abs(cost(network(20, w, merge="concat")) - sum_cost))
KINDS = {"plain": "none", "residual": "add"}
NORMS = {"batch norm": "batch", "no norm": "none"}
RUNS = {
    **{
        f"{kind}-{depth}, {norm}": (depth, asked.width, 0, {"merge": KINDS[kind], "norm": NORMS[norm]})
        for norm in NORMS for kind in KINDS for depth in (20, 56)
    },
    **{
        f"{merge}, seed {seed}": (20, width, seed, {"merge": merge})
        for seed in (0, 1) for merge, width in (("add", wide), ("concat", narrow))
    },
}  # fmt: skip

asked.out.parent.mkdir(parents=True, exist_ok=True)
file = asked.out.with_suffix(".json")
kept = json.loads(file.read_text()) if file.exists() else {}
runs = {}
for name, (depth, width, seed, options) in RUNS.items():
    key = f"{name}, width {width}, {asked.steps} steps"
    if key not in kept:
        kept[key] = measure(depth, width, seed, **options)
        file.write_text(json.dumps(kept))
    runs[name] = kept[key]
    print(f"{name}: loss {np.mean(runs[name]['loss'][-asked.steps // 6 :]):.3f}", flush=True)
