"""Settings follow from the machine, are made before TensorFlow is imported, and yield to the user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from keras_cnn import runtime
from keras_cnn.hub import info

pytestmark = pytest.mark.no_keras
ROOT = Path(__file__).parents[1]
ZEN3 = "fpu sse2 sse4_2 avx fma avx2 sha_ni"
ZEN4 = f"{ZEN3} avx512f avx512_vnni avx512_bf16"

# Imports the package on a machine that is told by files: what /proc/cpuinfo and the container's limit would say.
ON_MACHINE = """
import importlib.util, json, os, sys, types, warnings
cpuinfo, quota, first = sys.argv[1:]
spec = importlib.util.spec_from_file_location("keras_cnn.runtime", importlib.util.find_spec("keras_cnn").
                                              submodule_search_locations[0] + "/runtime.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.CPUINFO, module.CGROUP = cpuinfo, quota
module.allowed = lambda: 8
sys.modules["keras_cnn.runtime"] = module
if first:
    sys.modules["tensorflow"] = types.ModuleType("tensorflow")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras_cnn
print(json.dumps([{name: os.environ.get(name) for name in (module.ONEDNN, *module.THREADS)},
                  [(w.category.__name__, str(w.message)) for w in caught],
                  [name for name in sys.modules if name.partition(".")[0] in ("numpy", "keras", "dataclasses")]]))
"""


@pytest.fixture
def started(tmp_path):
    """What a fresh process sets and says when it imports the package."""

    def start(flags: str, quota: str = "max 100000\n", tensorflow_first: bool = False, **environment: str):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: one\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
        (tmp_path / "cpu.max").write_text(quota)
        known = {name: value for name, value in os.environ.items() if name not in (runtime.ONEDNN, *runtime.THREADS)}
        done = subprocess.run(
            [sys.executable, "-c", ON_MACHINE, tmp_path / "cpuinfo", tmp_path / "cpu.max", "1" * tensorflow_first],
            env={**known, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    return start


def test_onednn_is_switched_on_where_tensorflow_would_leave_it_off(started):
    settings, said, loaded = started(ZEN3)
    assert settings == {runtime.ONEDNN: "1", **dict.fromkeys(runtime.THREADS)}
    assert not said and not loaded


def test_nothing_is_set_where_tensorflow_knows_best(started):
    assert not any(started(ZEN4)[0].values())
    assert not any(started("fpu sse2")[0].values())


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_the_users_own_setting_wins(started, chosen):
    settings, said, _ = started(ZEN3, tensorflow_first=True, **{runtime.ONEDNN: chosen})
    assert settings[runtime.ONEDNN] == chosen and not said


def test_tensorflow_first_is_told_once_with_the_mend_and_changes_nothing(started):
    settings, said, _ = started(ZEN3, tensorflow_first=True)
    ((category, sentence),) = said
    assert category == "SlowStart" and "TF_ENABLE_ONEDNN_OPTS=1" in sentence and "before keras_cnn" in sentence
    assert not any(settings.values())
    assert not started(ZEN4, tensorflow_first=True)[1]  # where it costs nothing, nothing is said


def test_a_command_that_only_predicts_leaves_onednn_to_tensorflow(monkeypatch):
    for name, value in {"instructions": ZEN3.split, "allowed": lambda: 2, "quota": lambda: None}.items():
        monkeypatch.setattr(runtime, name, value)
    monkeypatch.setattr(runtime, "made", {})
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(modules={}))  # before TensorFlow
    monkeypatch.delenv(runtime.ONEDNN, raising=False)
    assert runtime.prepare() == {runtime.ONEDNN: "1"} and os.environ[runtime.ONEDNN] == "1"
    assert runtime.prepare(training=False) == {} and runtime.ONEDNN not in os.environ
    monkeypatch.setenv(runtime.ONEDNN, "1")  # the user's own
    assert runtime.prepare(training=False) == {} and os.environ[runtime.ONEDNN] == "1"


def test_a_container_gets_as_many_threads_as_it_has_time_for(started):
    settings, _, _ = started(ZEN4, quota="150000 100000\n")
    assert [settings[name] for name in runtime.THREADS] == ["2", "2"]
    assert not any(started(ZEN4, quota="1600000 100000\n")[0].values())


def test_a_machine_that_tells_nothing_is_left_alone(started):
    assert not any(started("", quota="nonsense\n")[0].values())


def test_counts_on_file_are_the_real_ones():
    names = [*info.list_models(), *info.list_models(pretrained=True)]
    assert info.counted() == {name: info.count(name) for name in names}, "run: python -m keras_cnn.hub.info"


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_looks_at_everything_whatever_is_broken(tmp_path):
    file = tmp_path / "file"
    file.touch()
    done = subprocess.run(
        [sys.executable, "-m", "keras_cnn.cli", "doctor", "--json"],
        env={
            **os.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "KERAS_CNN_CACHE": str(file / "features"),
            "XLA_FLAGS": "",
            runtime.ONEDNN: "0",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    expected = ("versions", "processor", "GPU", "oneDNN", "threads", "XLA", "precision", "hub", "cache of weights")
    assert {*expected, "cache of features", "matrix product", "training step"} <= found.keys()
    assert found["oneDNN"]["value"].startswith("off") and "cannot be reached" in found["hub"]["value"]
    assert found["hub"]["mend"] and "KERAS_CNN_CACHE" in found["cache of features"]["mend"]
    assert found["matrix product"]["figures"]["flops"] > 0 and found["training step"]["figures"]["seconds"] > 0


def test_a_failing_check_is_a_finding(monkeypatch, capsys):
    import keras_cnn as kc
    from keras_cnn.training import doctor

    def broken():
        raise RuntimeError("no such sensor")
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"sensor": broken, "processor": doctor.CHECKS["processor"]})
    found = kc.doctor()
    assert [finding.name for finding in found] == ["sensor", "processor"] and "no such sensor" in found[0].value
    assert capsys.readouterr().out.splitlines()[0] == str(found[0])


def test_a_gpu_that_is_not_seen_is_told_with_the_reason(monkeypatch):
    from keras_cnn.training import doctor

    monkeypatch.setattr(runtime, "gpus", lambda: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = doctor.CHECKS["GPU"]()
    assert "/dev/nvidia0" in found.value and ("keras-cnn[gpu]" in found.mend or "driver" in found.mend)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "unset" in next(doctor.CHECKS["GPU"]()).mend
