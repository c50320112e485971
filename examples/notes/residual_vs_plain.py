"""Deeper plain networks train worse, deeper residual ones do not (He et al., 1512.03385, figures 1 and 6).

    python examples/notes/residual_vs_plain.py cifar10.zip residual_vs_plain.png

The zip or folder has train/CLASS/ with images such as CIFAR-10's. Trains plain and residual networks of 20 and 56
layers, half as wide as the paper's, with and without batch norm, and draws their loss and, before the first step, the
gradient of every 3x3 kernel. He's initialisation, SGD with momentum and warm-up; without norm gradients are clipped,
since those of a sum would leap beyond all numbers. About 6 minutes on 2 cores. What was measured is kept in
residual_vs_plain.json, from which a second call goes on, or draws at once.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.insight.gradients import gradients

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar", help="the images")
parser.add_argument("out", type=Path, help="the picture that is written")
parser.add_argument("--steps", type=int, default=200, help="batches of 64 that each network learns from")
parser.add_argument("--width", type=int, default=8, help="channels of the first stage; the paper's have 16")
parser.add_argument("--depths", type=int, nargs=2, default=(20, 56), help="layers, 6n + 2 of them")
asked = parser.parse_args()

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
data = kc.load_data(asked.cifar, kc.build("resnet20"), val_split=0, decode=("train",)).arrays("train")
images, labels = data.images.astype("float32"), data.labels


def network(depth, **options):
    """From the paper's start: every gamma is 1, where `build` lets each residual branch start at 0."""
    keras.utils.set_random_seed(0)
    blocks, widths = ((depth - 2) // 6,) * 3, tuple(asked.width * n for n in (1, 2, 4))
    model = kc.build("resnet20", depths=blocks, widths=widths, classifier_activation=None, **options)
    for layer in model.layers:
        if getattr(layer, "gamma", None) is not None:
            layer.gamma.assign(np.ones(layer.gamma.shape))
    return model


def kernel_gradients(model, x, y):
    """Norm of the loss's gradient by each 3x3 kernel, from the image on."""
    fixed = [v.value for v in model.non_trainable_variables]

    def value(*weights):
        return loss(y, model.stateless_call(weights, fixed, x, training=True)[0])

    _, found = gradients(value, [v.value for v in model.trainable_variables])
    return [float(np.linalg.norm(g)) for g in found if g.ndim == 4 and g.shape[0] == 3]


def measure(depth, **options):
    model = network(depth, **options)
    batches = np.random.default_rng(0).integers(len(images), size=(asked.steps, 64))
    start = kernel_gradients(model, images[batches[0]], labels[batches[0]])
    rate = keras.optimizers.schedules.CosineDecay(0.0, asked.steps, warmup_target=0.05, warmup_steps=asked.steps // 8)
    clip = 1.0 if options.get("norm") == "none" else None
    model.compile(keras.optimizers.SGD(rate, 0.9, global_clipnorm=clip), loss, jit_compile=False)
    losses = []
    for some in batches:
        model.reset_metrics()
        losses.append(float(model.train_on_batch(images[some], labels[some])))
    return {"loss": losses, "gradients": start}


KINDS = {"plain": "none", "residual": "add"}
NORMS = {"batch norm": "batch", "no norm": "none"}
RUNS = [(norm, kind, depth) for norm in NORMS for kind in KINDS for depth in asked.depths]
runs = {}


def smooth(values):
    """Means over a tenth of the steps."""
    window = max(1, asked.steps // 10)
    return np.convolve(values, np.ones(window) / window, "valid")


def ending(name):
    return np.mean(runs[name]["loss"][-max(1, asked.steps // 6) :])


asked.out.parent.mkdir(parents=True, exist_ok=True)
file = asked.out.with_suffix(".json")
kept = json.loads(file.read_text()) if file.exists() else {}
for norm, kind, depth in RUNS:
    name = f"{kind}-{depth}, {norm}"
    key = f"{name}, width {asked.width}, {asked.steps} steps"
    if key not in kept:
        kept[key] = measure(depth, merge=KINDS[kind], norm=NORMS[norm])
        file.write_text(json.dumps(kept))
    runs[name] = kept[key]
    print(f"{name}: loss {ending(name):.3f}", flush=True)

figure = Figure(figsize=(12, 8), layout="constrained")
axes = figure.subplots(2, 2)
for norm, (above, below) in zip(NORMS, axes.T, strict=True):
    for kind, colour in zip(KINDS, ("tab:red", "tab:blue"), strict=True):
        for depth, style in zip(asked.depths, ("--", "-"), strict=True):
            run, label = runs[f"{kind}-{depth}, {norm}"], f"{kind}-{depth}"
            above.plot(smooth(run["loss"]), style, color=colour, label=label)
            below.plot(np.linspace(0, 1, len(run["gradients"])), run["gradients"], style, color=colour, label=label)
    above.set(title=f"{norm}: training loss", xlabel="step", ylim=(1, 3))
    below.set(title=f"{norm}: gradient by each 3x3 kernel, at the start", xlabel="depth: image 0, head 1", yscale="log")
for axis in axes.ravel():
    axis.grid(alpha=0.3)
    axis.legend()
figure.savefig(asked.out, dpi=80)

told = {
    norm: ", ".join(f"{k}-{d} {ending(f'{k}-{d}, {norm}'):.2f}" for k in KINDS for d in asked.depths) for norm in NORMS
}
print(f"Seen: loss after {asked.steps} steps: " + "; ".join(f"with {norm} {told[norm]}" for norm in NORMS) + ".")
