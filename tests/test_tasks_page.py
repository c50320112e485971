"""docs/tasks.md is true: its calls run, its table is that of the code, and the commands and programs exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_docs import commands_in, unknown_in

import keras_cnn as kc
from keras_cnn import tasks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
TABLE = {
    row[0]: row
    for row in (re.findall(r"`([^`]+)`", line) for line in PAGE.splitlines())
    if row and row[0] in tasks.TASKS
}


def test_every_call_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shallow = PAGE.replace('"resnet20"', '"resnet20", depths=(1, 1, 1)')  # the same calls, in a third of the time
    for example in re.findall(r"```python\n(.*?)```", shallow, re.DOTALL):
        exec(compile(example, "tasks.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_the_table_has_every_task():
    assert list(TABLE) == list(tasks.TASKS)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_table_says_what_is_true(name):
    """The head is of the task; the losses are all of them, the default first; the figure is the one that is kept."""
    task, row = tasks.TASKS[name], TABLE[name]
    (head,) = [cell for cell in row if "=" in cell and not cell.startswith("(")]
    losses = row[row.index(head) + 1 : -1]
    assert losses == list(task.LOSSES) and row[-1] == task.monitor.removeprefix("val_")
    model = eval(f"kc.build('resnet20', input_shape=(16, 16, 3), {head})", {"kc": kc, "names": ["a", "b"]})
    assert tasks.of(model) is task and task.outputs(model)


def test_commands_and_programs_exist():
    commands = commands_in(PAGE)
    assert len(commands) > 4 and not [words for words in commands if unknown_in(words)]
    programs = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert (told := set(re.findall(r"examples/(\w+\.py)", PAGE))) and told <= programs
