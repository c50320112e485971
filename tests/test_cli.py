"""The command line: what it prints, what it leaves, and how it says no."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
import torch_files
from images import folder
from PIL import Image

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.cli import runs
from keras_cnn.models import registry
from keras_cnn.models.config import Preprocess

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A weights directory of a tiny network that knows cats and dogs."""
    model = kc.build(
        "resnet20", input_shape=(16, 16, 3), classes=["cat", "dog"], preprocess=Preprocess(size=(16, 16), crop=1.0)
    )
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return kc.save_pretrained(
        model, tmp_path_factory.mktemp("weights") / "net", provenance={"source": "a test", "license": "mit"}
    )


@pytest.fixture
def pets(tmp_path):
    return folder(tmp_path / "pets", {"cat": 6, "dog": 6})


def values(answer: tuple[int, str, str]):
    """The JSON of a success, which is all of stdout."""
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


# --- list and info --------------------------------------------------------------------------------------------------


def test_list(run):
    code, out, err = run("list", "resnet1*")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert (code, err) == (0, "") and names == kc.list_models("resnet1*")
    rows = values(run("list", "--json"))
    assert [row["name"] for row in rows] == kc.list_models() and len(rows) == len(registry.architectures())
    assert next(row["parameters"] for row in rows if row["name"] == "resnet50") == 25557032
    assert [row["name"] for row in values(run("list", "--pretrained", "--json"))] == kc.list_models(pretrained=True)


def test_info(run, net):
    code, out, _ = run("info", "resnet50")
    assert code == 0
    for text in ("25.56 M", "4.11 G", "stem, stage1, stage2, stage3, stage4, head", "224x224, crop 0.875, bicubic"):
        assert text in out
    told = values(run("info", "resnet50", "--json"))
    assert [row["way"] for row in told.pop("scaled")] == ["depth", "width", "resolution", "together"]
    assert told == json.loads(json.dumps(kc.info("resnet50")))
    code, out, _ = run("info", net)
    assert code == 0 and "cat, dog" in out and "mit" in out


def test_info_draws_how_a_network_scales(run, tmp_path):
    picture = tmp_path / "scaling.png"
    assert run("info", "efficientnet_b0", "--plot", picture)[0] == 0
    assert Image.open(picture).size[0] > 600
    code, _, err = run("info", "inception_v3", "--plot", tmp_path / "none.png")
    assert code == 2 and "inception_v3 has no rule for scaling" in err
    assert run("info", "resnet18", "--budget", "1")[0] == 2


def test_list_sorts_what_is_known_of_public_weights(run):
    code, out, _ = run("list", "resnet18*", "--pretrained", "--sort", "top1")
    lines = [line for line in out.splitlines() if line.startswith("resnet18.")]
    shares = [float(line.split()[1]) for line in lines if "%" in line]
    assert code == 0 and len(shares) > 5 and shares == sorted(shares, reverse=True)
    code, _, err = run("list", "--sort", "beauty")
    assert code == 2 and "choose name, parameters, macs, top1" in err


def test_lrfind_suggests_and_draws(run, net, pets, tmp_path):
    picture = tmp_path / "rates.png"
    told = values(run("lrfind", pets, "--model", net, "--steps", "8", "--frozen", "--out", picture, "--json"))
    assert told["suggestion"] in told["rates"] and len(told["losses"]) == len(told["rates"])
    assert Image.open(picture).size[0] > 400


def test_version_and_help(run):
    assert run("--version")[:2] == (0, f"keras-cnn {kc.__version__}\n")
    code, out, _ = run("--help")
    assert code == 0 and all(verb in out for verb in ("list", "info", "demo", "fine-tune", "evaluate", "predict"))


# --- evaluate and predict -------------------------------------------------------------------------------------------


def test_evaluate_counts_what_the_network_gets_right(run, net, pets):
    facts = values(run("evaluate", pets, "--model", net, "--json"))
    model = kc.build(net)
    pre = config_of(model).preprocess
    truth = [
        (kc.load_image(file, pre), label) for label, c in enumerate(("cat", "dog")) for file in (pets / c).iterdir()
    ]
    images, labels = (np.stack(column) for column in zip(*truth, strict=True))
    right = int((model.predict(images, verbose=0).argmax(1) == labels).sum())
    assert (facts["correct"], facts["images"], facts["split"], facts["skipped"]) == (right, 12, "train", 0)
    assert facts["accuracy"] == pytest.approx(right / 12)
    code, out, _ = run("evaluate", pets, "--model", net)
    assert code == 0 and f"{right / 12:.4f}" in out


