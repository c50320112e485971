"""Recipes, optimisers and their rates, and runs that a signal stops in the middle of an epoch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from images import folder
from test_runs import contents

import keras_cnn as kc
from keras_cnn import tasks
from keras_cnn.data.augment import AUGMENTS
from keras_cnn.errors import BadSpec, RunWarning, UnknownOption
from keras_cnn.training import optimizers, state
from keras_cnn.training.options import OPTIMIZERS, TrainOptions

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", kc.Recipe.names())
def test_recipes_tell_only_what_build_and_data_know(name):
    recipe = kc.Recipe.of(name)
    family = {"efficientnet": "efficientnet_b0", "inception_v3": "inception_v3"}.get(name, "resnet18")
    model = kc.build(family, classes=3, **recipe.build)
    config = kc.config_of(model)
    assert tasks.of(model).losses(model, recipe.train.loss)
    assert config.backbone.drop_path_rate == recipe.build.get("drop_path_rate", 0.0)
    assert recipe.data["augment"] in AUGMENTS and recipe.data["batch_size"] > 0
    optimizer = optimizers.of(recipe.train, steps=10)
    assert type(optimizer).__name__.lower() == recipe.train.optimizer


def test_a_recipe_is_a_file_and_what_is_given_beside_it_wins(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('precision = "float32"\n[build]\ndropout = 0.1\n[data]\naugment = "light"\n[train]\nepochs = 3\n')
    recipe = kc.Recipe.of(file, learning_rate=0.5)
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.build) == (3, 0.5, {"dropout": 0.1})
    assert kc.Recipe.of("small_images", epochs=2).train.epochs == 2
    for text, sentence in (
        ("[train]\nepoch = 3\n", "'epoch': did you mean 'epochs'"),
        ("[data]\naugmnt = 'light'\n", "no option 'augmnt': did you mean 'augment'"),
        ("[trian]\nepochs = 3\n", "'trian': did you mean 'train'"),
    ):
        file.write_text(text)
        with pytest.raises(UnknownOption, match=sentence):
            kc.Recipe.of(file)
    with pytest.raises(BadSpec, match=r"there is no recipe 'small_image'.*did you mean 'small_images'"):
        kc.Recipe.of("small_image")
    with pytest.raises(BadSpec, match=r"gone\.toml: the file of options cannot be read"):
        kc.Recipe.of(tmp_path / "gone.toml")


@pytest.mark.slow
def test_the_command_line_trains_by_a_recipe_and_wins_over_it(tmp_path, run, precision):
    counts = {f"{split}/{name}": count for split, count in (("train", 4), ("val", 2)) for name in ("cat", "dog")}
    pets = folder(tmp_path / "pets", counts, (16, 16))
    (file := tmp_path / "mine.toml").write_text(
        'precision = "mixed_bfloat16"\n[build]\ndrop_rate = 0.25\ninput_shape = [16, 16, 3]\n'
        '[data]\naugment = "shift"\nbatch_size = 4\nseed = 3\n[train]\nepochs = 3\nlearning_rate = 0.02\n'
    )

    def kept(*options):
        out = tmp_path / "out"
        code, _, err = run(
            "train", pets, "-m", "resnet20", "--recipe", file, "--epochs", 1, "--out", out, "--overwrite", *options
        )
        assert code == 0, err
        return json.loads((out / "run.json").read_text())["facts"]["options"], kc.config_of(kc.build(out)), err

    options, config, err = kept()
    told = {"epochs": 1, "learning_rate": 0.02, "batch_size": 4, "seed": 3, "precision": "mixed_bfloat16"}
    assert options.items() >= {**told, "augment": "shift"}.items() and "note: the learning rate" not in err
    assert config.head.dropout == 0.25 and config.input_shape == (16, 16, 3)
    options, config, err = kept("--augment", "crop", "--batch-size", 2, "--seed", 7, "--size", 24)
    assert options.items() >= {**told, "augment": "crop", "batch_size": 2, "seed": 7}.items()
    assert config.input_shape == (24, 24, 3)
    assert "0.02, is for batches of 4; of 2, take about --learning-rate 0.01" in err
    code, _, err = run("train", pets, "-m", "resnet20", "--recipe", file, "--options", file, "--out", tmp_path / "x")
    assert code == 2 and "give one of them" in err and not (tmp_path / "x").exists()


def test_what_a_recipe_builds_is_kept_where_the_command_line_says_nothing_of_it(tmp_path, run, monkeypatch):
    """Such as the auxiliary classifier of the paper's Inception v3."""
    from keras_cnn.cli import runs

    told = {}
    monkeypatch.setattr(runs, "learner", lambda *_, **build: told.update(build) or 1 / 0)
    pets = folder(tmp_path / "pets", {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1}, (16, 16))
    with pytest.raises(ZeroDivisionError):
        run("train", pets, "-m", "inception_v3", "--recipe", "inception_v3", "--out", tmp_path / "out")
    assert told == {"aux": True, "precision": "auto"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_learns_from_its_defaults(name):
    keras.utils.set_random_seed(0)
    y = np.arange(64) % 2
    x = (np.random.default_rng(0).integers(0, 60, (64, 8, 8, 3)) + 150 * y[:, None, None, None]).astype("uint8")
    model = kc.build("resnet20", depths=(1,), widths=(8,), strides=(1,), classes=2, input_shape=(8, 8, 3))
    history = kc.train(model, (x, y), epochs=8, batch_size=8, optimizer=name, ema=0.5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize("verb", [kc.train, kc.fine_tune])
def test_mean_weights_are_kept_with_statistics_that_are_theirs(verb):
    """Those of the last steps, which batch norm takes by itself, are of weights that are not kept: at this rate a
    network that knows all images after two epochs was seen to name 70 to 86 % of them right by these."""
    keras.utils.set_random_seed(0)
    y = np.arange(512) % 4
    colours = 20 * np.stack([y == 0, y == 1, y == 2], -1)[:, None, None, :]
    noise = 30 * np.random.default_rng(0).normal(size=(512, 16, 16, 3))
    x = (120 + colours + noise).clip(0, 255).astype("uint8")
    model = kc.build("resnet20", depths=(1, 1, 1), input_shape=(16, 16, 3), classes=4)
    told = {"epochs": 2, "batch_size": 16, "ema": 0.97, "verbose": 0}
    more = {"learning_rate": 0.1, "annealing": "constant"}
    if verb is kc.fine_tune:
        more = {"learning_rate": 2e-2, "schedule": "all", "bn": "train", "probe": False}
    history = verb(model, (x[:384], y[:384]), (x[384:], y[384:]), **told, **more)
    assert max(history.history["val_accuracy"]) > 0.95
    assert {layer.momentum for layer in model.layers if "norm" in layer.name} == {0.9}


def test_keras_still_cannot_rematerialise_in_a_graph_of_tensorflow():
    """When this fails, `keras.RematScope` saves memory with `fit`, and the README should say how much."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("of TensorFlow")
    with keras.RematScope(mode="full"):
        layer = keras.layers.Dense(4)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="custom_gradient decorator"):
        model.fit(np.zeros((8, 8)), np.zeros((8, 4)), verbose=0)


def test_the_gradient_is_clipped_by_its_norm_over_all_weights():
    """One step of plain SGD moves all weights together by the rate times the norm, which the gradient exceeds."""
    keras.utils.set_random_seed(0)
    model = kc.build("resnet20", depths=(1,), widths=(8,), strides=(1,), classes=2, input_shape=(8, 8, 3))
    x, y = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8"), np.arange(16) % 2
    told = {"momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "annealing": "constant", "learning_rate": 0.5}
    moved = {}
    for clipnorm in (0.0, 1e-2):
        before = [np.array(v) for v in model.trainable_variables]
        kc.train(model, x, y, epochs=1, batch_size=16, clipnorm=clipnorm, verbose=0, **told)
        after = [np.array(v) for v in model.trainable_variables]
        moved[clipnorm] = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, after, strict=True)))
    assert moved[0.0] > 0.5 * 0.1 and moved[1e-2] == pytest.approx(0.5 * 1e-2, rel=1e-3)


def test_the_rate_rises_and_falls_as_it_is_told():
    def rates(**told):
        options = TrainOptions(epochs=4, learning_rate=1.0, **told)
        course = optimizers.rate(options, steps=5)
        return [float(course(step)) if callable(course) else course for step in range(20)]

    assert rates(warmup=0.0, annealing="constant") == [1.0] * 20
    np.testing.assert_allclose(rates(warmup=0.2, annealing="linear")[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose(rates(warmup=0.0, annealing="linear"), 1 - np.arange(20) / 20, rtol=1e-5)
    stairs = rates(warmup=0.0, annealing="exponential", decay_rate=0.5, decay_epochs=2)
    np.testing.assert_allclose(stairs, [1.0] * 10 + [0.5] * 10)
    cosine = rates(warmup=0.2)
    assert max(cosine) == 1.0 and cosine[-1] < 0.02


@pytest.mark.parametrize("verb", [kc.train, kc.fine_tune])
def test_a_mean_that_would_hold_the_beginning_is_told(verb):
    x, y = np.zeros((8, 8, 8, 3), "uint8"), np.arange(8) % 2
    model = kc.build("resnet20", depths=(1,), widths=(8,), strides=(1,), classes=2, input_shape=(8, 8, 3))
    told = {"epochs": 1, "batch_size": 1, "verbose": 0}
    with pytest.warns(
        RunWarning, match=r"ema=0.99 is a mean over about 100 steps, and the training has 8: .* ema=0.38"
    ):
        verb(model, (x, y), ema=0.99, **told)


def test_gradients_are_accumulated_over_batches():
    """Two batches of 8 with one step are a batch of 16, but for the statistics of batch norm, which is left out."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (16, 8, 8, 3)).astype("uint8"), np.arange(16) % 2
    ends = []
    for batch, accumulate in ((16, 1), (8, 2)):
        keras.utils.set_random_seed(0)
        told = {"depths": (1,), "widths": (8,), "strides": (1,), "norm": "none"}
        model = kc.build("resnet20", classes=2, input_shape=(8, 8, 3), **told)
        rate = {"learning_rate": 0.01, "annealing": "constant", "warmup": 0.0, "epochs": 3}
        kc.train(model, (x, y), batch_size=batch, accumulate=accumulate, verbose=0, **rate)
        ends.append(model.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


# --- in the middle of an epoch --------------------------------------------------------------------------------------

RUN = """
import json, sys, time
import keras, numpy as np, tensorflow as tf
import keras_cnn as kc
from keras_cnn.training import callbacks

tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(int(sys.argv[2]))
y = np.arange(64) % 2
x = (np.random.default_rng(0).integers(0, 200, (64, 16, 16, 3)) + 50 * y[:, None, None, None]).astype("uint8")
model = kc.build("resnet20", depths=(1, 1, 1), head=kc.Head(classes=2, dropout=0.3), input_shape=(16, 16, 3))
data = kc.load_data({"train": (x[:48], y[:48]), "val": (x[48:], y[48:])}, model, batch_size=8, augment="light")
end = callbacks.KeepState.on_train_batch_end
def slowly(self, batch, logs=None):
    print("step", flush=True)
    time.sleep(0.1)
    end(self, batch, logs)
callbacks.KeepState.on_train_batch_end = slowly
kc.train(model, data, out=sys.argv[1], epochs=3, ema=0.5, learning_rate=0.02, resume=True, verbose=0)
"""


def run(out: Path, seed: int = 0) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", RUN, str(out), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.slow
def test_a_signal_stops_a_run_amid_an_epoch_which_ends_as_if_nothing_had_happened(tmp_path):
    whole, broken = run(tmp_path / "whole"), run(tmp_path / "broken")
    for _ in range(9):  # of 6 steps an epoch
        assert broken.stdout.readline() == "step\n"
    broken.send_signal(signal.SIGTERM)
    _, err = broken.communicate(timeout=120)
    assert broken.returncode == 128 + signal.SIGTERM and "keeps what is done; resume=True (--resume) goes on" in err
    _, facts = state.read(tmp_path / "broken" / state.STATE)
    assert facts["epoch"] == 1 and 3 <= facts["step"] < 6
    again = run(tmp_path / "broken", 2)
    steps = again.communicate(timeout=120)[0].count("step")
    assert steps == 18 - 6 - facts["step"]
    whole.communicate(timeout=120)
    assert (whole.returncode, again.returncode) == (0, 0)
    ends = [
        {name: (tmp_path / place / name).read_bytes() for name in ("model.safetensors", "log.csv", "config.json")}
        for place in ("whole", "broken")
    ]
    assert ends[0] == ends[1]


def test_a_damaged_state_is_replaced_by_the_one_before_it(tmp_path):
    with state.Run(tmp_path, {}) as kept:
        kept.keep(lambda: ({"a": np.zeros(3)}, {"epoch": 1}), now=True)
        kept.keep(lambda: ({"a": np.ones(3)}, {"epoch": 2}), now=True)
    with state.Run(tmp_path, {}, resume=True) as kept:
        assert kept.state[1]["epoch"] == 2
    file = tmp_path / state.STATE
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    before = contents(tmp_path)
    told = pytest.warns(RunWarning, match="is damaged: the run goes on from the state before it")
    with told, state.Run(tmp_path, {}, resume=True) as kept:
        assert kept.state[1]["epoch"] == 1
    assert contents(tmp_path) == before


def fast_bfloat16(monkeypatch, *instructions):
    """As on a processor with these instruction sets, and no other device."""
    from keras_cnn import runtime

    monkeypatch.setattr(runtime, "instructions", lambda: frozenset(instructions))
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    for variable in (runtime.ONEDNN, *runtime.HOLDING):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("name", "instructions", "chosen"),
    [
        ("resnet18", ("avx2", "amx_bf16"), "mixed_bfloat16"),
        ("resnet18", ("avx2", "avx512_bf16"), "mixed_bfloat16"),
        ("resnet18", ("avx2", "avx512f"), "float32"),
        ("inception_v3", ("amx_bf16",), "mixed_bfloat16"),
        ("efficientnet_b0", ("amx_bf16",), "float32"),  # depthwise convolutions are slower in it
        ("resnext50_32x4d", ("amx_bf16",), "float32"),
        ("tcn", ("amx_bf16",), "float32"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(monkeypatch, name, instructions, chosen):
    from keras_cnn.models import registry
    from keras_cnn.training.precision import fastest

    fast_bfloat16(monkeypatch, *instructions)
    assert fastest(registry.get(name).backbone) == chosen


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TF_ENABLE_ONEDNN_OPTS", "0"), ("TF_ENABLE_ONEDNN_OPTS", "False"), ("ONEDNN_MAX_CPU_ISA", "AVX2")],
)
def test_bfloat16_is_left_where_nothing_multiplies_it_fast(monkeypatch, variable, value):
    """oneDNN switched off: nine times as long as in float32; held to AVX2: the first step fails."""
    from keras_cnn.models import registry
    from keras_cnn.training.precision import fastest

    fast_bfloat16(monkeypatch, "amx_bf16")
    monkeypatch.setenv(variable, value)
    assert fastest(registry.get("resnet18").backbone) == "float32"


def test_the_command_line_learns_in_the_fastest_precision_and_scores_in_float32(tmp_path, run, monkeypatch):
    """And the run notes it, so that it does not go on in another one; Keras' setting stays as it was."""
    counts = {f"{split}/{name}": count for split, count in (("train", 8), ("val", 4)) for name in ("cat", "dog")}
    pets, out = folder(tmp_path / "pets", counts, (16, 16)), tmp_path / "out"
    weights = kc.save_pretrained(
        kc.build("resnet20", depths=(1, 1, 1), classes=2, input_shape=(16, 16, 3)), tmp_path / "net"
    )
    fast_bfloat16(monkeypatch, "amx_bf16")

    def learnt(verb, model, *more):
        given = (verb, pets, "-m", model, "--epochs", 1, "--batch-size", 4, "--overwrite", "--out", out, *more)
        code, _, err = run(*given)
        assert code == 0, err
        assert keras.config.dtype_policy().name == "float32"
        return json.loads((out / "run.json").read_text())["facts"]["options"]["precision"], err

    for verb, model in (("train", "resnet20"), ("fine-tune", weights)):
        precision, err = learnt(verb, model)
        assert precision == "mixed_bfloat16" and "--precision float32" in err
        card, (code, text, _) = (out / "config.json").read_text(), run("evaluate", pets, "-m", out, "--json")
        scored = json.loads(card)["keras_cnn"]["provenance"]["metrics"]
        assert code == 0 and json.loads(text)["accuracy"] == pytest.approx(scored["val accuracy"], abs=1e-12)
        precision, err = learnt(verb, model, "--precision", "float32")
        assert precision == "float32" and "learns in" not in err
        again = (verb, pets, "-m", model, "--epochs", 1, "--batch-size", 4, "--out", out, "--resume")
        code, _, err = run(*again)  # in what is fastest here, which is not what it began in
        assert code == 2 and "precision" in err and "mixed_bfloat16" in err and "float32" in err
        assert run(*again, "--precision", "float32")[0] == 0
    code, _, err = run("train", pets, "-m", "resnet20", "--precision", "float8", "--out", tmp_path / "x")
    assert code == 2 and "float8" in err and not (tmp_path / "x").exists()
