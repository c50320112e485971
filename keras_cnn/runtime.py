"""What the machine is, and the settings of TensorFlow that follow from it, made before TensorFlow is imported.

`import keras_cnn` calls `prepare`, which reads a page of /proc/cpuinfo and sets environment variables that are not set.
Nothing here imports more than Python's own cheapest modules.
"""

from __future__ import annotations

import os
import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

CPUINFO = "/proc/cpuinfo"
STATUS, REFS = "/proc/self/status", "/proc/self/clear_refs"
CGROUP = "/sys/fs/cgroup/cpu.max"  # "quota period" in microseconds, or "max period"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

# Instruction sets with one of which TensorFlow switches oneDNN on by itself (DefaultOneDnnPolicy in its util/port.cc).
BY_ITSELF = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # multiply bfloat16 faster than float32
HOLDING = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # by which a user holds oneDNN to fewer instruction sets
# Floating-point operations that a core can begin in a cycle, in float32, with the widest of its instruction sets: two
# fused multiply-adds on 16, 8 or 4 numbers. Some processors begin one on 16 where others begin two.
WIDTHS = {"avx512f": 64, "avx2": 32, "sse2": 8, "asimd": 16}


def instructions() -> frozenset[str]:
    """The processor's instruction sets, by the names that Linux has for them; empty where they cannot be told."""
    try:
        with open(CPUINFO) as file:
            start = file.read(4096)  # the first core's lines: those of all take milliseconds on a large machine
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in start.splitlines())
    return frozenset(next((value for key, _, value in lines if key.strip() in ("flags", "Features")), "").split())


def allowed() -> int:
    """Cores that this process may run on; TensorFlow starts a thread for each."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


def forced_onednn() -> bool:
    """Whether oneDNN is on although TensorFlow leaves it off on such a processor."""
    return os.environ.get(ONEDNN) == "1" and left_off(instructions())


def left_off(flags: Collection[str]) -> bool:
    """Whether TensorFlow leaves oneDNN off on a processor with these instruction sets, though it has AVX2."""
    return "avx2" in flags and not BY_ITSELF & set(flags)


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32, and nobody keeps oneDNN, whose kernels do so, from
    it: TensorFlow's own take nine times as long as in float32."""
    off = os.environ.get(ONEDNN, "").lower() in ("0", "false")
    return bool(BFLOAT16 & instructions()) and not off and not any(map(os.environ.get, HOLDING))


def quota() -> int | None:
    """Cores' worth of time that a container is given, rounded up; None where it has no limit."""
    try:
        with open(CGROUP) as file:
            time, period = file.read().split()
        return None if time == "max" else max(1, -(-int(time) // int(period)))
    except (OSError, ValueError):
        return None


def cores() -> int:
    """Threads that this process is given the time for."""
    return min(allowed(), quota() or allowed())


def clock() -> float | None:
    """The first core's clock at its fastest, or at present, in Hz; None where it cannot be told."""
    try:
        with open("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") as file:
            return int(file.read()) * 1e3
    except (OSError, ValueError):
        pass
    try:
        with open(CPUINFO) as file:
            return next((float(line.split(":")[1]) * 1e6 for line in file if line.startswith("cpu MHz")), None)
    except (OSError, ValueError):
        return None


def gpus() -> list[str]:
    """NVIDIA devices of the machine, whether or not a framework sees them."""
    names = os.listdir("/dev") if os.path.isdir("/dev") else []
    return sorted(f"/dev/{name}" for name in names if name.startswith("nvidia") and name[6:].isdigit())


def driver() -> str | None:
    """The release of the NVIDIA driver that runs, None where none does."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            return next((word for word in file.readline().split() if word[0].isdigit()), None)
    except OSError:
        return None


def give_back() -> None:
    """Give freed memory back to the system.

    glibc keeps what a thread freed for that thread, so that a few large images in several threads would leave hundreds
    of megabytes with the process for ever.
    """
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library has no such call
        return


def growth(work: Callable[[], Any]) -> tuple[Any, float | None]:
    """(what some work gives; MiB by which the process' resident memory stood at its highest meanwhile above what it was
    before). None where the system does not tell: Linux does."""
    give_back()
    try:
        with open(REFS, "w", encoding="ascii") as file:
            file.write("5")  # the highest is reckoned anew
        before = _status("VmRSS")
    except OSError:
        return work(), None
    return work(), max(0.0, _status("VmHWM") - before)


def _status(key: str) -> float:
    """A line of what Linux tells of this process' memory, in MiB."""
    with open(STATUS, encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def settings(flags: Collection[str], cores: int, limit: int | None = None, *, training: bool = True) -> dict[str, str]:
    """Environment variables for TensorFlow on a processor with these instruction sets.

    cores: that the process may run on; limit: how many cores' worth of time it is given, which TensorFlow does not see.
    training: whether the process is for more than prediction.

    Left alone: variables of OpenMP, since TensorFlow's wheels run oneDNN in TensorFlow's own threads; and glibc's
    allocator, whose thresholds (`mallopt`) changed a training step by less than two rounds differ.
    """
    chosen = {}
    # Its convolutions' gradients are two to three times as fast in oneDNN with AVX2 too. A model's own predictions of
    # single images, and on Zen 3 of batches, take longer, which a process that also trains has to bear.
    if training and left_off(flags):
        chosen[ONEDNN] = "1"
    if limit is not None and limit < cores:  # more threads than that are stopped amid an operation, and all wait
        chosen |= dict.fromkeys(THREADS, str(limit))
    return chosen


made: dict[str, str] = {}  # settings that are ours, not the user's


def prepare(training: bool = True) -> dict[str, str]:
    """Make the settings that are not made yet; returns those. Where TensorFlow runs already, say what that costs.

    training: False where the process only predicts, as a command may know that the import could not.
    """
    wanted = settings(instructions(), allowed(), quota(), training=training)
    early = "tensorflow" not in sys.modules
    for name in made.keys() - wanted.keys() if early else ():
        if os.environ.get(name) == made.pop(name):
            del os.environ[name]
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    if early:
        os.environ.update(missing)
        made.update(missing)
    elif missing:
        from keras_cnn.errors import SlowStart

        costs = "training takes two to three times as long" if ONEDNN in missing else "it starts more threads than help"
        write = " ".join(f"{name}={value}" for name, value in missing.items())
        warnings.warn(
            f"TensorFlow was imported before keras_cnn, with settings that are slow on this processor: {costs}. "
            f"Import keras_cnn first, or start Python with {write}.",
            SlowStart,
            stacklevel=3,
        )
    return missing
