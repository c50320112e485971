"""Several processes on loopback train as one would, and go on when one of them is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec, LostWorker

ROOT = Path(__file__).parent.parent
WORKER = """
import json, os, sys, time
told = json.loads(sys.argv[1])
import keras, numpy as np, tensorflow as tf
import keras_cnn as kc
from keras_cnn.errors import LostWorker
from keras_cnn.training import callbacks, state

tf.config.experimental.enable_op_determinism()
if told.get("devices"):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * told["devices"])
state.EVERY = 0.0
end = callbacks.KeepState.on_train_batch_end
def slowly(self, batch, logs=None):
    end(self, batch, logs)
    print("step", flush=True)
    time.sleep(told.get("pause", 0))
callbacks.KeepState.on_train_batch_end = slowly
def forbidden(*told, **more):
    raise AssertionError(f"a worker that is not the chief writes {told}")
if json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index"):
    os.replace = os.rename = forbidden  # which all that is kept goes through
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (105, 16, 16, 3)).astype("uint8"), rng.integers(0, 3, 105)
try:
    with kc.distribute(told.get("how", "auto"), wait=60) as place:
        keras.utils.set_random_seed(0)
        model = kc.build("resnet20", depths=(1, 1, 1), classes=3, input_shape=(16, 16, 3))
        pairs = {"train": (x[:64], y[:64]), "val": (x[64:97 + told.get("more", 0)], y[64:97 + told.get("more", 0)])}
        data = kc.load_data(pairs, model, batch_size=16)
        run = {"out": told["out"], "resume": True, "verbose": 0}
        if told["verb"] == "train":
            kc.train(model, data, epochs=3, learning_rate=0.05, **run)
        else:
            kc.fine_tune(model, data, head_epochs=1, epochs=2, ema=0.9, cache=False, **run)
        np.savez(f"{told['end']}{place.worker}.npz", *model.get_weights())
        if place.chief:
            kc.report(told["out"], data)
        place.meet()
except LostWorker as lost:
    print(lost, flush=True)
    os._exit(75)
