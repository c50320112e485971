"""Seconds to a first result: commands, the import and a small network, and whose modules the time goes to.

    python tests/benchmarks/start.py [--rounds 5] [--only list info]

Each line is of a fresh process, in turns with `python -c pass`; medians by the clock and of the processor, and the
first round beside them, which found files that the system may not have had in memory. The columns to the right divide
the seconds that imports took (`python -X importtime`, so a little longer) among the packages that own the modules;
what is no import is what the command does. Nothing is asserted: timings are for reading.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import resource
import statistics
import subprocess
import sys
import time

COMMAND = ["-m", "keras_cnn.cli"]
LINES = {
    "python -c pass": ["-c", "pass"],
    "import keras_cnn": ["-c", "import keras_cnn"],
    "--help": [*COMMAND, "--help"],
    "list": [*COMMAND, "list"],
    "info": [*COMMAND, "info", "resnet50"],
    "build": ["-c", "import keras_cnn as kc; kc.build('resnet18.tiny_in200')"],
    "import keras": ["-c", "import keras"],
}
OWNERS = ("keras_cnn", "numpy", "PIL", "typer", "rich", "keras", "tensorflow")
IMPORTED = re.compile(r"import time: +(\d+) \| +\d+ \| +([\w.]+)")


def seconds(line: list[str]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *line], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports(line: list[str]) -> dict[str, float]:
    """Seconds of importing by the package that owns the module; "other" for what is of none of OWNERS."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *line],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    spent: collections.Counter[str] = collections.Counter()
    for microseconds, module in IMPORTED.findall(done.stderr):
        owner = module.split(".")[0]
        spent[owner if owner in OWNERS else "other"] += int(microseconds)
    return {owner: spent[owner] / 1e6 for owner in (*OWNERS, "other")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(LINES), choices=LINES, metavar="LINE")
    asked = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    lines = {name: LINES[name] for name in asked.only}
    taken = [{name: seconds(line) for name, line in lines.items()} for _ in range(asked.rounds)]
    columns = ("first", "clock", "processor", *OWNERS, "other")
    print(f"| {' | '.join(('what', *columns))} |")
    print("|" + "---|" * (len(columns) + 1))
    for name, line in lines.items():
        clock, processor = (statistics.median(times[name][i] for times in taken) for i in (0, 1))
        figures = (taken[0][name][0], clock, processor, *imports(line).values())
        print(f"| {' | '.join((name, *(f'{figure:.2f}' for figure in figures)))} |")


if __name__ == "__main__":
    main()