def test_evaluate_takes_the_named_split_and_matches_classes_by_name(run, net, tmp_path):
    root = folder(tmp_path / "set", {"train/dog": 2, "train/cat": 2, "val/dog": 3, "test/dog": 4})
    answers = {
        split: values(run("evaluate", root, "--model", net, "--json", *(["--split", split] if split else [])))
        for split in ("", "val")
    }
    assert [(a["split"], a["images"]) for a in answers.values()] == [("test", 4), ("val", 3)]
    code, _, err = run("evaluate", folder(tmp_path / "two", {"cat": 2, "dog": 2}), "--model", net, "--split", "test")
    assert code == 2 and "has no split 'test'; it has train" in err


def test_evaluate_looks_at_no_image_of_another_split(run, net, tmp_path):
    pets = folder(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "val/cat": 3, "val/dog": 3})
    (pets / "train" / "cat" / "bad.png").touch()
    assert values(run("evaluate", pets, "--model", net, "--json"))["images"] == 6
    code, out, err = run("evaluate", pets, "--model", net, "--split", "train")
    assert (code, out, "bad.png" in err) == (2, "", True)


def test_finetune_of_no_epochs_is_told(run, net, pets, tmp_path):
    for epochs, sentence in ((0, "no epoch to learn in"), (-2, "'--epochs'")):
        options = ["--out", tmp_path / "out", "--epochs", epochs, "--head-epochs", 0]
        code, _, err = run("finetune", pets, "--model", net, *options)
        assert (code, sentence in err, (tmp_path / "out").exists()) == (2, True, False)


def test_predict_needs_a_classifier(run, pets, tmp_path):
    model = kc.build("resnet20", input_shape=(16, 16, 3), classes=0)
    code, _, err = run("predict", pets / "cat" / "0.png", "--model", kc.save_pretrained(model, tmp_path / "features"))
    assert (code, "has no classifier: it gives features, not classes" in err) == (2, True)


def test_predict(run, net, pets):
    images = sorted((pets / "cat").iterdir())[:2]
    answers = values(run("predict", *images, "--model", net, "--json"))
    assert [answer["image"] for answer in answers] == [str(image) for image in images]
    model = kc.build(net)
    batch = np.stack([kc.load_image(image, config_of(model).preprocess) for image in images])
    for answer, row in zip(answers, model.predict(batch, verbose=0), strict=True):
        assert [guess["class"] for guess in answer["top"]] == [("cat", "dog")[i] for i in np.argsort(-row)]
        assert [guess["probability"] for guess in answer["top"]] == pytest.approx(sorted(row, reverse=True), abs=1e-6)
    code, out, _ = run("predict", images[0], "--model", net, "--top", 1)
    assert code == 0 and answers[0]["top"][0]["name"] in out and "%" in out


# --- saying no ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("info resnet5", "There is no network called 'resnet5'. Did you mean resnet5"),
        ("evaluate {pets} --model resnet5", "Did you mean resnet5"),
        ("info resnet50.gone", "resnet50 has no weights tagged 'gone' here"),
        ("info {tmp}/gone", "gone: there is no such directory."),
        ("info {pets}", "pets has no config.json: it is not a weights directory."),
        ("list nothing*", "no network fits 'nothing*': `keras-cnn list` shows all."),
        ("evaluate {tmp}/gone --model {net}", "gone: no such file or folder"),
        ("evaluate {tmp}/empty --model {net}", "the class 'dog' of train holds no images"),
        ("evaluate {tmp}/birds --model {net}", "the model does not know 2 of the data's 3 classes (emu, owl)"),
        ("evaluate {tmp}/birds --model resnet20", "the data has 3 classes, the model 10 without names"),
        ("evaluate {tmp}/bad --model {net}", "bad.png"),
        ("predict {tmp}/bad/cat/bad.png --model {net}", "bad.png: this is not an image"),
        ("predict {tmp}/gone.png --model {net}", "gone.png: "),
        ("finetune {tmp}/one --model {net} --out {tmp}/out", "only one class ('cat') found"),
        ("finetune {tmp}/gone --model {net} --out {tmp}/out", "gone: no such file or folder"),
        ("finetune {pets} --model resnet5 --out {tmp}/out", "Did you mean resnet5"),
        ("finetune {tmp}/bad --model {net} --out {tmp}/out", "bad.png"),
        ("finetune {pets} --model {net} --out {tmp}/out --above stage9", "there is no stage 'stage9'"),
        (
            "finetune {pets} --model {net} --out {tmp}/out --bn on",
            "bn='on': choose one of 'frozen', 'train', 'recalibrate'.",
        ),
        ("finetune {pets} --model {net} --out {tmp}/out --augment odd", "augment='odd': choose one of"),
        ("finetune {pets} --model resnet20 --weights {net}/config.json --out {tmp}/out", "known weight files end in"),
        ("train {pets} --model resnet5 --out {tmp}/out", "Did you mean resnet5"),
        ("train {tmp}/one --model resnet20 --out {tmp}/out", "only one class ('cat') found"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, net, pets, tmp_path, arguments, sentence):
    folder(tmp_path / "one", {"cat": 3})
    folder(tmp_path / "empty", {"cat": 3, "dog": 0})
    folder(tmp_path / "birds", {"cat": 3, "emu": 2, "owl": 2})
    folder(tmp_path / "bad", {"cat": 3, "dog": 3})
    (tmp_path / "bad" / "cat" / "bad.png").write_bytes(b"this is a letter")
    code, _, err = run(*arguments.format(net=net, pets=pets, tmp=tmp_path).split())
    assert code == 2, err
    *notes, last = err.splitlines()
    assert last.startswith("error: ") and sentence in last and not any("error" in note for note in notes)
    assert not (tmp_path / "out").exists()


