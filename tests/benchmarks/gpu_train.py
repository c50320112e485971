"""How fast a training step is: images per second, beside keras.applications and timm, in one run.

    KERAS_BACKEND=jax python tests/benchmarks/gpu_train.py --models resnet50 --batch 128 --policy mixed_bfloat16

A step is forward, cross-entropy, backward, SGD with momentum and the update of the batch statistics, on one synthetic
batch that stays on the device. The contenders of a group take turns (A B C A B C ...); speeds are medians over the
rounds, ratios are taken within a round, then their median: a machine that slows down slows both sides.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# Keras' backend and torch share the device's memory, so neither may take it all at the start.
os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"} | os.environ

import keras
import numpy as np
from keras import ops
from rich.console import Console

from keras_cnn import build
from keras_cnn.models import registry, shapes

BACKEND = keras.backend.backend()
INSTALLED = [package for package in ("keras", BACKEND, "torch", "timm") if importlib.util.find_spec(package)]
POLICIES = {"float32": "float32", "mixed_bfloat16": "bfloat16"}  # with the dtype of their products
# Our name to the class in keras.applications and to our name of exactly that topology, for its multiply-accumulates:
# the ResNets there stride at other places than those that torchvision and timm made customary. One line a family.
APPLICATIONS = {
    **{f"{k}resnet{d}": (f"ResNet{d}", f"keras_resnet{d}") for d in (50, 101, 152) for k in ("", "keras_")},
    **{f"resnetv2_{d}": (f"ResNet{d}V2", f"keras_resnet{d}v2") for d in (50, 101, 152)},
    **{f"keras_resnet{d}v2": (f"ResNet{d}V2", f"keras_resnet{d}v2") for d in (50, 101, 152)},
}
LEGEND = """
Ratios are to the group's first row of keras_cnn that ran, with the least and the greatest of the rounds; above 1 is
faster. Share of peak is 3 x 2 x MACs x images/s over a square matrix product's rate: the backward pass costs two
products for each of the forward pass. float32 products are TensorFloat-32 where the backend makes them so.
keras_cnn's steps include normalising the raw pixels. Peak:"""
Run = Callable[[int], None]  # does that many training steps and waits for the device
console = Console(stderr=True, highlight=False)


class Task(NamedTuple):
    """What all contenders of a group train."""

    model: str
    size: int
    batch: int
    policy: str

    @property
    def classes(self) -> int:
        return registry.get(self.model).head.classes

    def data(self, normalised: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images, raw (0..255) or normalised, and labels."""
        rng = np.random.default_rng(0)
        images = rng.uniform(0, 255, (self.batch, self.size, self.size, 3)).astype("float32")
        return images / 64 - 2 if normalised else images, rng.integers(0, self.classes, self.batch)

    def macs(self, name: str) -> int:
        """Multiply-accumulates of an architecture for one image of this size."""
        config = registry.get(name).at((self.size, self.size, 3)).for_classes(self.classes)
        return shapes.macs(shapes.tally(config))


@dataclass
class Contender:
    """A row of the table: how to get its run, then what was measured, or why nothing was."""

    label: str
    prepare: Callable[[], Run]
    macs: int
    seconds: list[float] = field(default_factory=list)  # that a step took, one entry a round
    failure: str = ""


def contenders(task: Task, xla: list[str], references: bool) -> list[Contender]:
    """Those that exist for a model, ours first."""
    head = {"input_shape": (task.size, task.size, 3), "classes": task.classes, "classifier_activation": None}
    ours, macs = partial(keras_run, task, partial(build, task.model, **head)), task.macs(task.model)
    rows = [Contender(f"keras_cnn, XLA {on}", partial(ours, on), macs) for on in xla]
    if references and task.model in APPLICATIONS:
        name, exact = APPLICATIONS[task.model]
        theirs = partial(keras_run, task, partial(getattr(keras.applications, name), weights=None, **head))
        runs = {f"keras.applications {name}, XLA {on}": partial(theirs, on, normalised=True) for on in xla}
        rows += [Contender(label, run, task.macs(exact)) for label, run in runs.items()]
    if references and {"torch", "timm"} <= {*INSTALLED} and importlib.import_module("timm").is_model(task.model):
        rows += [Contender(f"timm, {mode}", partial(timm_run, task, mode), macs) for mode in ("torch.compile", "eager")]
    return rows


def keras_run(task: Task, make: Callable[[], Any], xla: str, normalised: bool = False) -> Run:
    """Keras' own train function, what `fit` calls for each batch, without the copying of batches that `fit` adds."""
    if BACKEND == "jax" and xla == "off":
        raise NotImplementedError("JAX without XLA would run operation by operation")
    model, loss = make(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=xla == "on")
    batch = tuple(ops.convert_to_tensor(array) for array in task.data(normalised))
    model.train_on_batch(*batch)  # makes the train function and the variables of optimiser and metrics
    batches = itertools.repeat(batch)
    parts = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables
    # On JAX the state goes from step to step; `fit` writes it back into the variables after an epoch, here never.
    state: list[Any] = [tuple([v.value for v in part] for part in parts)] if BACKEND == "jax" else []

    def run(steps: int) -> None:
        for _ in range(steps):
            result = model.train_function(*state, batches)
            state[:] = result[1:] if state else []  # JAX: (logs, state); TensorFlow: logs
        ops.convert_to_numpy(state[0][0][0] if state else model.trainable_variables[0])  # waits: its gradient is last

    return run


def timm_run(task: Task, mode: str) -> Run:
    """As timm trains with --channels-last, --torchcompile and, for mixed_bfloat16, --amp --amp-dtype bfloat16."""
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, as TensorFlow and JAX have by default
    torch.backends.cudnn.benchmark = True
    model = timm.create_model(task.model, num_classes=task.classes).train()
    forward = torch.compile(model.to(device, memory_format=torch.channels_last), disable=mode == "eager")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    images, labels = (torch.from_numpy(array).to(device) for array in task.data(normalised=True))
    images = images.permute(0, 3, 1, 2)  # a view; its memory is channels-last

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=task.policy != "float32"):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        next(model.parameters()).sum().item()  # waits

    return run