"""


def ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("localhost", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


def start(place: Path, workers: int, **told) -> list[subprocess.Popen]:
    told = {"verb": "train", "out": str(place / "out"), "end": str(place / "end"), **told}
    return as_workers(workers, "-c", WORKER, json.dumps(told))


def as_workers(count: int, *told: str) -> list[subprocess.Popen]:
    """Processes of Python that are told the same, each a worker of one cluster, where there are several."""
    addresses, processes = [f"localhost:{port}" for port in ports(count)], []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        more = {"TF_CONFIG": json.dumps(config)} if count > 1 else {}
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **more}
        command = [sys.executable, *told]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes


def finish(processes: list[subprocess.Popen]) -> list[str]:
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(
        err[-2500:] for _, err in told
    )
    return [out for out, _ in told]


def weights(place: Path, worker: int = 0) -> list[np.ndarray]:
    with np.load(place / f"end{worker}.npz") as file:
        return [file[name] for name in file.files]


def assert_close(place: Path, other: Path) -> None:
    """The same but for rounding: what differs is the order in which gradients are summed."""
    for one, two in zip(weights(place), weights(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("verb", ["train", pytest.param("fine_tune", marks=pytest.mark.slow)])
def test_two_workers_end_as_one_process_does(tmp_path, verb):
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir(), both.mkdir()
    processes = [*start(alone, 1, verb=verb), *start(both, 2, verb=verb)]
    finish(processes)
    for one, two in zip(weights(both, 0), weights(both, 1), strict=True):
        np.testing.assert_array_equal(one, two)
    assert_close(alone, both)
    logs = [np.loadtxt(place / "out" / "log.csv", delimiter=",", skiprows=1, usecols=(-1,)) for place in (alone, both)]
    np.testing.assert_allclose(*logs, rtol=1e-4)
    assert all((place / "out" / "report.html").exists() for place in (alone, both))  # the chief's, with none beside it


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "fine_tune"])
def test_a_worker_that_is_killed_comes_back(tmp_path, verb):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    finish(start(whole, 2, verb=verb))
    chief, other = start(broken, 2, verb=verb, pause=0.2)
    for _ in range(6):  # amid the second epoch, of 4 steps
        assert other.stdout.readline() == "step\n"
    os.kill(other.pid, signal.SIGKILL)
    out, err = chief.communicate(timeout=120)
    assert chief.returncode == 75, err[-3000:]
    assert re.search(r"localhost:\d+ no longer answers: start all workers again with resume=True", out)
    assert (broken / "out" / "progress.safetensors").exists()
    steps = finish(start(broken, 2, verb=verb))[0].count("step")
    assert 0 < steps < 12  # it went on, and did not begin anew
    for one, two, other in zip(weights(whole), weights(broken), weights(broken, 1), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(other, two)


@pytest.mark.slow
def test_the_command_line_trains_and_fine_tunes_on_two_workers(tmp_path):
    train = ["train", "digits", "-m", "resnet20", "--size", "16", "--batch-size", "32", "--epochs", "4", "-o"]
    tune = ["fine-tune", "digits", "-m", f"{tmp_path / 'net'}", "--head-epochs", "1", "--epochs", "1", "-o"]
    for verb, out in ((train, tmp_path / "net"), (tune, tmp_path / "tuned")):
        options = [*verb, str(out), "--distribute", "multiworker", "--precision", "float32", "--json"]
        finish(as_workers(2, "-m", "keras_cnn.cli", *options))
        assert (out / "report.html").exists()
        net = kc.build(out)
        assert kc.evaluate(net, kc.load_data("digits", net)).metrics["accuracy"] > 0.5


@pytest.mark.slow
def test_four_workers_and_two_devices_of_one_process_end_alike(tmp_path):
    places = [tmp_path / name for name in ("alone", "four", "mirrored")]
    for place in places:
        place.mkdir()
    finish(start(places[0], 1, more=8))
    finish(start(places[1], 4, more=8))
    finish(start(places[2], 1, more=8, devices=2, how="mirrored"))
    assert_close(*places[:2])
    assert_close(places[0], places[2])


# --- what cannot be meant -------------------------------------------------------------------------------------------


def cluster(monkeypatch, *addresses, index=0) -> None:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def enter(how="multiworker", **told):
    with kc.distribute(how, **told):
        pass


def test_a_cluster_that_cannot_be_meant_is_told(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(BadSpec, match="needs to know the other workers: set TF_CONFIG"):
        enter()
    for text in ("{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": {"worker": ["a"]}, "task": 0}'):
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(BadSpec, match=r"TF_CONFIG cannot be read .*it has to be JSON such as"):
            enter()
    cluster(monkeypatch, "localhost:1111", "localhost:2222", index=2)
    with pytest.raises(BadSpec, match="task is worker 2, which its cluster of 2 lacks"):
        enter()
    cluster(monkeypatch, "localhost:1111", "localhost:1111")
    with pytest.raises(BadSpec, match="gives two workers one address"):
        enter()


def test_slurm_tells_who_the_workers_are(monkeypatch, tmp_path):
    """As `srun` sets the variables, without GPUs; `scontrol` writes out its short form of the hosts."""
    from keras_cnn.training import distribution

    pytest.importorskip("tensorflow")
    for name in ("TF_CONFIG", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node1\necho node2\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told = {"STEP_NUM_TASKS": "4", "STEP_NODELIST": "node[1-2]", "STEP_TASKS_PER_NODE": "2(x2)", "PROCID": "3"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = distribution.of_environment()
    assert (found.job, found.index) == ("worker", 3)
    assert [address.rpartition(":")[0] for address in found.addresses.values()] == ["node1", "node1", "node2", "node2"]
    assert len(set(found.addresses.values())) == 4
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert distribution.of_environment() is None


def test_a_worker_that_never_comes_is_named(monkeypatch):
    own, other = ports(2)
    cluster(monkeypatch, f"localhost:{own}", f"localhost:{other}")
    with pytest.raises(LostWorker, match=rf"no worker came at localhost:{other} within 0.5 s: start it"):
        enter(wait=0.5)


def test_a_port_in_use_is_told(monkeypatch):
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        cluster(monkeypatch, f"localhost:{busy.getsockname()[1]}", "localhost:1")
        with pytest.raises(BadSpec, match="in use by another process: choose another one"):
            enter(wait=0.5)


def test_options_and_data_that_cannot_be_shared_out(monkeypatch):
    from keras_cnn.data.training_set import training_set

    with pytest.raises(BadSpec, match="how"):
        enter("mirored")
    x, y = np.zeros((20, 16, 16, 3), "uint8"), np.arange(20) % 2
    for told, sentence in (
        ({"batch_size": 9}, "batch_size=9, of 20 images, cannot be shared out among 2 devices: give a multiple of 2"),
        ({"batch_size": 22}, "cannot be shared out among 2 devices"),
        ({"val": (x[:1], y[:1]), "batch_size": 4}, "1 validation images cannot be shared out"),
    ):
        with pytest.raises(BadSpec, match=sentence):
            training_set((x, y), **told, replicas=2)
    with pytest.raises(BadSpec, match="give one of these, not a data set of batches"):
        training_set([(x, y)], replicas=2)


def test_one_device_is_no_distribution(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for how in ("auto", "none"):
        with kc.distribute(how) as place:
            assert (place.worker, place.workers, place.replicas, place.chief) == (0, 1, 1, True)


def test_two_devices_of_jax_end_as_one_does(tmp_path):
    """Also where batches cannot be divided, of validation and of answers. Each in a process with forced devices."""
    pytest.importorskip("jax")
    lines = {}
    for how in ("none", "auto"):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
        env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        done = subprocess.run([sys.executable, "-c", ON_JAX, how], env=env, capture_output=True, text=True, timeout=580)
        assert done.returncode == 0, done.stderr[-2500:]
        lines[how] = json.loads(done.stdout.splitlines()[-1])
    assert (lines["none"]["replicas"], lines["auto"]["replicas"]) == (1, 2)
    for key, values in lines["none"]["history"].items():
        np.testing.assert_allclose(lines["auto"]["history"][key], values, rtol=1e-4)
    np.testing.assert_allclose(lines["auto"]["scores"], lines["none"]["scores"], rtol=2e-3, atol=2e-5)


def test_the_files_for_clusters_say_what_the_command_takes(monkeypatch):
    """The shell line of the pods makes a TF_CONFIG that is understood, and the commands know their options."""
    import yaml
    from typer.main import get_command

    from keras_cnn.cli import app
    from keras_cnn.training import distribution

    folder = ROOT / "examples" / "cluster"
    *_, job = yaml.safe_load_all((folder / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]["containers"][0]["args"][0]
    lines = pod[: pod.index("exec")] + 'echo "$TF_CONFIG"'
    env = {**os.environ, "JOB_COMPLETION_INDEX": "3"}
    made = subprocess.run(["bash", "-c", lines], env=env, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("TF_CONFIG", made)
    found = distribution.of_environment()
    assert found and found.index == 3 and len(found.addresses) == job["spec"]["completions"] == 4
    options = {name for parameter in get_command(app).commands["train"].params for name in parameter.opts}
    for text in (pod, (folder / "slurm.sbatch").read_text()):
        command = text[text.index("keras-cnn train") :]
        command = command[: command.index("--resume") + len("--resume")]
        assert set(re.findall(r"--[a-z-]+", command)) <= options
        assert kc.Recipe.of(re.search(r"--recipe (\w+)", command)[1])


ON_JAX = """
import json, sys
import keras, numpy as np
import keras_cnn as kc

rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (49, 8, 8, 3)).astype("uint8"), rng.integers(0, 2, 49)
with kc.distribute(sys.argv[1]) as place:
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", depths=(1,), widths=(8,), strides=(1,), classes=2, input_shape=(8, 8, 3))
    told = {"epochs": 2, "learning_rate": 0.05, "batch_size": 16, "verbose": 0}
    history = kc.train(model, (x[:32], y[:32]), (x[32:], y[32:]), **told).history
    scores = kc.evaluate(model, (x[32:], y[32:])).outputs
print(json.dumps({"replicas": place.replicas, "history": history, "scores": scores.tolist()}))
"""
PLAIN = """
import keras, numpy as np, tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
data = tf.data.Dataset.from_tensor_slices((np.zeros((8, 4)), np.zeros((8, 1)))).batch(4)
model.fit(data, epochs=1, verbose=0)
"""


@pytest.mark.slow
def test_keras_still_needs_to_be_mended():
    """Once this fails, Keras' own `fit` runs on several workers: take `_mended` out of distribution.py."""
    processes = as_workers(2, "-c", PLAIN)
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert any("_maybe_symbolic_build" in err or "reduce_per_replica" in err or "PerReplica" in err for err in told), (
        told
    )
