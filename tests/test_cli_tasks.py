"""Every task on the command line: what the data calls for is learnt, measured, answered, published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from images import encode, folder
from PIL import Image

import keras_cnn as kc
from keras_cnn.checkpoints import card
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data import load_data
from keras_cnn.errors import BadSpec
from keras_cnn.models import registry

DRAWS = np.random.default_rng(0)
SHORT = ("--head-epochs", 1, "--epochs", 0, "--size", 32, "--batch-size", 4)


def values(answer: tuple[int, str, str]):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    """A classifier of ten classes, as one finds them."""
    model = kc.build("resnet20", depths=(1, 1, 1), preprocess=kc.Preprocess(size=(32, 32), crop=1.0))
    return kc.save_pretrained(model, tmp_path_factory.mktemp("net") / "net", provenance={"license": "mit"})


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    """Photos of 40x30 pixels, dark to the left and bright to the right of an edge; masks; and a table of them."""
    root = tmp_path_factory.mktemp("streets") / "streets"
    rows = []
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            edge = int(DRAWS.integers(8, 32))
            mask = (np.arange(40) >= edge)[None].repeat(30, 0).astype("uint8")
            photo = (40 + 160 * mask[..., None] + DRAWS.integers(0, 40, (30, 40, 3))).astype("uint8")
            (root / split / "images" / f"{i}.png").write_bytes(encode(photo))
            (root / split / "masks" / f"{i}.png").write_bytes(encode(Image.fromarray(mask)))
            shows = ("dark|bright", "bright", "dark")[i % 3]
            rows.append([f"{split}/images/{i}.png", split, edge, 30 - i, shows, "ab"[i % 2]])
    (root / "classes.txt").write_text("dark\nbright\n")
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["photo", "part", "edge", "rest", "shows", "kind"], *rows])
    return root


TABLE = ("--split-column", "part", "--labels")
TASKS = {
    "segmentation": (".", (), "miou"),
    "regression": ("table.csv", (*TABLE, "edge", "--labels", "rest"), "r2"),
    "multilabel": ("table.csv", (*TABLE, "shows"), "map"),
    "classification": ("table.csv", (*TABLE, "kind"), "accuracy"),
    "binary": ("table.csv", (*TABLE, "kind", "--task", "binary"), "accuracy"),
    "embedding": ("table.csv", (*TABLE, "kind", "--task", "embedding"), "recall1"),
    "reconstruction": ("table.csv", (*TABLE, "kind", "--task", "reconstruction"), "r2"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


HEAVY = ("classification", "binary", "multilabel")  # whose way the others share


@pytest.mark.parametrize("task", [pytest.param(t, marks=[pytest.mark.slow] * (t in HEAVY)) for t in TASKS])
def test_the_network_gets_the_head_that_the_data_calls_for(run, net, streets, runs, task):
    place, options, figure = TASKS[task]
    out, data = runs / task, streets / place
    told = values(run("fine-tune", data, "-m", net, "--out", out, *SHORT, *options, "--json"))
    assert (told["figure"], told["images"]) == (figure, {"train": 8, "val": 4})
    config = kc.info(out)
    assert config_of(kc.build(out)).head.task == task and f"val {figure}" in config["provenance"]["metrics"]
    asked = options[: options.index("--task")] if "--task" in options else options
    facts = values(run("evaluate", data, "-m", out, *asked, "--json", "--out", runs / "report"))
    assert (facts["split"], facts["images"]) == ("val", 4)
    assert facts[figure] == pytest.approx(told[f"val {figure}"], rel=1e-4, abs=1e-5)
    text = (out / "README.md").read_text()
    assert f"--task {task}" in text if "--task" in options else "--labels" in text or place == "."
    code, printed, err = run("predict", streets / "val" / "images", "-m", out)
    assert code == 0 and printed.count(".png") == 4, err


def test_masks_have_the_size_of_the_photo_as_it_is_seen(run, net, streets, tmp_path):
    model = kc.build(net, head=kc.UNet(classes=("dark", "bright")))
    run_ = kc.save_pretrained(model, tmp_path / "run")
    photo = Image.open(streets / "val" / "images" / "0.png").resize((50, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    photo.save(tmp_path / "photos" / "turned.jpg", exif=exif)
    photo.save(tmp_path / "photos" / "deep" / "plain.png")
    predict = kc.predictor(run_)
    deep, turned = predict(tmp_path / "photos")
    assert (deep.mask.shape, turned.mask.shape) == ((30, 50), (50, 30))
    assert predict(np.zeros((32, 32, 3), "uint8"))[0].mask.shape == (32, 32)
    out = tmp_path / "masks"
    told = values(run("predict", tmp_path / "photos", "-m", run_, "--out", out, "--json"))
    assert told == {"out": str(out), "images": 2, "skipped": []}
    drawn = Image.open(out / "deep" / "plain.png")
    assert drawn.mode == "P" and np.array_equal(np.asarray(drawn), deep.mask)
    assert np.array_equal(np.asarray(Image.open(out / "turned.png")), turned.mask)
    assert (out / "classes.txt").read_text() == "dark\nbright\n"
    shares = values(run("predict", tmp_path / "photos", "-m", run_, "--json"))
    assert shares[0]["shares"] == pytest.approx(deep.shares)


def test_tiles_see_photos_at_their_own_size(run, net, streets, tmp_path):
    model = kc.build(net, head=kc.UNet(classes=("dark", "bright")))
    photos = streets / "val" / "images"
    pixels = np.asarray(Image.open(photos / "0.png"))
    free = kc.build(net, head=kc.UNet(classes=("dark", "bright")), input_shape=(None, None, 3))
    free.set_weights(model.get_weights())
    predict = kc.predictor(model, tile=16)
    expected = kc.predict_tiles(free, pixels, tile=16)
    np.testing.assert_allclose(predict.scores(photos / "0.png")[0], expected, atol=1e-4)
    assert [answer.mask.shape for answer in predict(photos)] == [(30, 40)] * 4
    assert predict(pixels)[0].mask.shape == (30, 40)
    small = predict(np.zeros((7, 9, 3), "uint8"))  # smaller than a tile, and than the network's own size
    assert small[0].mask.shape == (7, 9)
    code, _, err = run("predict", photos, "-m", net, "--tile", 16)
    assert (code, "answers for an image as a whole" in err) == (2, True)


def test_predictions_are_data_again(run, net, streets, tmp_path):
    run_ = kc.save_pretrained(kc.build(net, head=kc.UNet(classes=("dark", "bright"))), tmp_path / "run")
    photos = tmp_path / "set" / "images"
    photos.mkdir(parents=True)
    for i in range(4):
        (photos / f"{i}.png").write_bytes((streets / "train" / "images" / f"{i}.png").read_bytes())
    assert run("predict", photos, "-m", run_, "--out", tmp_path / "set" / "masks")[0] == 0
    data = load_data(tmp_path / "set", kc.Preprocess(size=(30, 40), crop=1.0, mode="squash"))
    assert (data.task, data.class_names) == ("segmentation", ("dark", "bright"))


def test_nothing_is_written_over(run, net, streets, tmp_path):
    run_ = kc.save_pretrained(kc.build(net, head=kc.UNet(classes=2)), tmp_path / "run")
    for place in ("a", "b"):
        folder(tmp_path / place, {".": 1})
    before = (tmp_path / "a" / "000.png").read_bytes()
    code, _, err = run("predict", tmp_path / "a", "-m", run_, "--out", tmp_path / "a")
    assert (code, "000.png would be written over" in err) == (2, True)
    assert (tmp_path / "a" / "000.png").read_bytes() == before
    code, _, err = run("predict", tmp_path / "a", tmp_path / "b", "-m", run_, "--out", tmp_path / "c")
    assert (code, "would both be" in err, (tmp_path / "c").exists()) == (2, True, False)
    code, _, err = run("predict", tmp_path / "a", "-m", net, "--out", tmp_path / "c")
    assert (code, "answers in figures: give a file that ends in one of .csv" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("fine-tune {pets} -m {net} --task regression", "task='regression' does not fit: each image is in one class"),
        ("fine-tune {pets} -m {net} --task segmentation", "task='segmentation' does not fit: each image is in one"),
        ("fine-tune {pets} -m {net} --task nonsense", "task='nonsense': choose one of"),
        ("fine-tune {pets} -m {net} --labels kind", "there is no table in it"),
        ("fine-tune {pets} -m resnet20_unet", "is for classification, and resnet20_unet answers every pixel"),
        ("fine-tune {streets} -m {net} --task binary", "has images and masks, and --task binary learns from"),
        ("fine-tune {streets}/table.csv -m {net}", "(--labels COLUMN, once for each)"),
        ("fine-tune {streets}/table.csv -m {net} --labels gone", "there is no column 'gone'"),
        ("fine-tune {streets}/table.csv -m {net} --labels shows --task regression", "'shows' is "),
        ("fine-tune {streets}/table.csv -m {net} --labels edge --root {pets}", "12 of 12 files of 'photo' are missing"),
        ("fine-tune {pets3} -m {net} --task binary", "task='binary' is for 2 classes, and there are 3"),
        ("train {pets} -m tcn", "the network reads sequences: give a file that ends in .npz"),
        ("train {waves} -m resnet20", "waves.npz holds sequences, and resnet20 reads images"),
        ("train {waves} -m tcn --size 64", "--size 64: tcn reads sequences"),
        ("train {waves} -m tcn --no-mirror", "--mirror is for images"),
        ("predict {waves} -m resnet20", "waves.npz"),
        ("predict {pets} -m tcn", "sequences are in files that end in .npz, .csv, .tsv, .parquet"),
        ("train {pets} -m resnet20 --window 4", "--window and --horizon are for sequences"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(run, net, streets, waves, tmp_path, arguments, sentence):
    pets = folder(tmp_path / "pets", {"cat": 3, "dog": 3})
    pets3 = folder(tmp_path / "pets3", {"cat": 3, "dog": 3, "emu": 3})
    words = arguments.format(net=net, streets=streets, waves=waves / "waves.npz", pets=pets, pets3=pets3).split()
    out = [] if words[0] == "predict" else ["--out", tmp_path / "out"]
    code, _, err = run(*words, *out)
    assert code == 2, err
    assert err.splitlines()[-1].startswith("error: ") and sentence in err
    assert not (tmp_path / "out").exists()


def test_another_head_on_the_encoder_of_a_unet_has_to_be_asked_for(run, net, streets, tmp_path):
    unet = kc.save_pretrained(kc.build(net, head=kc.UNet(classes=2)), tmp_path / "unet")
    pets = folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    code, _, err = run("fine-tune", pets, "-m", unet, "--out", tmp_path / "out", *SHORT)
    assert (code, "or --task classification, for another head on its encoder" in err) == (2, True)
    assert run("fine-tune", pets, "-m", unet, "--out", tmp_path / "out", *SHORT, "--task", "classification")[0] == 0
    assert kc.build(tmp_path / "out").output_shape == (None, 2)


def test_the_learning_rate_of_numbers_is_looked_for_in_their_unit(run, net, streets, tmp_path):
    """Targets of ten thousands: without their mean and spread in the network, no rate would do."""
    options = (*TABLE, "edge", "--size", 32, "--batch-size", 4, "--steps", 4, "--out", tmp_path / "rates.png")
    found = values(run("lr-find", streets / "table.csv", "-m", net, *options, "--json"))
    assert found["losses"][0] < 2  # in units of the spread, where the mean has 0.5


def test_mirror_is_heeded(run, net, streets, tmp_path):
    from keras_cnn.cli import datasets

    config = registry.get("resnet20")
    asked = {"data": str(streets), "augment": "light"}
    for mirror, chiral in ((None, False), (True, False), (False, True)):
        loaded, _ = datasets.load(datasets.TrainingData(**asked, mirror=mirror), config, 4)
        assert loaded.splits.chiral is chiral


def test_a_plain_head_refuses_what_a_unet_is_for():
    for make in (
        lambda: kc.Head(classes=2, task="segmentation"),
        lambda: kc.Head(classes=2).for_task("reconstruction"),
        lambda: kc.build("resnet20", classes=2, task="segmentation"),
    ):
        with pytest.raises(BadSpec, match=r"says something of every pixel.*kc\.UNet\(classes=\.\.\.\)"):
            make()
    assert kc.build("tcn", input_shape=(16, 2), classes=3, task="segmentation").output_shape == (None, 16, 3)
    with pytest.raises(BadSpec, match="task='reconstruction': choose one of"):
        kc.SequenceHead(classes=2, task="reconstruction")


# --- sequences ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> Path:
    """Slow and fast waves; what comes next; a class for every step."""
    root, fast = tmp_path_factory.mktemp("waves"), np.arange(40) % 2
    steps = np.arange(24)[None] * (0.3 + 0.6 * fast[:, None]) + DRAWS.random((40, 1)) * 6
    x = np.sin(steps)[..., None].astype("float32")
    np.savez(root / "waves.npz", x=x, y=np.array(["slow", "fast"])[fast])
    np.savez(root / "ahead.npz", x=x[:, :20], y=x[:, 20:])
    np.savez(root / "steps.npz", x=x, y=(x[..., 0] > 0).astype(int))
    return root


@pytest.mark.parametrize(
    ("name", "figure", "shape"),
    [
        pytest.param("waves", "accuracy", (None, 2), marks=pytest.mark.slow),
        ("ahead", "r2", (None, 4, 1)),
        pytest.param("steps", "miou", (None, 24, 2), marks=pytest.mark.slow),
    ],
)
def test_sequences_are_learnt_and_measured(run, waves, tmp_path, name, figure, shape):
    data, out = waves / f"{name}.npz", tmp_path / "run"
    told = values(run("train", data, "-m", "tcn", "--out", out, "--epochs", 2, "--batch-size", 8, "--json"))
    assert (told["images"], told["figure"]) == ({"train": 32, "val": 8}, figure)
    assert kc.build(out).output_shape == shape
    found = kc.load_sequences(data)
    again = kc.evaluate(out, found, split="val").metrics[figure]
    assert again == pytest.approx(told[f"val {figure}"], abs=1e-5)
    facts = values(run("evaluate", data, "-m", out, "--json"))
    # What it was trained on is told apart.
    assert (facts["images"], facts["trained_on"]["images"]) == (8, 32)
    assert facts[figure] == pytest.approx(again, abs=1e-5)


@pytest.mark.slow
def test_classes_of_sequences_are_matched_by_name(run, waves, tmp_path):
    out = tmp_path / "run"
    assert run("train", waves / "waves.npz", "-m", "tcn", "--out", out, "--epochs", 4, "--batch-size", 8)[0] == 0
    found = kc.load_sequences(waves / "waves.npz", val_split=0)
    assert found.class_names == ("fast", "slow")
    turned = kc.load_sequences(found.train, class_names=("slow", "fast"))  # numbered the other way round
    model = kc.build(out)
    right = kc.evaluate(model, found, split="train").metrics["accuracy"]
    assert kc.evaluate(model, turned, split="train").metrics["accuracy"] != right or right == 0.5


def test_sequences_of_files_are_answered_as_their_arrays(run, tmp_path):
    keras.utils.set_random_seed(0)
    net = kc.build("tcn", input_shape=(6, 2), classes=["calm", "storm"])
    kc.save_pretrained(net, tmp_path / "net")
    x = DRAWS.normal(size=(3, 6, 2)).astype("float32")
    np.savez(tmp_path / "x.npz", x=x)
    rows = [[f"s{i}", t, *x[i, t], "calm"] for t in range(6) for i in range(3)]  # steps of all sequences mixed
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "time", "a", "b", "label"], *rows[::-1]])
    with (tmp_path / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *([0, 0], [9, 9]), *x[1].tolist()])
    right = kc.predictor(net).scores(x)
    for file, wanted in (("x.npz", right), ("x.csv", right[::-1]), ("long.csv", right[[1]])):
        told = values(run("predict", tmp_path / file, "-m", tmp_path / "net", "--json"))
        shares = [{guess["class"]: guess["probability"] for guess in one["top"]} for one in told]
        scores = [[share[name] for name in ("calm", "storm")] for share in shares]
        np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert told[0]["image"] == "long.csv"
    code, _, err = run("predict", tmp_path / "x.npz", "-m", "tcn")
    assert (code, "sequences are 6x2, the network takes" in err) == (2, True)
    (tmp_path / "wide.csv").write_text("a,b,c\n1,2,3\n")
    code, _, err = run("predict", tmp_path / "wide.csv", "-m", tmp_path / "net")
    assert (code, "3 columns beside id, time and label (a, b, c), and the network reads 2 channels" in err) == (2, True)


@pytest.mark.slow
def test_windows_of_a_series_are_learnt_and_its_end_goes_on(run, tmp_path):
    with (tmp_path / "level.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["time", "level"], *((t, round(np.sin(t / 3), 4)) for t in range(80))])
    cut = ("--window", 12, "--horizon", 2)
    told = values(
        run("train", tmp_path / "level.csv", "-m", "tcn", *cut, "--epochs", 1, "--out", tmp_path / "run", "--json")
    )
    assert told["figure"] == "r2" and kc.build(tmp_path / "run").output_shape == (None, 2, 1)
    [answer] = values(run("predict", tmp_path / "level.csv", "-m", tmp_path / "run", "--json"))
    end = np.sin(np.arange(68, 80) / 3).round(4).astype("float32")[None, :, None]
    assert answer["values"]["level"] == pytest.approx(
        kc.build(tmp_path / "run").predict(end, verbose=0).ravel().tolist()
    )
    facts = values(run("evaluate", tmp_path / "level.csv", "-m", tmp_path / "run", *cut, "--json"))
    learnt, windows = 64 - 13, 80 - 13  # the first four fifths of the steps; a window and what is behind it are 14
    assert (facts["images"], facts["trained_on"]["images"]) == (windows - learnt, learnt)


# --- publishing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_what_was_learnt_is_published_and_comes_back(run, net, streets, runs, hub, home, tmp_path, monkeypatch, task):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    place, options, _ = TASKS[task]
    if not (runs / task).exists():
        run("fine-tune", streets / place, "-m", net, "--out", runs / task, *SHORT, *options)
    code, _, err = run("publish", runs / task, f"me/{task}", "--license", "mit")
    assert code == 0, err
    photos = np.stack([np.asarray(Image.open(p).resize((32, 32))) for p in (streets / "val" / "images").iterdir()])
    ours, theirs = (kc.build(where).predict(photos, verbose=0) for where in (runs / task, f"hf://me/{task}"))
    np.testing.assert_array_equal(ours, theirs)
    here, there = (
        values(run("predict", streets / "val" / "images", "-m", where, "--json"))
        for where in (runs / task, f"hf://me/{task}")
    )
    assert here == there


CARDS = {
    "resnet20_unet": ({}, "image-segmentation", "`resnet20_unet`", "2 classes"),
    "resnet20": ({"task": "embedding"}, "image-feature-extraction", "`resnet20`", "128 numbers"),
    "tcn": ({"task": "regression", "horizon": 4}, "time-series-forecasting", "`tcn`", "1 target, 4 steps ahead"),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_comes_out(name):
    from huggingface_hub import ModelCard

    more, tag, called, out = CARDS[name]
    asked = {"classes": 1, "input_shape": (16, 1)} if name == "tcn" else {"input_shape": (32, 32, 3)}
    config = config_of(kc.build(name, **asked, **more))
    text = card.card(config, "net")
    assert ModelCard(text).data.pipeline_tag == tag and called in text and out in text
    plain = config_of(kc.build("tcn", classes=2, input_shape=(16, 1)))
    assert ModelCard(card.card(plain, "net")).data.pipeline_tag is None


def test_the_snippet_of_a_unet_runs(net, streets, tmp_path, monkeypatch):
    run = kc.save_pretrained(kc.build(net, head=kc.UNet(classes=("dark", "bright"))), tmp_path / "run")
    text = (run / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("path/to/run", str(run))
    (tmp_path / "photo.jpg").write_bytes((streets / "val" / "images" / "0.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open(tmp_path / "answer.png").size == (40, 30)
