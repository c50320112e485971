"""Weights files and directories: exact both ways, strict, and never half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from safetensors.numpy import load_file, save_file

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import BadSpec, CorruptFile, KerasCnnError, UnknownModel, WeightsMismatch
from keras_cnn.models.config import Preprocess
from keras_cnn.models.heads import Head

ROOT = Path(__file__).parents[1]


def make(**keywords):
    """A seeded resnet20 for small images."""
    model = kc.build("resnet20", **{"input_shape": (16, 16, 3), "classes": ["ant", "bee"], **keywords})
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    return model


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture
def saved(model, tmp_path):
    return kc.save_pretrained(model, tmp_path / "net", provenance={"data": "insects", "metrics": {"accuracy": 0.5}})


def edit(path: Path, change) -> None:
    """Change the value under "keras_cnn" of a config.json in place; a returned value replaces it."""
    values = json.loads((path / "config.json").read_text())
    new = change(values["keras_cnn"])
    values["keras_cnn"] = values["keras_cnn"] if new is None else new
    (path / "config.json").write_text(json.dumps(values))


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"input_shape": (None, None, 1), "classes": 3},
        {"norm": "group:8", "merge": "concat", "act": "silu", "classes": 4},
        {"classes": None, "head": Head(classes=0, pooling=None)},
        {"classes": None, "head": Head(classes=0, pooling="max")},
        {"classes": 2, "classifier_activation": None},
        {
            "classes": None,
            "head": Head(classes=3, hidden=(8,), dropout=0.2, pooling="max", hidden_activation="gelu"),
            "preprocess": Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(16, 16), crop=0.9, mode="squash"),
        },
    ],
    ids=["names", "open-gray", "keywords", "map", "maxima", "logits", "head"],
)
def test_a_directory_gives_back_the_same_network(keywords, tmp_path):
    model = make(**keywords)
    again = kc.build(kc.save_pretrained(model, tmp_path / "net"))
    assert same(arrays.arrays(again), arrays.arrays(model))
    assert config_of(again).with_(provenance={}) == config_of(model).with_(provenance={})
    image = seeded.image(16, model.input_shape[-1])
    np.testing.assert_array_equal(again.predict_on_batch(image), model.predict_on_batch(image))


def test_half_precision_rounds_kernels_only(model, tmp_path):
    path = kc.save_pretrained(model, tmp_path / "net", half=True)
    exact, stored = arrays.arrays(model), load_file(path / "model.safetensors")
    assert exact.keys() == stored.keys()
    for key, value in stored.items():
        assert value.dtype == ("float16" if key.endswith("/kernel") else "float32"), key
        np.testing.assert_array_equal(value, exact[key].astype(value.dtype))
    loaded = arrays.arrays(kc.build(path))
    assert same(loaded, {k: v.astype("float32") for k, v in stored.items()})
    assert {v.dtype.name for v in loaded.values()} == {"float32"}


def test_half_refuses_kernels_that_it_would_make_infinite(tmp_path):
    model = kc.build("resnet20", classes=3)
    kernel = model.get_layer("stage2_block1_conv1").kernel
    kernel.assign(keras.ops.full_like(kernel, 65_520))  # the least that float16 rounds to infinity
    with pytest.raises(BadSpec, match=r"^stage2_block1_conv1/kernel holds numbers beyond 65,504.*half=False"):
        kc.save_pretrained(model, tmp_path / "net", half=True)
    assert not (tmp_path / "net").exists()
    again = kc.build(kc.save_pretrained(model, tmp_path / "net"))
    np.testing.assert_array_equal(
        arrays.arrays(again)["stage2_block1_conv1/kernel"], arrays.arrays(model)["stage2_block1_conv1/kernel"]
    )
    kernel.assign(keras.ops.full_like(kernel, 65_519))
    assert kc.save_pretrained(model, tmp_path / "net", half=True)


def test_the_file_is_plain_safetensors_and_the_directory_complete(model, saved):
    assert same(load_file(saved / "model.safetensors"), arrays.arrays(model))
    assert sorted(p.name for p in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert {(p.stat().st_mode & 0o777) for p in saved.iterdir()} == {0o644}
    facts = json.loads((saved / "config.json").read_text())["keras_cnn"]
    assert facts["provenance"] == {"data": "insects", "metrics": {"accuracy": 0.5}}
    assert facts["class_names"] == ["ant", "bee"] and facts["format"] == directory.FORMAT
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: keras_cnn\n")
    for text in ("# net\n", "insects", "| accuracy | 0.5 |", "ant, bee", 'kc.build("path/to/net")'):
        assert text in card
    assert kc.info(str(saved))["class_names"] == ["ant", "bee"]


def test_what_is_known_adds_up_over_saves(saved, tmp_path):
    again = kc.save_pretrained(kc.build(saved), tmp_path / "more", provenance={"license": "mit"})
    provenance = config_of(kc.build(again)).provenance
    assert provenance == {"source": saved.name, "data": "insects", "metrics": {"accuracy": 0.5}, "license": "mit"}


def test_a_bare_file_of_ours_is_a_checkpoint_too(model, saved, tmp_path):
    again = kc.build("resnet20", weights=saved / "model.safetensors", input_shape=(16, 16, 3))
    assert same(arrays.arrays(again), arrays.arrays(model))
    assert again.output_shape == (None, 2)


def lora(model):
    model.get_layer("head_logits").enable_lora(1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda model: model.quantize("int8"), r"is quantised \(head_logits/kernel holds int8\): save it before"),
        (lora, r"is no longer the network that its configuration describes: .* such as head_logits/.*lora"),
    ],
    ids=["quantised", "lora"],
)
def test_a_model_that_could_not_be_read_back_is_refused_before_anything_is_written(saved, change, sentence):
    before, model = contents(saved), make(classes=["ant", "bee"])
    change(model)
    with pytest.raises(BadSpec, match=sentence):
        kc.save_pretrained(model, saved)
    assert contents(saved) == before
    with pytest.raises(BadSpec):
        kc.save_pretrained(model, saved.parent / "new")
    assert not (saved.parent / "new").exists()


def test_a_part_of_a_network_is_refused(tmp_path):
    part = kc.features(make(classes=3), ["stage1"])
    with pytest.raises(BadSpec, match="is no longer the network that its configuration describes"):
        kc.save_pretrained(part, tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_only_models_of_ours_can_be_saved(tmp_path):
    other = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)], name="other")
    with pytest.raises(BadSpec, match=r"other.* was not made by keras_cnn\.build"):
        kc.save_pretrained(other, tmp_path / "net")
    assert not list(tmp_path.iterdir())


# --- strictness -----------------------------------------------------------------------------------------------------


def test_a_mismatch_lists_every_key_and_assigns_nothing():
    model = make()
    before = arrays.arrays(model)
    values = {k: v + 1 for k, v in before.items()}
    del values["stem_conv/kernel"]
    values["stem_extra/bias"] = np.zeros(3, "float32")
    values["head_logits/bias"] = np.zeros(7, "float32")
    with pytest.raises(WeightsMismatch) as caught:
        arrays.assign(model, values)
    assert str(caught.value).splitlines() == [
        "the weights do not fit the network (- the network has, + the file has):",
        "- stem_conv/kernel (3, 3, 3, 16)",
        "+ stem_extra/bias (3,)",
        "- head_logits/bias (2,)",
        "+ head_logits/bias (7,)",
    ]
    assert same(arrays.arrays(model), before)


def test_skipped_keys_keep_what_the_model_has_and_may_not_be_given():
    model = make()
    before = arrays.arrays(model)
    values = {k: v + 1 for k, v in before.items() if k != "head_logits/bias"}
    arrays.assign(model, values, skip=["head_logits/bias"])
    assert same(arrays.arrays(model), {**values, "head_logits/bias": before["head_logits/bias"]})
    with pytest.raises(WeightsMismatch, match=r"\+ head_logits/bias \(2,\)"):
        arrays.assign(model, before, skip=["head_logits/bias"])


def test_a_long_report_is_cut():
    lines = arrays.report([f"- key{i}" for i in range(50)]).splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 30 more"


def test_weights_of_another_depth_or_norm_do_not_fit(saved):
    file = saved / "model.safetensors"
    with pytest.raises(WeightsMismatch, match=r"- stage1_block4_conv1/kernel \(3, 3, 16, 16\)"):
        kc.build("resnet32", weights=file)
    with pytest.raises(WeightsMismatch, match=r"^resnet20: .*\n\+ stage1_block1_norm1/moving_mean \(16,\)"):
        kc.build(saved, norm="group:8")


# --- broken files and directories -----------------------------------------------------------------------------------


def flip(path: Path, position: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda p: (p / "model.safetensors").unlink(), r"net/model\.safetensors is missing: fetch the directory again"),
        (lambda p: flip(p / "model.safetensors"), r"its sha256 differs\): fetch it again"),
        (lambda p: os.truncate(p / "model.safetensors", 1000), r"its sha256 differs\): fetch it again"),
        (lambda p: (p / "config.json").write_text('{"keras_cnn": {'), r"net/config\.json is not valid JSON"),
        (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), r"net/config\.json is not valid JSON"),
        (lambda p: (p / "config.json").write_text("[1, 2]"), r"net/config\.json is not a JSON object"),
        (lambda p: (p / "config.json").write_text("{}"), r"config\.json is neither ours .* nor timm's"),
        (lambda p: edit(p, lambda c: []), r"config\.json: the value of 'keras_cnn' is not an object"),
        (lambda p: edit(p, lambda c: c.update(format=99)), r"format 99, this version reads 1 to 2: upgrade keras-cnn"),
        (lambda p: edit(p, lambda c: c.pop("format") and None), r"has format None"),
        (lambda p: edit(p, lambda c: c["backbone"].update(family="Transformer")), r"json: .* 'Transformer' .*upgrade"),
        (lambda p: edit(p, lambda c: c["backbone"].pop("depths") and None), r"config\.json: .* is not complete"),
        (lambda p: edit(p, lambda c: c["backbone"].update(norm="odd")), r"config\.json: norm='odd': choose"),
        (lambda p: edit(p, lambda c: c["backbone"].update(depths="abc")), r"config\.json: depths='abc': give a list"),
        (lambda p: edit(p, lambda c: c["backbone"].update(depths=[10**8] * 3)), r"json: depths=\(1000.* to 5000"),
        (lambda p: (p / "config.json").write_text("[" * 10**5), r"net/config\.json is not valid JSON"),
        (lambda p: (p / "config.json").write_text("9" * 10**5), r"net/config\.json is not valid JSON"),
        *[
            (lambda p, key=key: edit(p, lambda c: c.pop(key) and None), rf"config\.json: .* lacks '{key}'")
            for key in ("architecture", "input", "backbone", "head", "preprocess", "class_names", "provenance")
        ],
        (lambda p: edit(p, lambda c: c.pop("files") and None), r"does not name model\.safetensors under 'files'"),
        (lambda p: edit(p, lambda c: c.update(files={})), r"does not name model\.safetensors under 'files'"),
        (lambda p: edit(p, lambda c: c.update(files={"model.safetensors": {}})), r"its sha256 differs"),
    ],
)  # fmt: skip
def test_a_broken_directory_is_told(saved, harm, sentence):
    harm(saved)
    with pytest.raises(KerasCnnError, match=sentence) as caught:
        kc.build(saved)
    assert isinstance(caught.value, CorruptFile | BadSpec) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: f.unlink(), "there is no such file"),
        (lambda f: f.write_bytes(b""), "is empty: fetch it again"),
        (lambda f: os.truncate(f, 1000), "is truncated or not a safetensors file"),
        (lambda f: os.truncate(f, f.stat().st_size - 1), "is truncated or not a safetensors file"),
        (lambda f: f.write_bytes(b"no tensors here, only a letter to a friend"), "is truncated or not a safetensors"),
    ],
    ids=["missing", "empty", "cut-header", "cut-data", "text"],
)
def test_a_broken_file_is_told(saved, harm, sentence):
    file = saved / "model.safetensors"
    harm(file)
    for read in (arrays.load, lambda path: kc.build("resnet20", weights=path)):
        with pytest.raises(CorruptFile, match=rf"model\.safetensors.* {sentence}") as caught:
            read(file)
        assert str(caught.value).startswith(str(file))


def test_a_directory_that_is_none(tmp_path):
    with pytest.raises(CorruptFile, match=r"has no config\.json: it is not a weights directory"):
        kc.build(tmp_path)
    with pytest.raises(UnknownModel, match="there is no such directory"):
        kc.build(tmp_path / "gone")
    with pytest.raises(CorruptFile, match="there is no such file or directory"):
        kc.build("resnet20", weights=tmp_path / "gone")


def test_weights_for_a_spec_are_its_own(tmp_path):
    config = kc.compound_scale("resnet20", 1)
    saved = kc.save_pretrained(kc.build(config, classes=3, input_shape=(16, 16, 3)), tmp_path / "net")
    model = kc.build(config, weights=saved, classes=3, input_shape=(16, 16, 3))
    for key, value in arrays.arrays(kc.build(saved)).items():
        np.testing.assert_array_equal(arrays.arrays(model)[key], value, err_msg=key)
    with pytest.raises(WeightsMismatch, match="the network has, "):
        kc.build(kc.compound_scale("resnet20", 2), weights=saved)


# --- writing --------------------------------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_disk_that_fills_up_names_the_file_and_keeps_nothing(small_disk):
    with pytest.raises(OSError, match="No space left") as full:
        kc.save_pretrained(make(classes=3), small_disk / "net")
    assert full.value.errno == errno.ENOSPC
    assert Path(full.value.filename).name == "model.safetensors"
    assert not list(small_disk.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_rest(saved, monkeypatch):
    before = contents(saved)

    def full(values, path, metadata):
        Path(path).write_bytes(b"the first half of a f")
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        kc.save_pretrained(make(classes=3), saved)
    assert contents(saved) == before
    with pytest.raises(OSError, match="No space left"):
        kc.save_pretrained(make(classes=3), saved.parent / "new")
    assert not (saved.parent / "new").exists()
    monkeypatch.undo()
    monkeypatch.setattr(
        directory.card, "card", lambda *_, **__: full({}, saved.parent / "half", {})
    )  # at the last file
    with pytest.raises(OSError, match="No space left"):
        kc.save_pretrained(make(classes=3), saved)
    monkeypatch.undo()
    assert contents(saved).keys() == before.keys()
    assert kc.build(saved).output_shape == (None, 2)


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file"
    arrays.write_beside(path, lambda name: Path(name).write_text("old"))

    def stopped(name):
        Path(name).write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arrays.write_beside(path, stopped)
    assert contents(path.parent) == {"file": b"old"}


def test_threads_that_save_into_one_directory_leave_a_readable_one(tmp_path):
    models = [make(classes=n) for n in (2, 3)]
    failures = []

    def save(model):
        try:
            for _ in range(8):
                kc.save_pretrained(model, tmp_path / "net")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(m,)) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    last = kc.build(tmp_path / "net")
    assert same(arrays.arrays(last), arrays.arrays(models[last.output_shape[-1] - 2]))
    assert len(list((tmp_path / "net").iterdir())) == 3


WRITER = """
import sys, numpy as np
from keras_cnn.checkpoints import arrays
path, value = sys.argv[1], float(sys.argv[2])
for _ in range(60):
    arrays.save({"a/kernel": np.full((200, 200), value, "float32")}, path)
"""


def test_processes_that_write_one_file_never_show_half_of_one(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a/kernel": np.full((200, 200), 1, "float32")}, file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(value)], env=environment) for value in (1, 2)
    ]
    while any(writer.poll() is None for writer in writers):
        value = arrays.load(file)["a/kernel"]
        assert value.shape == (200, 200) and len(np.unique(value)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
