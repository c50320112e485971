"""The command on a card: names, no folders, no credentials, and the same meaning."""

from __future__ import annotations

import shlex

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_cnn.checkpoints import commands
from keras_cnn.cli import app

pytestmark = pytest.mark.no_keras

FINETUNE = typer.main.get_command(app).commands["finetune"]  # type: ignore[attr-defined]


def parsed(arguments: list[str]):
    """The context of a command line, as when the command runs."""
    return FINETUNE.make_context("finetune", list(arguments))


def told(arguments: list[str]) -> str:
    return commands.command(parsed(arguments))


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/home/ann/photos -m net -o /tmp/ann/run/", "photos --model net --out run"),
        ("../ann/photos.zip -mnet --out=~/lr=0.1/run", "photos.zip --model net --out run"),
        ("'/home/ann/my photos/of ants' -m net -o/home/ann/run", "'of ants' --model net --out run"),
        (r"'C:\Users\ann lee\photos' -m net -o 'D:\run'", "photos --model net --out run"),
        (r"'\\nas\ann\x' -m 'C:nets\ann\net' -o 'ann\runs\1'", "x --model net --out 1"),
        (r"'\\?\C:\ann\x' -m net -o '\'", "x --model net --out ."),
        ("~ -m ~ann/net -o ~ann", "'~' --model net --out '~'"),
        ("file:///home/ann/photos -m net -o file://ann/run", "photos --model net --out run"),
        ("https://ann:secret@nas/ann/x.zip?sig=abc#x -m net -o run", "x.zip --model net --out run"),
        ("x -m net --weights https://nas/ann/w.h5?token=abc -o run", "x --model net --out run --weights w.h5"),
        ("tfds:flowers/a:1.0 -m hf://me/n@try/this -o run", "tfds:flowers/a:1.0 --model hf://me/n@try/this --out run"),
        ("hf://datasets/me/a@v -m hf://ann:secret@nas/net -o run", "hf://datasets/me/a@v --model net --out run"),
        ("digits -m r.t_in2 -o run --learning-rate 1e-3", "digits --model r.t_in2 --out run --learning-rate 0.001"),
        ("/srv/ann/models--me--net@v1 -m net -o run", "models--me--net@v1 --model net --out run"),
        ("x -m net -o run --no-probe --study", "x --model net --out run --study --no-probe"),
        (r"x -m net -o run --above 'stage\d'", r"x --model net --out run --above 'stage\d'"),
        ('"/home/ann/it\'s \\"here\\"" -m net -o run', "'it'\"'\"'s \"here\"' --model net --out run"),
        ("-m net --out=-run -- -x", "--model net --out=-run -- -x"),
        ("/ann/hf_abcdefghijklmnop -m net -o run", "... --model net --out run"),
        ("x -m net -o /ann/hf_abcdefghijklmnop --weights=''", "x --model net --weights ''"),
        ("/ -m . -o ..", ". --model . --out .."),
    ],
)  # fmt: skip
def test_paths_of_every_kind(typed, shown):
    assert told(shlex.split(typed)) == f"keras-cnn finetune {shown}"


name = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=12)
roots = st.sampled_from(
    [
        "",
        "/",
        "~/",
        "../",
        "./",
        "C:\\",
        "D:/",
        "\\\\nas\\",
        "\\\\?\\C:\\",
        "file:///",
        "file://nas/",
        "https://u:p@nas/",
    ]
)
secret = st.integers(0, 10**6).map("ANN{:07d}".format)


@st.composite
def paths(draw) -> str:
    """A path whose folders hold the word ANN, and its last name."""
    separator = draw(st.sampled_from(["/", "\\"]))
    folders = [
        draw(name) + draw(secret) + draw(st.sampled_from(["", " ", "=", "'", '"']))
        for _ in range(draw(st.integers(1, 3)))
    ]
    end = draw(st.sampled_from(["", separator]))
    return draw(roots) + separator.join([*folders, draw(name)]) + end


