"""Images a second that a training step learns, and the share of the device's peak that it uses, beside timm.

    KERAS_BACKEND=jax python tests/benchmarks/gpu_train.py --batch 256

The networks learn random images in bfloat16 (weights in float32) under the current Keras backend, compiled by XLA where
Keras does so by itself; where torch and timm are installed, timm's networks of the same name do beside them, with
`torch.compile`, channels last and bfloat16. The peak is that of a square matrix product in bfloat16, measured here.
Utilisation is 6 floating-point operations for each multiply-accumulate of a forward pass (two, and twice as many again
on the way back) over that. On a processor, tiny figures show that it runs, and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MODELS = ("resnet50", "efficientnet_b0", "inception_v3")


def seconds(run: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Median of some turns, each of `steps` calls, a call; the first turn compiles, and does not count."""
    turns = []
    for _ in range(4):
        begun = time.perf_counter()
        for _ in range(steps):
            last = run()
        wait(last)
        turns.append((time.perf_counter() - begun) / steps)
    return statistics.median(turns[1:])


def peak(side: int) -> float:
    """Floating-point operations a second of a product of bfloat16 matrices, by the backend of Keras."""
    import keras

    one: Any = keras.ops.cast(keras.random.normal((side, side)), "bfloat16")
    product = keras.ops.matmul
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        product = tf.function(lambda a, b: tf.matmul(a, b))
    elif keras.backend.backend() == "jax":
        import jax

        product = jax.jit(keras.ops.matmul)
    return 2 * side**3 / seconds(lambda: product(one, one), lambda x: np.asarray(keras.ops.convert_to_numpy(x[:1])), 10)


def ours(name: str, size: int, batch: int, steps: int) -> float:
    """Seconds a step of a network of this package."""
    import keras

    import keras_cnn as kc

    model = kc.build(name, classes=1000, input_shape=(size, size, 3))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", jit_compile="auto")
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.integers(0, 256, (batch, size, size, 3)).astype("uint8"))
    y = keras.ops.convert_to_tensor(rng.integers(0, 1000, batch))
    return seconds(lambda: model.train_on_batch(x, y), lambda loss: loss, steps)


def theirs(name: str, size: int, batch: int, steps: int) -> float | None:
    """Seconds a step of timm's network; None where torch or timm is not installed."""
    try:
        import timm
        import torch
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(name, num_classes=1000).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = torch.rand(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device=device)
    compiled = torch.compile(model) if device == "cuda" else model  # on a processor it takes minutes, and a compiler

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return seconds(step, lambda loss: loss.item(), steps)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224, help="of images; inception_v3 has 299 where it is 224")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, help="of the matrices; by default 8192 with a GPU, else 512")
    args = parser.parse_args()
    import keras

    from keras_cnn import runtime
    from keras_cnn.models import registry, shapes

    keras.config.set_dtype_policy("mixed_bfloat16")
    gpus = runtime.gpus()
    most = peak(args.side or (8192 if gpus else 512))
    print(f"{keras.backend.backend()}, Keras {keras.__version__}, {len(gpus)} GPUs; peak {most / 1e12:.3g} TFLOP/s")
    print("| network | size | batch | images/s | of the peak | timm, images/s | ratio |\n|---|---|---|---|---|---|---|")
    for name in args.models:
        size = 299 if (name, args.size) == ("inception_v3", 224) else args.size
        macs = shapes.macs(shapes.tally(registry.get(name).at((size, size, 3))))
        mine, other = ours(name, size, args.batch, args.steps), theirs(name, size, args.batch, args.steps)
        rate, used = args.batch / mine, 6 * macs * args.batch / mine / most
        beside = f"{args.batch / other:.1f} | {other / mine:.2f}" if other else "not installed | -"
        print(f"| {name} | {size} | {args.batch} | {rate:.1f} | {used:.1%} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
