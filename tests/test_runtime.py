"""Settings follow from the machine, are made before TensorFlow is imported, and yield to the user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from images import folder

from keras_cnn import runtime
from keras_cnn.errors import KerasCnnError
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


@pytest.mark.parametrize(
    ("flags", "set_to", "forced"),
    [(ZEN3, "1", True), (ZEN3, "0", False), (ZEN3, None, False), (ZEN4, "1", False), ("asimd", "1", False)],
)
def test_it_is_known_where_onednn_is_forced(monkeypatch, flags, set_to, forced):
    monkeypatch.setattr(runtime, "instructions", lambda: frozenset(flags.split()))
    monkeypatch.delenv(runtime.ONEDNN, raising=False)
    if set_to is not None:
        monkeypatch.setenv(runtime.ONEDNN, set_to)
    assert runtime.forced_onednn() is forced


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


NET = "resnet18.tiny_in200"
# What is typed, and whether the process is for more than prediction.
PURPOSES = {
    f"predict IMAGE -m {NET}": False,
    f"evaluate PETS -m {NET}": False,
    f"explain IMAGE -m {NET} -o OUT": False,
    f"export OUT.onnx -m {NET}": False,
    f"quantize PETS -m {NET} -o OUT.xml": False,
    f"serve {NET} --port 0": False,
    f"benchmark {NET}": False,
    f"lint {NET}": False,
    f"benchmark --data PETS -m {NET}": True,
    f"fine-tune PETS -m {NET} -o OUT": True,
    f"fine-tune PETS -m {NET} -o OUT --study": True,
    "train PETS -m resnet20 -o OUT": True,
    f"lr-find PETS -m {NET}": True,
    "demo -o OUT": True,
}


@pytest.fixture
def asked(monkeypatch) -> list[bool]:
    """What commands tell `prepare`; they end there."""
    asked = []

    def prepare(training=True):
        asked.append(training)
        raise KerasCnnError("enough")

    monkeypatch.setattr(runtime, "prepare", prepare)
    return asked


@pytest.mark.parametrize("line", PURPOSES)
def test_a_command_prepares_for_what_it_does(line, run, asked, tmp_path):
    pets = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    places = {"PETS": pets, "IMAGE": pets / "cat" / "000.png", "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "o.onnx"}
    places["OUT.xml"] = tmp_path / "out.xml"
    code, _, err = run(*(places.get(word, word) for word in line.split()))
    assert (code, err.splitlines()[-1]) == (2, "error: enough") and asked == [PURPOSES[line]]


def test_a_command_with_an_exported_network_prepares_for_prediction(asked, monkeypatch):
    from keras_cnn.cli import runs
    from keras_cnn.deploy import opened

    monkeypatch.setattr(opened, "opened", lambda name: None)
    with pytest.raises(KerasCnnError, match="enough"):
        runs.network(None, "net.onnx", None, 0)  # type: ignore[arg-type]
    assert asked == [False]


def test_a_container_gets_as_many_threads_as_it_has_time_for(started):
    settings, _, _ = started(ZEN4, quota="150000 100000\n")
    assert [settings[name] for name in runtime.THREADS] == ["2", "2"]
    assert not any(started(ZEN4, quota="1600000 100000\n")[0].values())


def test_a_machine_that_tells_nothing_is_left_alone(started):
    assert not any(started("", quota="nonsense\n")[0].values())


def test_counts_on_file_are_the_real_ones():
    names = [*info.list_models(), *info.list_models(pretrained=True)]
    assert info.counted() == {name: info.count(name) for name in names}, "run: python -m keras_cnn.hub.info"


@pytest.mark.parametrize("line", [["list"], ["list", "--pretrained"], ["list", "resnet*", "--sort", "macs", "--json"]])
def test_list_counts_no_network(line, run, monkeypatch):
    def counted(name):
        raise AssertionError(f"{name} is counted")

    monkeypatch.setattr(info, "count", counted)
    code, out, _ = run(*line)
    assert code == 0 and "resnet50" in out


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


def gpu(monkeypatch, *, libraries: bool, driver: str | None):
    from keras_cnn.training import doctor

    monkeypatch.setattr(runtime, "gpus", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(runtime, "driver", lambda: driver)
    monkeypatch.setattr(doctor, "_accelerators", list)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: libraries or None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = doctor.CHECKS["GPU"]()
    return found


def test_each_reason_why_a_gpu_is_not_seen_has_its_mend(monkeypatch):
    assert "libraries are not installed" in gpu(monkeypatch, libraries=False, driver="550.54").mend
    assert "driver does not run" in gpu(monkeypatch, libraries=True, driver=None).mend
    assert "its driver 550.54 does not fit" in gpu(monkeypatch, libraries=True, driver="550.54").mend


def test_a_gpu_that_is_seen_and_none_at_all_need_no_mend(monkeypatch):
    from keras_cnn.training import doctor

    for present, seen, told in (["/dev/nvidia0"], ["gpu:0"], "gpu:0"), ([], [], "none"):
        monkeypatch.setattr(runtime, "gpus", lambda present=present: present)
        monkeypatch.setattr(doctor, "_accelerators", lambda seen=seen: seen)
        assert [*doctor.CHECKS["GPU"]()] == [doctor.Finding("GPU", told)]


@pytest.mark.parametrize(
    ("flags", "on", "mend"),
    [
        (ZEN3, False, "TF_ENABLE_ONEDNN_OPTS=1"),
        (ZEN3, True, ""),
        (ZEN4, False, "TF_ENABLE_ONEDNN_OPTS=1"),
        (ZEN4, True, ""),
        ("fpu sse2", False, ""),
    ],
    ids=["zen 3, off", "zen 3, on", "zen 4, off by its user", "zen 4", "too old for it"],
)
def test_onednn_that_is_off_where_it_should_be_on_is_told(monkeypatch, flags, on, mend):
    from keras_cnn.training import doctor

    monkeypatch.setattr(runtime, "instructions", lambda: frozenset(flags.split()))
    monkeypatch.setattr(doctor, "_onednn", lambda: on)
    monkeypatch.delenv(runtime.ONEDNN, raising=False)
    found = next(doctor.CHECKS["settings"]())
    assert (found.name, found.value) == ("oneDNN", "on" if on else "off")
    assert mend in found.mend and bool(found.mend) == bool(mend)
    monkeypatch.setenv(runtime.ONEDNN, "0")
    assert next(doctor.CHECKS["settings"]()).value.endswith("(TF_ENABLE_ONEDNN_OPTS=0)")


def test_a_processor_that_is_slow_at_networks_is_told(monkeypatch):
    from keras_cnn.training import doctor

    monkeypatch.setattr(runtime, "quota", lambda: 2)
    for flags, mend in (("fpu sse4_2 avx", True), (ZEN3, False), ("asimd", False), ("", False)):
        monkeypatch.setattr(runtime, "instructions", lambda flags=flags: frozenset(flags.split()))
        (found,) = doctor.CHECKS["processor"]()
        assert bool(found.mend) == mend and "a container's limit of 2" in found.value


@pytest.mark.parametrize(("status", "told"), [(200, "answers in"), (404, "answers 404"), (503, "answers 503")])
def test_a_hub_that_answers_can_be_reached(monkeypatch, status, told):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from huggingface_hub import constants

    from keras_cnn.training import doctor

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        (found,) = doctor.CHECKS["hub"]()
    assert told in found.value and ("try again later" in found.mend) == (status == 503)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in next(doctor.CHECKS["hub"]()).mend


def test_folders_have_their_size_and_little_room_is_told(monkeypatch, tmp_path):
    from huggingface_hub import constants

    from keras_cnn.training import doctor

    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "a").write_bytes(bytes(3 << 20))
    (tmp_path / "hub" / "b").symlink_to(tmp_path / "hub" / "blobs" / "a")  # as a snapshot has it: counted once
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KERAS_CNN_CACHE", str(tmp_path / "none" / "yet"))
    for free, mends in ((doctor.LEAST_FREE, ("", "")), (doctor.LEAST_FREE - 1, ("HF_HOME", "KERAS_CNN_CACHE"))):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        weights, features = doctor.CHECKS["caches"]()
        assert (weights.figures["bytes"], features.figures["bytes"]) == (3 << 20, 0) and "3.0 MiB" in weights.value
        for found, mend in zip((weights, features), mends, strict=True):
            assert mend in found.mend and bool(found.mend) == bool(mend) == ("little room" in found.mend)


@pytest.mark.parametrize("slow", ["product", "step", None])
def test_a_machine_that_is_slower_than_it_could_be_is_told(monkeypatch, slow):
    """The times are those of a sound machine, but for one."""
    import keras

    from keras_cnn.training import doctor

    best = 1e11
    product = 2 * 1024**3 / (best * doctor.SOUND_PRODUCT * (0.9 if slow == "product" else 1.1))
    times = iter([product, 100.0 if slow == "step" else 1e-3])
    monkeypatch.setattr(doctor, "_least", lambda run, times_: next(times))
    monkeypatch.setattr(doctor, "_best", lambda: best)
    monkeypatch.setattr(doctor, "_accelerators", list)
    found = {finding.name: finding for finding in doctor.CHECKS["speed"]()}
    on_cpu = keras.backend.backend() == "tensorflow"
    assert bool(found["matrix product"].mend) == (slow == "product" and on_cpu)
    assert bool(found["training step"].mend) == (slow == "step" and on_cpu)
    if on_cpu and slow == "step":
        assert "see oneDNN above" in found["training step"].mend
