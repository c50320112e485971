"""`doctor`: what this machine is, what is used of it, how fast that is, and what to mend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from keras_cnn import runtime
from keras_cnn.models import registry, shapes
from keras_cnn.models.fields import known_options

PATIENCE = 3.0  # seconds that the hub is given to answer
LEAST_FREE = 5 << 30  # bytes: a few networks and the features of a few thousand images
# What share of the product of matrices a sound machine reaches: the product of what the cores could do at best, a
# training step of what the product does. Below it something else runs there, or a setting is wrong.
SOUND_PRODUCT, SOUND_STEP = 0.4, 0.2
TOLD = ("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")


class Finding(NamedTuple):
    """One line of `doctor`. mend: what to do where something is amiss, else empty. figures: what was measured."""

    name: str
    value: str
    mend: str = ""
    figures: Mapping[str, float] = MappingProxyType({})

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" + (f"\n    -> {self.mend}" if self.mend else "")


@known_options
def doctor(verbose: bool = True) -> list[Finding]:
    """Look this machine over, in a few seconds: versions, devices, settings, hub, folders, speed.

    verbose: print each finding as it comes. A check that fails is a finding too; nothing is raised.
    Speeds are of now: other programs that run slow them down. Returns the findings in order.
    """
    findings = []
    for name, check in CHECKS.items():
        try:
            found = list(check())
        except Exception as error:  # whatever is broken here must not hide the rest
            found = [Finding(name, f"could not be checked ({type(error).__name__}: {error})")]
        for finding in found:
            findings.append(finding)
            if verbose:
                print(finding, flush=True)
    return findings


def _versions() -> Iterator[Finding]:
    import keras

    packages = ("keras-cnn", "keras", keras.backend.backend(), "numpy", "huggingface-hub")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    yield Finding("versions", f"{versions}, Python {platform.python_version()}, {platform.platform()}")


def _processor() -> Iterator[Finding]:
    flags, limit = runtime.instructions(), runtime.quota()
    named = ", ".join(name for name in TOLD if name in flags) or "not known"
    cores = f"{runtime.allowed()} of {os.cpu_count()} cores" + (f", a container's limit of {limit}" if limit else "")
    slow = not {"avx2", "asimd"} & flags and bool(flags)
    yield Finding("processor", f"{cores}; {named}", "this processor is slow at networks: use another." if slow else "")


def _gpu() -> Iterator[Finding]:
    import keras

    present, blocked, seen = runtime.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"), _accelerators()
    if seen or not present:
        yield Finding("GPU", ", ".join(seen) or "none")
        return
    if blocked in ("", "-1"):
        mend = f"CUDA_VISIBLE_DEVICES={blocked} hides it: unset that variable."
    elif not importlib.util.find_spec("nvidia"):
        mend = 'the CUDA libraries are not installed: pip install "keras-cnn[gpu]".'
    elif not runtime.driver():
        mend = "the NVIDIA driver does not run: install it, or start the container with its GPUs (--gpus all)."
    else:
        fits = 'pip install -U "keras-cnn[gpu]", or update it.'
        mend = f"its driver {runtime.driver()} does not fit the CUDA libraries: {fits}"
    yield Finding("GPU", f"{', '.join(present)} is there, but {keras.backend.backend()} does not see it", mend)


def _accelerators() -> list[str]:
    import keras

    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


def _settings() -> Iterator[Finding]:
    import keras

    if keras.backend.backend() == "tensorflow":
        on, wanted = _onednn(), "avx2" in runtime.instructions()
        mend = "training takes two to three times as long: start Python with TF_ENABLE_ONEDNN_OPTS=1."
        said = f" ({runtime.ONEDNN}={os.environ[runtime.ONEDNN]})" if runtime.ONEDNN in os.environ else ""
        yield Finding("oneDNN", ("on" if on else "off") + said, mend if wanted and not on else "")
        threads = {name: os.environ[name] for name in runtime.THREADS if name in os.environ}
        yield Finding("threads", ", ".join(f"{k}={v}" for k, v in threads.items()) or "one for each core")
    probe = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    yield Finding("XLA", "on (Keras' choice here)" if probe.jit_compile else "off (Keras' choice here)")
    yield Finding("precision", keras.config.dtype_policy().name)


def _onednn() -> bool:
    from tensorflow.python.util import _pywrap_util_port  # type: ignore[reportMissingImports]

    return bool(_pywrap_util_port.IsMklEnabled())


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "not asked: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE to fetch weights.")
        return
    start, mend = time.perf_counter(), "check network and proxy, or set HF_ENDPOINT to a mirror; what is cached works."
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=PATIENCE):
            value, mend = f"answers in {time.perf_counter() - start:.1f} s", ""
    except urllib.error.HTTPError as error:  # some answer, so that it can be reached
        value, mend = f"answers {error.code}", "" if error.code < 500 else "its fault is passing: try again later."
    except (OSError, ValueError) as error:
        value = f"cannot be reached ({getattr(error, 'reason', error)})"
    yield Finding("hub", f"{constants.ENDPOINT} {value}", mend)


def _folders() -> Iterator[Finding]:
    from huggingface_hub import constants

    from keras_cnn.files import cache_folder

    homes = {"weights": (Path(constants.HF_HUB_CACHE), "HF_HOME"), "features": (cache_folder(), "KERAS_CNN_CACHE")}
    for what, (path, variable) in homes.items():
        there = next(p for p in (path, *path.parents) if p.exists())
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        free = shutil.disk_usage(there).free
        mend = ""
        if not there.is_dir() or not os.access(there, os.W_OK):
            mend = f"it cannot be written: set {variable} to a folder of yours."
        elif free < LEAST_FREE:
            mend = f"little room: free some, or set {variable} to a folder on another disk."
        value = f"{path}, {size / 2**20:.1f} MiB, {free / 2**30:.1f} GiB free"
        yield Finding(f"cache of {what}", value, mend, {"bytes": size, "free": free})


def _speed() -> Iterator[Finding]:
    """A product of matrices beside what the cores could do, and a training step beside the product."""
    import keras
    import numpy as np
    from keras import ops

    from keras_cnn import building
    from keras_cnn.tasks import compiled
    from keras_cnn.training import loop

    side = 1024
    a = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(side, side)).astype("float32"))
    product = 2 * side**3 / _least(lambda: np.asarray(ops.convert_to_numpy(ops.matmul(a, a))), 5)
    best, on_cpu = _best(), keras.backend.backend() == "tensorflow" and not _accelerators()
    load = f"{os.getloadavg()[0]:.1f} programs are running" if hasattr(os, "getloadavg") else "others may be running"
    busy = f"{load}, so look for others that use the cores, and run `keras-cnn doctor` again."
    amiss = on_cpu and best is not None and product < SOUND_PRODUCT * best
    should = f", at best {best / 1e9:.0f}" if best and on_cpu else ""
    figures = {"flops": product} | ({"best": best} if best else {})
    yield Finding("matrix product", f"{product / 1e9:.0f} GFLOP/s{should}", busy if amiss else "", figures)

    batch, name = 32, "resnet18"
    config = registry.get(name).at((64, 64, 3)).for_classes(10)
    flops = 3 * 2 * batch * shapes.macs(shapes.tally(config))  # backward is twice forward
    net = building.build(config)
    loop.compile_(net, keras.optimizers.SGD(1e-3))
    images = np.zeros((batch, 64, 64, 3), "uint8")
    labels = compiled.as_compiled(net, np.arange(batch) % 10, images)
    seconds = _least(lambda: net.train_on_batch(images, labels), 3)
    limit = flops / (SOUND_STEP * product)
    amiss = on_cpu and seconds > limit
    value = f"{seconds:.2f} s ({name}, 64 pixels, batch {batch})" + (f", at most {limit:.2f}" if on_cpu else "")
    mend = f"see oneDNN above; {busy}"
    yield Finding("training step", value, mend if amiss else "", {"seconds": seconds, "limit": limit})


def _least(run: Callable[[], Any], times: int) -> float:
    """Least seconds that something takes, the first time, which prepares, left out."""
    took = []
    for _ in range(times + 1):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took[1:])


def _best() -> float | None:
    """Floating-point operations a second that the cores could do: clock, width and cores; None where not known."""
    width = next((width for name, width in runtime.WIDTHS.items() if name in runtime.instructions()), None)
    clock = runtime.clock()
    return clock * width * runtime.cores() if clock and width else None


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "processor": _processor,
    "GPU": _gpu,
    "settings": _settings,
    "hub": _hub,
    "caches": _folders,
    "speed": _speed,
}
