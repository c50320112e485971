"""Options as data: a field is a keyword, an option of the command line, a key of a file, and part of a run's record."""

from __future__ import annotations

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
import typer
from images import folder

import keras_cnn as kc
from keras_cnn.cli import app
from keras_cnn.errors import BadSpec, UnknownOption
from keras_cnn.training import state
from keras_cnn.training.options import FineTuneOptions, Options, TrainOptions, option, takes

KINDS = {"fine_tune": FineTuneOptions, "train": TrainOptions}


def pair(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    return (np.zeros((count, 16, 16, 3)) + 200 * labels[:, None, None, None]).astype("uint8"), labels


def net():
    keras.utils.set_random_seed(0)
    return kc.build("resnet20", input_shape=(16, 16, 3), classes=2)


@pytest.mark.no_keras
@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_a_keyword_and_an_option_of_the_command(name):
    parameters = inspect.signature(getattr(kc, name)).parameters
    command = typer.main.get_command(app).commands[name.replace("_", "-")]
    options = {parameter.name: parameter for parameter in command.params}
    for field in dataclasses.fields(KINDS[name]):
        assert parameters[field.name].default == field.default
        assert f"{field.name}: {field.metadata['told']}" in getattr(kc, name).__doc__
        if field.name != "class_weight":  # --balance
            assert options[field.name].opts[0] == "--" + field.name.replace("_", "-")
            assert options[field.name].default == field.default


@pytest.mark.no_keras
def test_a_new_option_is_one_line():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Some(Options):
        depth: int = option(2, "how deep", 1, 9)

    @takes(Some)
    def dig(place, **more):
        """Dig a hole."""
        return Some.of(None, "dig", **more)

    assert str(inspect.signature(dig)) == "(place, *, depth: 'int' = 2)"
    assert "depth: how deep. Default: 2." in dig.__doc__ and dig("here", depth=3).depth == 3
    for value, told in ((0, "depth=0: give 1 or more, at most 9"), (1.5, "depth=1.5: give a whole number")):
        with pytest.raises(BadSpec, match=told):
            dig("here", depth=value)


@pytest.mark.no_keras
def test_a_file_tells_options_and_what_is_given_beside_it_wins(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text('epochs = 3\nlearning_rate = 1e-3\nschedule = "all"\n[class_weight]\n0 = 2.0\n')
    found = FineTuneOptions.of(file, "fine_tune", epochs=4)
    assert (found.epochs, found.learning_rate, found.schedule, found.class_weight) == (4, 1e-3, "all", {"0": 2.0})
    assert FineTuneOptions.of(found, "fine_tune", epochs=5) == dataclasses.replace(found, epochs=5)
    assert FineTuneOptions.of({"epochs": 4}, "fine_tune").epochs == 4
    for text, kind, told in (
        ("lerning_rate = 1", UnknownOption, "some.toml has no option 'lerning_rate': did you mean 'learning_rate'?"),
        ("rate = 1", UnknownOption, "some.toml has no option 'rate': write learning_rate=."),
        ("epochs = ", BadSpec, "some.toml is no TOML file"),
        ("epochs = -1", BadSpec, "epochs=-1: give 0 or more."),
    ):
        file.write_text(text)
        with pytest.raises(kind) as error:
            FineTuneOptions.of(file, "fine_tune")
        assert told in str(error.value)
    with pytest.raises(BadSpec, match=r"gone\.toml: the file of options cannot be read"):
        FineTuneOptions.of(tmp_path / "gone.toml", "fine_tune")


@pytest.mark.parametrize("name", KINDS)
def test_a_run_keeps_its_options_however_they_were_given(tmp_path, name):
    told = {"epochs": 1, "learning_rate": 0.01, "batch_size": 8}
    told |= {"schedule": "all", "probe": False} if name == "fine_tune" else {}
    file = tmp_path / "some.toml"
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items()))
    kept = []
    for number, given in enumerate((told, {"options": str(file)}, {"options": KINDS[name](**told)})):
        out = tmp_path / str(number)
        getattr(kc, name)(net(), pair(), out=out, verbose=0, **given)
        kept.append(json.loads((out / "run.json").read_text())["facts"]["options"])
    assert kept[0] == kept[1] == kept[2] and kept[0].items() >= told.items()
    assert kept[0].keys() >= {field.name for field in dataclasses.fields(KINDS[name])}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    counts = {f"{split}/{name}": count for split, count in (("train", 4), ("val", 2)) for name in ("cat", "dog")}
    return folder(tmp_path_factory.mktemp("data") / "pets", counts, (16, 16))


@pytest.mark.parametrize("name", ["fine_tune", pytest.param("train", marks=pytest.mark.slow)])
def test_the_command_line_tells_the_same_as_a_call_and_wins_over_its_file(tmp_path, run, pets, name):
    weights = kc.save_pretrained(kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3)), tmp_path / "weights")
    told = {"epochs": 3, "learning_rate": 0.01, "batch_size": 4, "seed": 5}
    told |= {"schedule": "all", "probe": False} if name == "fine_tune" else {"label_smoothing": 0.2}
    (file := tmp_path / "some.toml").write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items())
    )
    named = "resnet20" if name == "train" else weights
    line = (name.replace("_", "-"), pets, "-m", named, "--size", 16, "--options", file, "--epochs", 1)
    line += ("--precision", "float32")  # what a call computes in; a command takes what is fastest here
    code, _, err = run(*line, "--out", tmp_path / "command", "--json")
    assert code == 0, err
    model = kc.build(named, classes=["cat", "dog"], input_shape=(16, 16, 3))
    data = kc.load_data(pets, model, batch_size=4, augment="light", seed=5)
    getattr(kc, name)(model, data, options=file, epochs=1, out=tmp_path / "call", verbose=0)
    by_command, by_call = (
        json.loads((tmp_path / how / "run.json").read_text())["facts"]["options"] for how in ("command", "call")
    )
    if name == "train":  # which sees small images whole, without the architecture's crop
        assert by_command.pop("network") != by_call.pop("network")
    assert by_command == by_call and by_command.items() >= {**told, "epochs": 1}.items()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("asked", [None, True, False])
def test_a_step_is_compiled_as_asked(name, asked):
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(watch.model.jit_compile))
    told = {"schedule": "head", "head_epochs": 1} if name == "fine_tune" else {"epochs": 1}
    model = net()
    before = model.jit_compile
    getattr(kc, name)(model, pair(4), callbacks=[watch], jit_compile=asked, verbose=0, **told)
    assert seen == [before if asked is None else asked] and model.jit_compile == before


def test_an_option_that_came_later_stops_no_run_unless_it_is_given(tmp_path):
    with state.Run(tmp_path, {"epochs": 2}) as run:
        run.keep(lambda: ({"a": np.zeros(1)}, {"epoch": 1}), now=True)
    with state.Run(tmp_path, {"epochs": 2, "jit_compile": None}, resume=True) as run:
        assert run.state[1]["epoch"] == 1
    with pytest.raises(BadSpec, match="jit_compile"):
        state.Run(tmp_path, {"epochs": 2, "jit_compile": True}, resume=True).__enter__()
