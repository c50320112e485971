"""The benchmarks of training run from end to end, with tiny figures, and count what they say they do."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "benchmarks"
SIDES = {"ours": 1, "ours, commands that predict": 0, "TensorFlow's": 0}  # oneDNN, on a processor with AVX2 only


def run(command):
    name, *told = shlex.split(command)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    line = [sys.executable, str(FOLDER / name), *told]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_gpu_train_runs_on_a_processor():
    told = "--models resnet20 --batch 2 --policy float32 --xla off --rounds 1 --steps 1 --no-references"
    (line,) = (line for line in run(f"gpu_train.py {told}") if line.startswith("| resnet20"))
    name, size, batch, _, _, rate, ratio, share = (cell.strip() for cell in line.strip("|").split("|"))
    assert (name, size, batch, ratio) == ("resnet20", "32", "2", "1.00 (1.00 to 1.00)")
    assert float(rate) > 0 and float(share.rstrip("%")) > 0


@pytest.mark.slow
def test_settings_of_a_processor_are_compared():
    told = "--isa avx2 --tasks 'step resnet18' --rounds 1 --seconds 0.1"
    lines = run(f"cpu_defaults.py {told}")
    assert lines[0].endswith("sse4_2, avx, fma, avx2 (emulated)")
    assert lines[1:4] == [f"{side}: TF_ENABLE_ONEDNN_OPTS={value}" for side, value in SIDES.items()]
    (row,) = (line for line in lines if line.startswith("| step resnet18"))
    assert all(float(ratio) > 0 for ratio in row.strip("|").split("|")[3:])


@pytest.mark.slow
def test_workers_are_timed_by_part():
    lines = run("workers.py --model resnet18 --size 32 --batch 2 --steps 3 --workers 1 2")
    found = [line for line in lines if line.startswith(("| 1 |", "| 2 |"))]
    rows = [[float(cell) for cell in line.strip("|").split("|")] for line in found]
    assert rows[0][2] == 0 and rows[1][2] > 0 and all(row[1] > row[2] for row in rows)


def test_a_ring_all_reduce_on_paper():
    """resnet50: 102.4 MB; of 8 machines each sends 7/8 of them twice: 179.2 MB, at 10 Gbit/s 143 ms."""
    spec = importlib.util.spec_from_file_location("workers", FOLDER / "workers.py")
    workers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(workers)
    assert workers.ring(4 * 25.6e6, 8, 10) == pytest.approx(0.14336)
    assert workers.ring(4 * 25.6e6, 1, 10) == 0


def test_the_time_to_a_first_result_is_divided_among_packages():
    head, _, nothing, names = run("start.py --rounds 1 --only 'python -c pass' list")
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (nothing, names)]
    table = {row[0]: dict(zip(columns[1:], map(float, row[1:]), strict=True)) for row in rows}
    assert table["list"]["clock"] > table["python -c pass"]["clock"] > 0
    assert table["list"]["tensorflow"] == table["list"]["keras"] == 0 < table["list"]["keras_cnn"]