@settings(max_examples=150, deadline=None)
@given(
    data=paths(),
    model=paths(),
    out=paths(),
    form=st.sampled_from(["joined", "equals", "apart"]),
    rate=st.floats(1e-9, 9),
)
@example("/ANN/-x", "ANN/--y", "ANN/-", "joined", 1e-3)
@example("0ANN0000000/0", "0", "https://u:p@nas/0ANN0000000\\#", "joined", 1.0)
@example("0ANN0000000/0", "0", "0ANN0000000/~0", "joined", 1.0)
@example("0ANN0000000/A:", "0", "0ANN0000000/A:~0", "joined", 1.0)
def test_no_folder_is_told_and_the_command_means_the_same(data, model, out, form, rate):
    given_ = {
        "joined": lambda option, value: [option[1:3] + value],
        "equals": lambda option, value: [f"{option}={value}"],
        "apart": lambda option, value: [option, value],
    }["apart" if form == "apart" and not (model + out).startswith("-") else "equals" if form == "equals" else "joined"]
    line = [*given_("--model", model), *given_("--out", out), "--learning-rate", repr(rate), "--no-probe", "--", data]
    first = parsed(line)
    text = commands.command(first)
    assert "ANN" not in text
    again = parsed(shlex.split(text)[2:]).params
    reduced = {key: commands.last_name(v) if isinstance(v, str) else v for key, v in first.params.items()}
    assert again == reduced
    assert commands.cleaned(text) == text  # what is saved once more stays


@pytest.mark.parametrize(
    ("old", "shown"),
    [
        ("keras-cnn finetune /home/ann/photos --out /home/ann/run", "keras-cnn finetune photos --out run"),
        (r"keras-cnn finetune 'C:\\Users\\ann lee\\photos' -o/home/ann/x", "keras-cnn finetune photos -ox"),
        (r"keras-cnn finetune C:\Users\ann\photos --out=~/ann/x", "keras-cnn finetune photos --out=x"),
        (r"keras-cnn info x --freeze stage\d_.*", r"keras-cnn info x --freeze 'stage\d_.*'"),
        ("keras-cnn publish x me/net --token abc", "keras-cnn publish x net --token ..."),
        ("HF_TOKEN=hf_abcdefghijklmnop keras-cnn train x", "... keras-cnn train x"),
        ("keras-cnn finetune /home/ann/it's", None),
    ],
)
def test_a_command_from_elsewhere_is_told_the_same_way_or_not_at_all(old, shown):
    assert commands.cleaned(old) == shown
    assert commands.public({"command": old, "data": "x"}) == {"data": "x"} | ({"command": shown} if shown else {})


@settings(max_examples=150, deadline=None)
@given(path=paths().filter(lambda path: not path.startswith(tuple("0123456789"))))
@example("/home/ANN/my photos")
@example("~ANN/x")
@example("C:/ANN/photos/")
def test_no_folder_of_data_or_source_is_told(path):
    if not commands.PATH.fullmatch(path):  # from no root: a path only where it is there
        return
    facts = {key: path for key in commands.PLACES}
    once = commands.public(facts)
    assert "ANN" not in str(once) and commands.public(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "CIFAR-10/100",
        "photos of ants and/or bees",
        "~5,000 photos",
        "hf://me/net@main",
        "tfds:flowers/a:1.0",
        "https://download.example/nets/w.h5",
        "timm resnet50.a1_in1k",
        ".5 of all / some",
        "",
    ],
)
def test_what_is_no_path_is_told_as_it_is(text):
    assert commands.public({"data": text, "source": text}) == {"data": text, "source": text}


def test_a_path_below_the_present_folder_is_known_by_being_there(tmp_path, monkeypatch):
    (tmp_path / "acme" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert commands.public({"data": "acme/photos"}) == {"data": "photos"}
    assert commands.public({"data": ["a", 1]}) == {"data": ["a", 1]}