def measure(rows: list[Contender], rounds: int, steps: int) -> None:
    """Time them in turns; round 0 prepares and does not count. A failure ends its contender, not the others."""
    runs: dict[str, Run] = {}
    for number, row in ((n, row) for n in range(rounds + 1) for row in rows if not row.failure):
        console.print(f"  {row.label}: round {number} of {rounds}")
        try:
            run = runs[row.label] = runs[row.label] if number else row.prepare()
            run(1)  # brings back the caches and clocks that the others' turns cost
            start = time.perf_counter()
            run(steps)
            row.seconds += [(time.perf_counter() - start) / steps] if number else []
        except Exception as error:  # compilers, drivers and memory allocators each give up in their own way
            row.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}".replace("|", "/")


def peak(dtype: str) -> float:
    """Highest FLOP/s of a square matrix product, over sizes from 512 up to what takes half a second."""
    best, size, seconds = 0.0, 512, 0.0
    while size <= 16384 and seconds < 0.5:
        a = ops.cast(keras.random.normal((size, size), stddev=size**-0.5), dtype)  # products keep the entries' size

        def run(times: int, a: Any = a) -> float:
            start, c = time.perf_counter(), a
            for _ in range(times):
                c = ops.matmul(a, c)
            float(c[0, 0])  # waits
            return (time.perf_counter() - start) / times

        run(2)
        seconds = min(run(1 + int(0.1 / run(2))) for _ in range(3))
        best, size = max(best, 2 * size**3 / seconds), 2 * size
    return best


def report(task: Task, rows: list[Contender], rate: float) -> list[dict[str, Any]]:
    """Prints the rows as lines of the table; returns them as plain values, None for what was not measured."""
    ours = next((row.seconds for row in rows if row.label.startswith("keras_cnn") and not row.failure), [])
    records = []
    for row in rows:
        speed = None if row.failure else task.batch / statistics.median(row.seconds)
        ratios = sorted(a / b for a, b in zip(ours, row.seconds, strict=False)) if speed else []
        share = 6 * row.macs * speed / rate if speed else None
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "n/a"
        cells = (f"{speed:,.1f}", ratio, f"{share:.1%}") if speed else ("-", "-", row.failure)
        print("|", " | ".join(map(str, (*task, row.label, *cells))), "|", flush=True)
        measured = {"images_per_second": speed, "ratios": ratios, "share_of_peak": share}
        records.append({**task._asdict(), **{k: v for k, v in vars(row).items() if k != "prepare"}, **measured})
    return records


def machine() -> str:
    """All that a figure must be quoted with: date, device, processor, versions."""
    if BACKEND == "jax":
        device = importlib.import_module("jax").devices()[0].device_kind
    else:
        config = importlib.import_module("tensorflow").config
        gpus = map(config.experimental.get_device_details, config.list_physical_devices("GPU"))
        device = next(gpus, {"device_name": "cpu"})["device_name"]
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = f"{', '.join({*re.findall('model name.*: (.+)', cpuinfo)}) or 'processor'}, {os.cpu_count()} cores"
    versions = (f"{package} {importlib.metadata.version(package)}" for package in INSTALLED)
    return "; ".join((datetime.date.today().isoformat(), device, cpu, f"{BACKEND} backend", *versions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models",
        nargs="+",
        default=["resnet50", "efficientnet_b0", "inception_v3"],
        metavar="NAME",
        help="architectures of keras_cnn",
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[32], metavar="N", help="images a step")
    parser.add_argument("--size", type=int, help="side of the images in pixels; by default each model's own")
    parser.add_argument("--policy", nargs="+", default=[*POLICIES], choices=POLICIES)
    parser.add_argument("--xla", nargs="+", default=["on", "off"], choices=["on", "off"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a timed window")
    parser.add_argument("--no-references", action="store_true", help="leave keras.applications and timm out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and each window's time")
    args = parser.parse_args()
    sizes = {name: args.size or registry.get(name).input_shape[0] for name in args.models}
    records, peaks = [], {policy: peak(POLICIES[policy]) for policy in args.policy}
    host, columns = machine(), (*Task._fields, "contender", "images/s", "ratio", "share of peak")
    print(f"{host}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name, batch, policy in itertools.product(args.models, args.batch, args.policy):
        console.print(f"{name}, batch {batch}, {policy}")
        keras.config.set_dtype_policy(policy)
        task = Task(name, sizes[name], batch, policy)
        rows = contenders(task, args.xla, not args.no_references)
        measure(rows, args.rounds, args.steps)
        records += report(task, rows, peaks[policy])
        keras.backend.clear_session()
        if args.json:
            args.json.write_text(json.dumps({"machine": host, "rows": records}, indent=1))
    print(LEGEND, ", ".join(f"{POLICIES[policy]} {rate / 1e12:.3g} TFLOP/s" for policy, rate in peaks.items()))


if __name__ == "__main__":
    main()