def tampered(net: Path, tmp: Path) -> Path:
    copy = Path(shutil.copytree(net, tmp / "net"))
    blob = bytearray((copy / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (copy / "model.safetensors").write_bytes(blob)
    return copy


def truncated(net: Path, tmp: Path) -> Path:
    (tmp / "cut.safetensors").write_bytes((net / "model.safetensors").read_bytes()[:-100])
    return tmp / "cut.safetensors"


def unsafe(net: Path, tmp: Path) -> Path:
    harm = str(tmp / "harm").encode()
    code = b"cos\nmkdir\n(X" + len(harm).to_bytes(4, "little") + harm + b"tR"
    torch_files.save(tmp / "unsafe.pth", {"conv1.weight": torch_files.Raw(code)})
    return tmp / "unsafe.pth"


@pytest.mark.parametrize(
    ("make", "arguments", "sentences"),
    [
        (
            tampered,
            "--model {file}",
            ["model.safetensors is not the file that", "(its sha256 differs): fetch it again"],
        ),
        (truncated, "--model resnet20 --weights {file}", ["cut.safetensors is truncated or not a safetensors file"]),
        (unsafe, "--model resnet20 --weights {file}", ["unsafe.pth", "it was not opened"]),
        (lambda net, tmp: net / "model.safetensors", "--model {file}", ["is a file of arrays: name its architecture"]),
        (lambda net, tmp: net, "--model resnet32 --weights {file}", ["holds weights of resnet20, not of resnet32"]),
        (
            lambda net, tmp: net / "model.safetensors",
            "--model resnet32 --weights {file}",
            ["the weights do not fit the network", "- stage1_block4_conv1/kernel (3, 3, 16, 16)"],
        ),
        (lambda net, tmp: "hf://user/flowers", "--model {file}", ["cannot be reached for user/flowers"]),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate {pets}", "predict {pets}/cat/0.png"])
def test_bad_weights_are_told_and_never_run(run, net, pets, tmp_path, verb, make, arguments, sentences):
    command = f"{verb} {arguments}".format(file=make(net, tmp_path), pets=pets)
    code, _, err = run(*command.split())
    assert code == 2, err
    assert err.startswith("error: ") and all(sentence in err for sentence in sentences)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("part", "field", "value", "sentence"),
    [
        ("backbone", "depths", "abc", "depths='abc': give a list, each entry a whole number."),
        ("backbone", "depths", [10**8] * 3, "give numbers from 1 to 5000."),
        ("preprocess", "std", [0, 0, 0], "std=(0, 0, 0): give numbers above 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_sentence(run, net, tmp_path, part, field, value, sentence):
    path = shutil.copytree(net, tmp_path / "net")
    values = json.loads((path / "config.json").read_text())
    values["keras_cnn"][part][field] = value
    (path / "config.json").write_text(json.dumps(values))
    code, out, err = run("info", path)
    assert (code, out) == (2, "") and sentence in " ".join(err.split()) and "Traceback" not in err


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(run, net, pets, tmp_path):
    options = ["--batch-size", 4, "--head-learning-rate", "1e-2", "--epochs", 1, "--head-epochs", 1]
    code, _, err = run("finetune", pets, "--model", net, "--out", tmp_path / "out", *options, "--learning-rate", "1e38")
    assert code == 2
    assert "the loss is no longer a number" in err and f"last good weights are in {tmp_path / 'out'}" in err
    assert kc.build(tmp_path / "out").output_shape == (None, 2)


@pytest.mark.parametrize(
    "kind", ["gray.png", "gray16.png", "cmyk.jpg", "turned.jpg", "moving.gif", "palette.png", "wide.bmp"]
)
def test_every_kind_of_image_is_predicted(run, net, tmp_path, kind):
    picture = Image.fromarray(seeded.image(40)[0])
    made = {
        "gray.png": lambda: picture.convert("L").save(tmp_path / kind),
        "gray16.png": lambda: Image.fromarray(seeded.image(40)[0, :, :, 0].astype("uint16") * 257).save(
            tmp_path / kind
        ),
        "cmyk.jpg": lambda: picture.convert("CMYK").save(tmp_path / kind),
        "turned.jpg": lambda: picture.save(tmp_path / kind, exif=turned()),
        "moving.gif": lambda: picture.save(tmp_path / kind, save_all=True, append_images=[picture.rotate(90)]),
        "palette.png": lambda: picture.convert("P").save(tmp_path / kind),
        "wide.bmp": lambda: picture.resize((90, 20)).save(tmp_path / kind),
    }
    made[kind]()
    (answer,) = values(run("predict", tmp_path / kind, "--model", net, "--json"))
    assert {guess["class"] for guess in answer["top"]} == {"cat", "dog"}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["frobnicate"], "frobnicate"),
        (["info"], "name"),
        (["list", "--colour"], "--colour"),
        (["finetune", "x", "--model", "y", "--out", "z", "--epochs", "many"], "--epochs"),
        (["train", "x", "--model", "y", "--out", "z", "--epochs", "0"], "--epochs"),
        (["finetune", "x", "--model", "y", "--out", "z", "--batch-size", "0"], "--batch-size"),
        (["evaluate", "x", "--model", "y", "--size", "-5"], "--size"),
        (["fine-tune", "x", "--model", "y", "--out", "z", "--study", "--ema", "0.5"], "leave out --ema"),
        (["fine-tune", "x", "--model", "y", "--out", "z", "--head-rate", "1"], "--head-learning-rate"),
        (["finetune", "x", "--model", "y", "--out", "z", "--cycle", "cosine"], "--warmup"),
        (["train", "x", "--model", "y", "--out", "z", "--smoothing", "0"], "--label-smoothing"),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, word):
    code, _, err = run(*arguments)
    assert code == 2 and word in err


def test_a_bug_of_ours_is_no_usage_error(run, monkeypatch):
    monkeypatch.setattr("keras_cnn.hub.info.info", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("info", "resnet50")


def test_a_full_disk_is_told(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("keras_cnn.hub.info.info", full)
    code, _, err = run("info", "resnet50")
    assert (code, err.startswith("error: the disk is full (model.safetensors)")) == (2, True)


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def test_finetune_leaves_a_weights_directory_and_pictures(run, net, pets, tmp_path):
    (pets / "cat" / "bad.png").write_bytes(b"this is a letter")
    out = tmp_path / "out"
    options = ["--epochs", 1, "--head-epochs", 1, "--batch-size", 4, "--skip-bad", "--size", 24]
    code, printed, err = run("finetune", pets, "--model", net, "--out", out, *options)
    assert code == 0, err
    said = " ".join(printed.split())
    assert "unreadable images left out: 1" in said and f"keras-cnn predict IMAGE --model {out}" in said
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.safetensors", "config.json", "README.md", "curves.png", "confusion.png", "report.html"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "confusion.png"))
    model = kc.build(out)
    known = config_of(model)
    assert model.input_shape == (None, 24, 24, 3) and known.class_names == ("cat", "dog")
    assert known.provenance["data"] == "pets" and known.provenance["command"].startswith("keras-cnn finetune")
    assert 0 <= known.provenance["metrics"]["val accuracy"] <= 1
    report = (out / "report.html").read_text(encoding="utf-8")
    wrong = 2 * (1 - known.provenance["metrics"]["val accuracy"])  # of two images, each shown with its mistake
    assert report.count('src="data:image/') == 2 + round(wrong) and "keras-cnn finetune" in report
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "keras-cnn finetune" in card and "val accuracy" in card
    assert "](curves.png)" in card and "](confusion.png)" in card
    assert "10 training and 2 validation images of 2 classes (cat 5, dog 5)" in err
    assert "images of about 12x11 pixels are seen at 24x24" in err and "--size" not in err
    facts = values(run("evaluate", pets, "--model", out, "--skip-bad", "--json"))
    # What it was trained on is told apart.
    assert (facts["skipped"], facts["images"], facts["trained_on"]["images"]) == (1, 2, 10)


def test_a_run_that_is_cut_short_while_it_is_scored_is_held_until_then_and_not_fitted_again(
    run, net, pets, tmp_path, monkeypatch
):
    out, score, found = tmp_path / "out", runs.score, list[str]()

    def cut(*_, **__):
        monkeypatch.setattr(runs, "score", score)
        hold = "import sys; from keras_cnn import files\nwith files.holding(sys.argv[1]): pass"
        found.append(subprocess.run([sys.executable, "-c", hold, out], capture_output=True, text=True).stderr)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "score", cut)
    command = ["finetune", pets, "-m", net, "--out", out, "--schedule", "head", "--head-epochs", 1, "--batch-size", 4]
    code, _, err = run(*command)
    assert code not in (0, 2) and not (out / "report.html").exists()
    assert "is in use by another run" in found[0]  # by this process, though `fine_tune` has ended
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("an epoch was fitted again"))
    code, _, err = run(*command, "--resume")
    assert code == 0, err
    assert (out / "report.html").exists() and "val accuracy" in (out / "README.md").read_text(encoding="utf-8")


def test_finetune_tells_baselines_first(run, net, pets, tmp_path):
    options = ["--schedule", "head", "--head-epochs", 1, "--batch-size", 4, "--size", 24, "--balance"]
    code, printed, err = run("finetune", pets, "--model", net, "--out", tmp_path / "out", *options)
    assert code == 0, err
    assert printed.index("your data, these features,") < printed.index("head learns")
    facts = values(run("finetune", pets, "--model", net, "--out", tmp_path / "out", *options, "--overwrite", "--json"))
    assert 0 <= facts["linear_probe"] <= facts["val accuracy"] <= 1 and 0 <= facts["nearest_neighbours"] <= 1


@pytest.mark.slow  # the README's first command, two minutes
def test_the_demo_learns_digits(run, tmp_path):
    code, out, err = run("demo", "--out", tmp_path / "demo", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["val accuracy"] > 0.9 > found["before"]


@pytest.mark.slow  # every method at two sizes; the library's own test of it is fast
def test_finetune_can_study_what_transfer_brings(run, net, pets, tmp_path):
    out = tmp_path / "study"
    options = ["--study", "--sizes", "2,0", "--seeds", 1, "--epochs", 1, "--batch-size", 4, "--size", 24]
    code, printed, err = run("finetune", pets, "--model", net, "--out", out, *options)
    assert code == 0, err
    assert all(word in printed for word in ("scratch", "linear probe", "frozen head", "gradual", "default", "spread"))
    assert {path.name for path in out.iterdir()} == {
        *("study.csv", "summary.csv", "gains.csv", "study.json", "study.png")
    }
    assert "over random weights" in printed


def test_a_study_has_numbers_of_images(run, net, pets, tmp_path):
    out = tmp_path / "study"
    code, _, err = run("finetune", pets, "--model", net, "--out", out, "--study", "--sizes", "few")
    assert code == 2 and "--sizes few: give whole numbers" in err


def test_defaults_of_the_command_are_those_of_the_function():
    import inspect

    from keras_cnn.cli.training import fine_tune as command_
    from keras_cnn.training.finetune import fine_tune

    command, function = (inspect.signature(f).parameters for f in (command_, fine_tune))
    shared = command.keys() & function.keys() - {"out"}
    assert len(shared) > 17
    assert {name: command[name].default for name in shared} == {name: function[name].default for name in shared}


def test_a_bar_shows_on_a_terminal_whether_or_not_the_steps_have_a_length(monkeypatch, capsys):
    from keras_cnn.terminal import progress

    assert progress(steps := [1, 2, 3], "counting") is steps  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for steps in ([1, 2, 3], iter([1, 2, 3]), (step for step in [1, 2, 3])):
        assert list(progress(steps, "counting")) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert (out, err.count("counting") >= 3) == ("", True)


# --- as people start it ---------------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "keras_cnn.cli", *map(str, arguments)],
        env={**{k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_process_keeps_the_framework_quiet(net, pets):
    done = start("evaluate", pets, "--model", net, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("note: nothing tells whether ") and json.loads(done.stdout)["images"] == 12


def test_a_process_fails_with_one_sentence(pets):
    done = start("evaluate", pets, "--model", "resnet5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: There is no network called 'resnet5'.") and done.stderr.count("\n") == 1
