"""Foreign checkpoints: whatever the file, the network computes what its source computes."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from pathlib import Path

import foreign
import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import seeded
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils
from safetensors.numpy import load_file, save_file

import keras_cnn as kc
from keras_cnn.building import adapt_stem
from keras_cnn.checkpoints import arrays, convert
from keras_cnn.checkpoints.convert import cifar, keras_applications, timm, torchvision
from keras_cnn.checkpoints.convert.rename import from_torch, to_ours, to_theirs, to_torch
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.errors import (
    BadSpec,
    CorruptFile,
    KerasCnnError,
    MissingPackage,
    UnknownModel,
    UnsafeFile,
    WeightsMismatch,
    WeightsWarning,
)
from keras_cnn.models import registry, shapes
from keras_cnn.models.config import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from keras_cnn.models.heads import Head

NAMES = ["ant", "bee", "cow"]


def config(name: str, classes: int = 3):
    return registry.get(name).with_(head=Head(classes=classes))


def ours(name: str, classes: int = 3) -> dict[str, np.ndarray]:
    return seeded.arrays(shapes.variables(shapes.tally(config(name, classes))))


def theirs(name: str, fmt=timm.FORMAT, classes: int = 3) -> dict[str, np.ndarray]:
    """Seeded weights as the source would store them."""
    values = to_theirs(ours(name, classes), registry.get(name).backbone, fmt)
    return {key: np.ascontiguousarray(value) for key, value in values.items()}


def check(model, expected: dict[str, np.ndarray]) -> None:
    """The model has these arrays, a head that they lack aside."""
    found = arrays.arrays(model)
    assert {k for k in found if not k.startswith("head_")} == {k for k in expected if not k.startswith("head_")}
    for key in expected.keys() & found.keys():
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


PRETRAINED_CFG = {
    "tag": "test_in3",
    "input_size": [3, 48, 40],
    "interpolation": "bilinear",
    "crop_pct": 0.9,
    "crop_mode": "squash",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "license": "mit",
    "label_names": NAMES,
}
MODERN = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": PRETRAINED_CFG}
LEGACY = {"architecture": "resnet18", "num_classes": 3, **PRETRAINED_CFG}
PREPROCESS = Preprocess(
    mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(48, 40), crop=0.9, interpolation="bilinear", mode="squash"
)


@pytest.fixture
def timm_dir(tmp_path):
    path = tmp_path / "timm"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(MODERN))
    save_file(theirs("resnet18"), path / "model.safetensors")
    return path


# --- timm and torchvision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [MODERN, LEGACY], ids=["pretrained_cfg", "one dictionary"])
def test_a_timm_directory(timm_dir, values):
    (timm_dir / "config.json").write_text(json.dumps(values))
    model = kc.build(timm_dir)
    check(model, ours("resnet18"))
    known = config_of(model)
    assert (known.architecture, known.class_names, known.preprocess) == ("resnet18", tuple(NAMES), PREPROCESS)
    assert known.provenance == {"source": "timm resnet18.test_in3", "license": "mit", "class_descriptions": {}}
    assert model.input_shape == (None, 48, 40, 3) and model.output_shape == (None, 3)
    assert kc.info(str(timm_dir))["classes"] == 3


def test_a_timm_directory_round_trips_through_ours(timm_dir, tmp_path):
    model = kc.build(timm_dir)
    again = kc.build(kc.save_pretrained(model, tmp_path / "ours"))
    check(again, arrays.arrays(model))
    assert config_of(again) == config_of(model)


def test_batch_counters_are_ignored_and_other_keys_are_not(timm_dir):
    file = timm_dir / "model.safetensors"
    state = load_file(file)
    save_file(state | {"bn1.num_batches_tracked": np.array(7)}, file)
    check(kc.build(timm_dir), ours("resnet18"))
    save_file(state | {"attention.weight": np.zeros((2, 2), "float32")}, file)
    with pytest.raises(WeightsMismatch, match=r"\n\+ attention\.weight \(2, 2\)$"):
        kc.build(timm_dir)


def test_torchvisions_auxiliary_classifier_is_read_where_it_is_wanted(tmp_path):
    with_aux = config("inception_v3")
    with_aux = with_aux.with_(backbone=with_aux.backbone.with_(aux=True))
    values = seeded.arrays(shapes.variables(shapes.tally(with_aux)))
    state = {k: np.ascontiguousarray(v) for k, v in to_theirs(values, with_aux.backbone, timm.FORMAT).items()}
    assert state["AuxLogits.conv1.conv.weight"].shape == (768, 128, 5, 5) and "AuxLogits.fc.bias" in state
    save_file(state, tmp_path / "w.safetensors")
    check(kc.build("inception_v3", weights=tmp_path / "w.safetensors"), ours("inception_v3"))
    check(kc.build("inception_v3", weights=tmp_path / "w.safetensors", aux=True), values)
    del state["AuxLogits.fc.bias"]
    with pytest.raises(WeightsMismatch, match=r"\n- AuxLogits\.fc\.bias \(for aux_logits/bias\)$"):
        convert.convert(state, config("inception_v3"), source="w")


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "resnetv2_50", "resnet50_gn", "resnext50_32x4d"])
def test_names_and_layouts_invert(name):
    wanted = shapes.variables(shapes.tally(config(name)))
    state = theirs(name)
    again = to_ours(state, registry.get(name).backbone, wanted, timm.FORMAT)
    assert again.keys() == wanted.keys() and len(state) == len(wanted)
    assert all(np.array_equal(again[key], value) for key, value in ours(name).items())


def test_layouts_of_torch():
    """Convolution (O,I,H,W); linear (O,I), also as a 1x1 convolution; depthwise (C,1,H,W) to (H,W,C,1)."""
    backbone, rng = registry.get("resnet18").backbone, np.random.default_rng(0)
    kernel = rng.random((3, 5, 2, 4))
    assert to_torch(kernel, "a/kernel", backbone).shape == (4, 2, 3, 5)
    assert to_torch(kernel, "a/kernel", backbone)[3, 1, 2, 4] == kernel[2, 4, 1, 3]
    dense = rng.random((4, 6, 1, 1))
    np.testing.assert_array_equal(from_torch(dense, (6, 4), "a/kernel", backbone), dense[:, :, 0, 0].T)
    depthwise = rng.random((8, 1, 3, 3))
    np.testing.assert_array_equal(
        from_torch(depthwise, (3, 3, 8, 1), "a/kernel", backbone)[..., 0], depthwise[:, 0].transpose(1, 2, 0)
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "resnet19"}, r"config\.json: There is no network called 'resnet19'\. Did you mean"),
        ({"architecture": 5}, r"config\.json: the configuration names no architecture"),
        ({"architecture": "resnet34"}, r"- layer1\.2\.conv1\.weight \(for stage1_block3_conv1/kernel\)"),
    ],
)
def test_a_timm_directory_of_another_architecture(timm_dir, change, sentence):
    (timm_dir / "config.json").write_text(json.dumps(MODERN | change))
    with pytest.raises((UnknownModel, CorruptFile, WeightsMismatch), match=sentence):
        kc.build(timm_dir)


def test_a_timm_directory_without_weights(timm_dir):
    (timm_dir / "model.safetensors").unlink()
    with pytest.raises(CorruptFile, match=r"timm has no model\.safetensors or pytorch_model\.bin"):
        kc.build(timm_dir)


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_the_wrong_depth_lists_what_is_too_much_or_missing(tmp_path):
    save_file(theirs("resnet34"), tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatch, match=r"\n\+ layer1\.2\.bn1\.bias \(64,\)\n(.*\n)*  and \d+ more$"):
        kc.build("resnet18", weights=tmp_path / "w.safetensors")
    save_file(theirs("resnet18"), tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatch, match=r"\n- layer1\.2\.conv1\.weight \(for stage1_block3_conv1/kernel\)\n"):
        kc.build("resnet34", weights=tmp_path / "w.safetensors")


def test_the_wrong_width_shows_both_shapes(tmp_path):
    state = theirs("resnet18")
    state["layer1.0.conv1.weight"] = np.zeros((64, 32, 3, 3), "float32")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatch) as caught:
        kc.build("resnet18", weights=tmp_path / "w.safetensors")
    assert "- layer1.0.conv1.weight (3, 3, 64, 64)\n+ layer1.0.conv1.weight (3, 3, 32, 64)" in str(caught.value)


def test_a_file_of_another_family_is_not_recognised(tmp_path):
    save_file({"encoder.layer.0.weight": np.zeros(3, "float32")}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatch, match=r"keys \(encoder\.layer\.0\.weight, \.\.\.\) are of none of the known"):
        kc.build("resnet18", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda d: kc.build("resnet34", weights=d), r"timm holds weights of resnet18, not of resnet34: build\("),
        (lambda d: kc.build(d / "model.safetensors"), r"is a file of arrays: name its architecture too, as in build\("),
        (lambda d: kc.build("resnet18", weights=d / "config.json"), r"known weight files end in \.safetensors, \.h5"),
        (lambda d: kc.build("resnet18", weights=d / "gone.pth"), r"gone\.pth: there is no such file or directory"),
        (lambda d: kc.build("resnet99", weights=d), r"no network called 'resnet99'"),
    ],
    ids=["other-name", "bare-file", "suffix", "missing", "unknown-name"],
)
def test_a_source_that_is_none(timm_dir, build, sentence):
    with pytest.raises(KerasCnnError, match=sentence):
        build(timm_dir)


# --- what is no array of weights ----------------------------------------------------------------------------------


def raw_safetensors(path: Path, kind: str, value: np.ndarray) -> Path:
    """A file of one array with a kind of numbers that NumPy may not have."""
    told = {"x": {"dtype": kind, "shape": list(value.shape), "data_offsets": [0, value.nbytes]}}
    header = json.dumps(told).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + value.tobytes())
    return path


@pytest.mark.parametrize("kind", list(arrays.NARROW))
def test_narrow_floats_are_read_exactly(tmp_path, kind):
    expected = np.float32([[0, 1, -2.5], [0.0625, 3, 448]])
    stored = expected.astype(getattr(ml_dtypes, arrays.NARROW[kind]))
    found = convert.read_state(raw_safetensors(tmp_path / "w.safetensors", kind, stored))["x"]
    assert found.dtype == "float32" and np.array_equal(found, stored.astype("float32"))


def test_weights_in_bfloat16_serve(timm_dir):
    state = {key: value.astype(ml_dtypes.bfloat16) for key, value in theirs("resnet18").items()}
    save_file(state, timm_dir / "model.safetensors")
    expected = {key: value.astype(ml_dtypes.bfloat16).astype("float32") for key, value in ours("resnet18").items()}
    check(kc.build(timm_dir), expected)


def test_kinds_of_numbers_that_are_not_read_are_one_sentence(tmp_path):
    path = raw_safetensors(tmp_path / "w.safetensors", "F8_E8M0", np.zeros(4, "uint8"))
    with pytest.raises(CorruptFile, match=r"w\.safetensors: x holds numbers of the kind F8_E8M0, which are not read"):
        convert.read_state(path)


@pytest.mark.parametrize("kind", ["complex64", "bool", "int8", "int64"])
def test_weights_that_are_no_floats_are_refused(timm_dir, kind):
    state = theirs("resnet18")
    save_file(state | {"conv1.weight": state["conv1.weight"].astype(kind)}, timm_dir / "model.safetensors")
    with pytest.raises(
        WeightsMismatch, match=rf"stem_conv/kernel holds {kind} numbers, and weights are floating-point"
    ):
        kc.build(timm_dir)


def test_numbers_that_are_infinite_in_float32_are_warned_of(timm_dir):
    state = theirs("resnet18")
    vast = np.full_like(state["conv1.weight"], 1e300, dtype="float64")
    save_file(state | {"conv1.weight": vast}, timm_dir / "model.safetensors")
    with pytest.warns(WeightsWarning, match="1 arrays hold NaN or infinite values, such as stem_conv/kernel"):
        kc.build(timm_dir)


# --- heads and stems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "kept", "names"),
    [
        ({}, True, tuple(NAMES)),
        ({"classes": 3}, True, tuple(NAMES)),
        ({"classes": NAMES}, True, tuple(NAMES)),
        ({"classes": 5}, False, ()),
        ({"classes": ["x", "y", "z"]}, False, ("x", "y", "z")),
        ({"head": Head(classes=3, pooling="max")}, True, tuple(NAMES)),
        ({"head": Head(classes=3, hidden=(8,))}, False, tuple(NAMES)),
        ({"classifier_activation": None}, True, tuple(NAMES)),
    ],
)
def test_the_head_is_kept_where_the_classes_are_the_same(timm_dir, keywords, kept, names):
    model = kc.build(timm_dir, input_shape=(32, 32, 3), **keywords)
    expected = ours("resnet18")
    head = arrays.arrays(model)["head_logits/kernel"]
    assert (head.shape == (512, 3) and np.array_equal(head, expected["head_logits/kernel"])) == kept
    check(model, {k: v for k, v in expected.items() if not k.startswith("head_")})
    assert config_of(model).class_names == names


def test_a_head_of_21k_classes_is_the_networks_until_others_are_wanted(tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(theirs("resnet18", classes=21_843), weights)
    assert kc.build("resnet18", weights=weights, input_shape=(32, 32, 3)).output_shape == (None, 21_843)
    assert kc.build("resnet18", weights=weights, input_shape=(32, 32, 3), classes=5).output_shape == (None, 5)


def test_no_classes_drop_the_head(timm_dir):
    model = kc.build(timm_dir, classes=0)
    assert model.output_shape == (None, 512)
    check(model, {k: v for k, v in ours("resnet18").items() if not k.startswith("head_")})


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_adapted_stems_see_a_constant_image_as_before(channels):
    """The response to equal channels is the sum of a kernel over its inputs."""
    kernel = seeded.array("stem_conv/kernel", (3, 3, 3, 8))
    adapted = adapt_stem(kernel, channels)
    assert adapted.shape == (3, 3, channels, 8)
    if channels % 3 == 0 or channels == 1:
        np.testing.assert_allclose(adapted.sum(2), kernel.sum(2), atol=1e-6)
    for i in range(channels) if channels > 1 else []:
        np.testing.assert_allclose(adapted[:, :, i], kernel[:, :, i % 3] * 3 / channels, atol=1e-7)


def test_one_channel_on_gray_is_three_on_gray_laid_thrice(timm_dir):
    same = {"mean": [0.4] * 3, "std": [0.25] * 3}
    (timm_dir / "config.json").write_text(json.dumps(MODERN | {"pretrained_cfg": PRETRAINED_CFG | same}))
    options = {"classifier_activation": None}
    rgb = kc.build(timm_dir, input_shape=(32, 32, 3), **options)
    gray = kc.build(timm_dir, input_shape=(32, 32, 1), **options)
    image = seeded.image(32, 1)
    np.testing.assert_allclose(gray(image), rgb(np.repeat(image, 3, -1)), atol=1e-4)


def test_four_channels(timm_dir):
    model = kc.build(timm_dir, input_shape=(32, 32, 4))
    expected = ours("resnet18")
    expected["stem_conv/kernel"] = adapt_stem(expected["stem_conv/kernel"], 4)
    check(model, expected)
    assert len(config_of(model).preprocess.std) == 4 and np.isfinite(model(seeded.image(32, 4))).all()


# --- PyTorch files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pytorch_files(tmp_path, wrap, prefix):
    torch = pytest.importorskip("torch")
    state = {prefix + key: torch.tensor(value) for key, value in theirs("resnet18").items()}
    torch.save(wrap(state | {prefix + "bn1.num_batches_tracked": torch.tensor(1)}), tmp_path / "w.pth")
    model = kc.build("resnet18", weights=tmp_path / "w.pth", input_shape=(32, 32, 3))
    check(model, ours("resnet18"))
    assert (
        config_of(model).provenance == {"source": "w.pth"} and config_of(model).preprocess.interpolation == "bilinear"
    )


def test_a_timm_directory_with_a_pytorch_file_of_halves(timm_dir):
    torch = pytest.importorskip("torch")
    (timm_dir / "model.safetensors").unlink()
    halves = {key: torch.tensor(value).half() for key, value in theirs("resnet18").items()}
    torch.save(halves, timm_dir / "pytorch_model.bin")
    check(kc.build(timm_dir), {k: v.astype("float16").astype("float32") for k, v in ours("resnet18").items()})


class Evil:
    """Unpickling this runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt", ".bin"])
@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_a_file_that_runs_code_is_refused_and_nothing_runs(tmp_path, suffix, plain):
    torch = pytest.importorskip("torch")
    target, path = tmp_path / "executed", tmp_path / f"w{suffix}"
    content = {"conv1.weight": Evil(target)}
    path.write_bytes(pickle.dumps(content)) if plain else torch.save(content, path)
    with pytest.raises(UnsafeFile, match=r"would have to execute code to be read: it was not opened\. Ask its author"):
        kc.build("resnet18", weights=path)
    assert not target.exists()
    pickle.loads(pickle.dumps(content))  # it would have run
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty"), (b"PK\x03\x04 and no more", "is truncated or not a PyTorch file")]
)
def test_broken_pytorch_files(tmp_path, content, sentence):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CorruptFile, match=rf"w\.pth {sentence}.*: fetch it again"):
        kc.build("resnet18", weights=tmp_path / "w.pth")


def test_a_truncated_pytorch_file(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.zeros(1000)}, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CorruptFile, match=r"w\.pth is truncated or not a PyTorch file: fetch it again"):
        kc.build("resnet18", weights=path)
    torch.save([1, 2, 3], path)
    with pytest.raises(CorruptFile, match=r"w\.pth holds no named tensors"):
        kc.build("resnet18", weights=path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda torch: torch.eye(3).to_sparse(), "x is sparse, quantised or without numbers, not a plain array"),
        (lambda torch: torch.ones(3, device="meta"), "x is sparse, quantised or without numbers, not a plain array"),
        (lambda torch: torch.ones(1).expand(10**9), "claims tensors of 4000000000 bytes: it was not read"),
        (lambda torch: torch.ones(3, dtype=torch.complex32), "x is an array of numbers that cannot be read"),
    ],
)
def test_tensors_that_are_no_plain_arrays(tmp_path, make, sentence):
    torch = pytest.importorskip("torch")
    torch.save({"x": make(torch)}, tmp_path / "w.pth")
    with pytest.raises(CorruptFile, match=sentence):
        convert.read_state(tmp_path / "w.pth")


def test_tensors_with_gradients_are_read_and_those_without_names_are_not(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.nn.Parameter(torch.ones(3))}, tmp_path / "w.pth")
    assert np.array_equal(convert.read_state(tmp_path / "w.pth")["x"], np.ones(3))
    torch.save({0: torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(CorruptFile, match=r"w\.pth holds no named tensors"):
        convert.read_state(tmp_path / "w.pth")


def test_the_checksums_of_a_pytorch_file_are_verified(tmp_path):
    torch, path = pytest.importorskip("torch"), tmp_path / "w.pth"
    torch.save({"x": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(10, dtype="float32").tobytes()) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"w\.pth is damaged \(the checksum of '.*' differs\): fetch it again"):
        convert.read_state(path)


def test_without_torch_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackage, match=r"^w\.pth is an older PyTorch file, or none: `pip install torch`"):
        kc.build("resnet18", weights=tmp_path / "w.pth")


# --- keras.applications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "module", "size"),
    [
        ("keras_resnet50", keras.applications.ResNet50, keras.applications.resnet, 64),
        ("keras_resnet50v2", keras.applications.ResNet50V2, keras.applications.resnet_v2, 49),
    ],
)
def test_a_legacy_h5_file_gives_the_outputs_of_keras_applications(tmp_path, name, make, module, size):
    theirs = make(weights=None, classes=10, input_shape=(size, size, 3))
    arrays.assign(theirs, to_theirs(ours(name, 10), registry.get(name).backbone, keras_applications.FORMAT))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    model = kc.build(name, weights=tmp_path / "w.h5", input_shape=(size, size, 3))
    assert model.output_shape == (None, 10)
    image = seeded.image(size)
    expected = theirs(module.preprocess_input(image.astype("float32")), training=False)
    np.testing.assert_allclose(model(image, training=False), expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3
    known = config_of(model).preprocess
    assert known == keras_applications.preprocess(registry.get(name).backbone, {}).at_size((size, size))
    with h5py.File(tmp_path / "nested.h5", "w") as file:  # a whole saved model keeps its weights one level down
        legacy_h5_format.save_weights_to_hdf5_group(file.create_group("model_weights"), theirs)
    assert convert.read_state(tmp_path / "nested.h5").keys() == convert.read_state(tmp_path / "w.h5").keys()


def test_h5_files_that_are_none(tmp_path):
    path = tmp_path / "w.h5"
    path.write_bytes(b"\x89HDF no")
    with pytest.raises(CorruptFile, match=r"w\.h5 is truncated or not an HDF5 file .*: fetch it again"):
        kc.build("keras_resnet50", weights=path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=[1.0])
    with pytest.raises(CorruptFile, match=r"w\.h5 is not a legacy Keras weights file"):
        kc.build("keras_resnet50", weights=path)


def h5_file(path: Path, fill) -> Path:
    """A legacy weights file of one layer, `conv1_conv`, whose group `fill` fills with a `kernel:0`."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1_conv"]
        group = file.create_group("conv1_conv")
        group.attrs["weight_names"] = [b"conv1_conv/kernel:0"]
        fill(group.create_group("conv1_conv"))
    return path


ELSEWHERE, NUMBERS = "elsewhere.h5", np.arange(6, dtype="float32")


def virtual(group) -> None:
    layout = h5py.VirtualLayout((6,), "float32")
    layout[:] = h5py.VirtualSource(ELSEWHERE, "x", (6,))
    group.create_virtual_dataset("kernel:0", layout)


@pytest.mark.parametrize("chunks", [None, (2,)])
def test_plain_arrays_of_an_h5_file_are_read(tmp_path, chunks):
    path = h5_file(tmp_path / "w.h5", lambda g: g.create_dataset("kernel:0", data=NUMBERS, chunks=chunks))
    [(key, value)] = convert.read_state(path).items()
    assert key == "conv1_conv/kernel" and np.array_equal(value, NUMBERS)


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [
        (lambda g: g.update({"kernel:0": h5py.ExternalLink(ELSEWHERE, "x")}), "is a link that may lead to other files"),
        (lambda g: g.update({"kernel:0": h5py.SoftLink("/x")}), "is a link that may lead to other files"),
        (virtual, "has its numbers in other files: it was not read."),
        (
            lambda g: g.create_dataset("kernel:0", (6,), "float32", external=[(ELSEWHERE, 0, 24)]),
            "has its numbers in other files: it was not read.",
        ),
    ],
    ids=["external-link", "soft-link", "virtual", "external-storage"],
)
def test_an_h5_file_that_leads_to_others_is_refused(tmp_path, monkeypatch, fill, sentence):
    monkeypatch.chdir(tmp_path)  # where HDF5 would find the other file
    with h5py.File(ELSEWHERE, "w") as file:
        file["x"] = NUMBERS
    path = h5_file(tmp_path / "w.h5", fill)
    with pytest.raises(UnsafeFile, match=re.escape(sentence)) as caught:
        kc.build("keras_resnet50", weights=path)
    assert str(caught.value).startswith(str(path)) and "conv1_conv/kernel:0" in str(caught.value)


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [
        (lambda g: g.create_dataset("kernel:0", (200_000, 200_000), "float32"), "claims arrays of 160000000000 bytes"),
        (
            lambda g: g.create_dataset("kernel:0", (2**31, 2**31), "float32", chunks=(64, 64)),
            "claims arrays of 18446744073709551616 bytes: it was not read.",
        ),
        (
            lambda g: g.create_dataset("kernel:0", (200_000, 200_000), "float32", compression="gzip"),
            "is compressed, as keras.applications' files never are: save it uncompressed.",
        ),
        (lambda g: None, "lists 'conv1_conv/kernel:0' in /conv1_conv, and does not hold it: fetch it again."),
        (lambda g: g.create_group("kernel:0"), "conv1_conv/kernel:0 is no array of numbers: fetch the file again."),
        (lambda g: g.create_dataset("kernel:0", data=["a", "b"]), "kernel:0 is no array of numbers"),
        (lambda g: g.create_dataset("kernel:0", data=h5py.Empty("float32")), "kernel:0 is no array of numbers"),
        (lambda g: g.parent.attrs.pop("weight_names"), "/conv1_conv has no weight_names: fetch it again."),
        (
            lambda g: g.parent.attrs.update(weight_names=[1, 2]),
            "the weight_names of /conv1_conv are no names as Keras writes them: fetch it again.",
        ),
        (lambda g: g.file.attrs.update(layer_names=[b"gone"]), "lists 'gone' in /, and does not hold it"),
        (
            lambda g: g.parent.attrs.update(weight_names=[b"x" * 100_000, b"y"]),
            "holds texts that are longer than any name: it was not read.",
        ),
        (lambda g: g.create_dataset("kernel:0", data=NUMBERS), "the weights do not fit the network"),
    ],
    ids=[
        *("vast", "overflow", "gzip", "missing", "group", "text", "empty"),
        *("no-names", "odd-names", "no-layer", "long-texts", "1-d"),
    ],
)  # fmt: skip
def test_an_h5_file_that_holds_something_else_is_refused(tmp_path, fill, sentence):
    path = h5_file(tmp_path / "w.h5", fill)
    with pytest.raises((CorruptFile, WeightsMismatch), match=re.escape(sentence)):
        kc.build("keras_resnet50", weights=path)


def test_a_heap_of_texts_that_hdf5_would_search_without_end_is_refused(tmp_path):
    path = h5_file(tmp_path / "w.h5", lambda g: g.create_dataset("kernel:0", data=NUMBERS))
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while any(content[at : at + 2]):  # to the entry of what is free, whose length says where the next one is
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"is truncated or damaged \(its heap of texts\): fetch it again"):
        convert.read_state(path)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "make", "module"),
    [
        ("tf_efficientnet_b0", "EfficientNetB0", "efficientnet"),
        pytest.param("inception_v3", "InceptionV3", "inception_v3", marks=SLOW),
        pytest.param("tf_efficientnetv2_b0", "EfficientNetV2B0", "efficientnet_v2", marks=SLOW),
        pytest.param("tf_efficientnetv2_s", "EfficientNetV2S", "efficientnet_v2", marks=SLOW),
        pytest.param("inception_resnet_v2", "InceptionResNetV2", "inception_resnet_v2", marks=SLOW),
    ],
)
def test_a_published_h5_file_gives_the_logits_of_weights_imagenet(tmp_path, monkeypatch, name, make, module):
    """The file that keras.applications would download, read by it and by us: by order the one, by names the other."""
    make, module = getattr(keras.applications, make), getattr(keras.applications, module)
    backbone, fmt = registry.get(name).backbone, keras_applications.FORMAT
    _ = keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()  # so that Keras' own numbers do not start at 0
    source = make(weights=None)
    size = source.input_shape[1]
    sees = config(name).with_(head=Head(classes=1000, activation=None), preprocess=fmt.preprocess(backbone, {}))
    values = foreign.lively(ours(name, 1000), sees, (size,))
    values = foreign.without_gammas(values) if "gamma" in fmt.constants(backbone) else values
    # The published EfficientNets V1 store the standard deviation as the variance, and divide by its root twice.
    foreign.fill(source, to_theirs(values, backbone, fmt), backbone, pixel_variance=IMAGENET_STD)
    path = foreign.write_h5(tmp_path / "w.h5", foreign.published(source))
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    theirs = make(weights="imagenet", classifier_activation=None)
    model = kc.build(name, weights=path, classifier_activation=None, input_shape=(size, size, 3))
    image = seeded.image(size)
    expected = theirs(module.preprocess_input(image.astype("float32")), training=False)
    np.testing.assert_allclose(model(image, training=False), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1
    check(model, values)


KERAS_B0, KERAS_V3 = ("tf_efficientnet_b0", keras_applications.FORMAT), ("inception_v3", keras_applications.FORMAT)


def test_arguments_of_timm_that_make_another_network_are_refused():
    values = {"architecture": "resnet50", "num_classes": 10, "model_args": {"drop_rate": 0.1, "global_pool": "avg"}}
    assert timm.config(values).head.classes == 10
    with pytest.raises(CorruptFile, match=r"resnet50 was built with output_stride=8 in timm"):
        timm.config({**values, "model_args": {"output_stride": 8}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_classes": "ten"}, "num_classes='ten': give a whole number."),
        ({"num_classes": -1}, "classes=-1: give the number of classes, or 0"),
        ({"input_size": None}, "input_size=None: give a list of 3: a whole number, a whole number, a whole number."),
        ({"input_size": [3, 224]}, "input_size=[3, 224]: give a list of 3"),
        ({"input_size": [3, 10**6, 224]}, "sides of input_shape=(1000000, 224): give numbers from 1 to 16384."),
        ({"mean": "imagenet"}, "mean='imagenet': give a list, each entry a number."),
        ({"std": [0, 0, 0]}, "std=(0, 0, 0): give numbers above 0"),
        ({"crop_pct": "0.9"}, "crop_pct='0.9': give a number."),
        ({"interpolation": ["bicubic"]}, "interpolation=['bicubic']: give a text."),
        ({"label_names": "abc"}, "label_names='abc': give a list, each entry a text or None."),
        ({"label_descriptions": ["a"]}, "label_descriptions=['a']: give an object or None."),
        ({"license": 5}, "license=5: give a text or None."),
        ({"model_args": [1]}, "model_args=[1]: give an object or None."),
        ({"pretrained_cfg": [1]}, "pretrained_cfg=[1]: give an object or None."),
        ({"global_pool": None}, "global_pool=None: give a text."),
        ({"global_pool": "avgmax"}, "resnet18 pools with 'avgmax' in timm, keras_cnn with 'avg' or 'max' only."),
        ({"model_args": {"global_pool": ""}}, "resnet18 pools with '' in timm, keras_cnn with 'avg' or 'max' only."),
        ({"model_args": {"global_pool": ["avg"]}}, "resnet18 pools with ['avg'] in timm"),
    ],
)
@pytest.mark.parametrize("whole", [MODERN, LEGACY], ids=["pretrained_cfg", "one dictionary"])
def test_a_timm_configuration_that_cannot_be_is_one_sentence(whole, changes, sentence):
    inner = {"pretrained_cfg": whole["pretrained_cfg"] | changes} if "pretrained_cfg" in whole else {}
    with pytest.raises((BadSpec, CorruptFile), match=re.escape(sentence)):
        timm.config({**whole, **inner, **changes})


@pytest.mark.parametrize(
    "place", [{"global_pool": "max"}, {"global_pool": "avg", "model_args": {"global_pool": "max"}}]
)
def test_the_pool_of_a_timm_network_is_kept(timm_dir, place):
    (timm_dir / "config.json").write_text(json.dumps(MODERN | place))
    model = kc.build(timm_dir)
    assert config_of(model).head == Head(classes=3, pooling="max")
    assert "GlobalMaxPooling2D" in [type(layer).__name__ for layer in model.layers]


def keras_file(path: Path, name: str, classes: int = 3, top: bool = True) -> Path:
    """Our seeded weights as a file of keras.applications, pixel statistics included."""
    backbone, fmt = registry.get(name).backbone, keras_applications.FORMAT
    values = ours(name, classes)
    state = to_theirs(foreign.without_gammas(values) if "gamma" in fmt.constants(backbone) else values, backbone, fmt)
    state = {k: v for k, v in state.items() if top or not k.startswith(("predictions/", "dense:"))}
    pixels = {"mean": IMAGENET_MEAN, "variance": IMAGENET_STD, "count": 0}  # as published, deviations for variances
    pixels = {f"normalization/{n}": np.float32(value) for n, value in pixels.items()}
    return foreign.write_h5(path, (pixels if name.startswith("tf_efficientnet_b") else {}) | state)


@pytest.mark.parametrize("variance", [(0.05, 0.06, 0.07), (1.0, 1.0, 1.0)], ids=["measured", "never adapted"])
def test_an_efficientnet_h5_file_brings_the_statistics_that_it_was_trained_on(tmp_path, variance):
    """As Keras reads it: weights=FILE builds the network without the scale that the published files need."""
    mean, size, backbone = (0.2, 0.5, 0.7), 64, registry.get("tf_efficientnet_b0").backbone
    source = keras.applications.EfficientNetB0(weights=None, classes=3, input_shape=(size, size, 3))
    sees = config("tf_efficientnet_b0").with_(preprocess=Preprocess(mean=mean, std=(0.25,) * 3))
    values = foreign.lively(ours("tf_efficientnet_b0"), sees.with_(head=Head(classes=3, activation=None)), (size,))
    state = to_theirs(values, backbone, keras_applications.FORMAT)
    foreign.fill(source, state, backbone, pixel_variance=variance, pixel_mean=mean)
    path = foreign.write_h5(tmp_path / "w.h5", foreign.published(source))
    theirs = keras.applications.EfficientNetB0(
        weights=str(path), classes=3, input_shape=(size, size, 3), classifier_activation=None
    )
    image = seeded.image(size)
    model = kc.build("tf_efficientnet_b0", weights=path, input_shape=(size, size, 3), classifier_activation=None)
    np.testing.assert_allclose(model(image, training=False), theirs(image.astype("float32")), rtol=0, atol=1e-4)
    assert config_of(model).preprocess.mean == mean


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"normalization/variance": np.float32([1, 2])}, "normalization/variance has to hold 3 numbers, one a channel"),
        ({"normalization/variance": np.float32([1, -2, 1])}, "std=(1.0, nan, 1.0): give a list, each entry a number."),
        ({"normalization/mean": np.float32([1, np.inf, 1])}, "mean=(1.0, inf, 1.0): give a list, each entry a number."),
        ({"normalization/mean": None}, "normalization/mean has to hold 3 numbers"),
    ],
)
def test_statistics_of_pixels_that_cannot_be_are_one_sentence(tmp_path, change, sentence):
    state = convert.read_state(keras_file(tmp_path / "w.h5", "tf_efficientnet_b0")) | change
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(KerasCnnError, match=re.escape(sentence)):
        convert.convert(state, config("tf_efficientnet_b0"), source="w")


def test_a_file_brings_its_numerics_and_preprocessing(tmp_path):
    """An architecture's defaults are one source's; another source's file computes as that source does."""
    path = keras_file(tmp_path / "w.h5", "tf_efficientnet_b0")
    known = config_of(kc.build("efficientnet_b0", weights=path))
    assert (known.backbone.pad, known.backbone.norm_eps, known.preprocess) == ("same", 1e-3, Preprocess())
    known = config_of(kc.build("tf_efficientnetv2_s", weights=keras_file(path, "tf_efficientnetv2_s")))
    assert known.preprocess == Preprocess(mean=(128 / 255,) * 3, std=(128 / 255,) * 3, size=(300, 300))
    known = config_of(kc.build("inception_v3", weights=keras_file(path, "inception_v3")))
    assert (known.backbone.avg_pad, known.preprocess.mean, known.preprocess.std) == ("exclude", (0.5,) * 3, (0.5,) * 3)
    save_file(theirs("inception_v3"), tmp_path / "w.safetensors")
    known = config_of(kc.build("inception_v3", weights=tmp_path / "w.safetensors"))
    assert (known.backbone.avg_pad, known.preprocess.mean, known.preprocess.std) == ("include", (0.5,) * 3, (0.5,) * 3)
    for name, eps, crop in (("tf_efficientnet_b0", 1e-5, 0.875), ("tf_efficientnet_b5", 1e-3, 1.0)):
        state = theirs(name, torchvision.FORMAT)
        found, _ = convert.convert(state, config(name), source="w")
        assert (found.backbone.pad, found.backbone.norm_eps, found.preprocess.crop) == ("torch", eps, crop)


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("efficientnet_b0", torchvision.FORMAT), ("tf_efficientnetv2_b0", keras_applications.FORMAT), KERAS_B0],
)
def test_formats_are_told_apart_by_their_keys(name, fmt):
    state = theirs(name, fmt)
    _, found = convert.convert(state, config(name), source="w")
    expected = ours(name)
    assert found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("file", "network", "fmt", "sentence"),
    [
        ("efficientnet_b1", "efficientnet_b0", timm.FORMAT, r"\+ blocks\.0\.1\.bn1\.bias \(16,\)"),
        (
            "efficientnet_b1",
            "efficientnet_b0",
            torchvision.FORMAT,
            r"\+ features\.1\.1\.block\.0\.0\.weight \(16, 1, 3",
        ),
        (
            "efficientnet_b0",
            "efficientnet_b1",
            torchvision.FORMAT,
            r"- features\.1\.1\.block\.0\.0\.weight \(for stage1_b",
        ),
        ("tf_efficientnet_b1", "tf_efficientnet_b0", KERAS_B0[1], r"\+ block1b_bn/beta \(16,\)"),
        (
            "tf_efficientnet_b0",
            "tf_efficientnet_b1",
            KERAS_B0[1],
            r"- block1b_dwconv/kernel \(for stage1_block2_depthwise",
        ),
        ("tf_efficientnetv2_b0", "tf_efficientnet_b0", KERAS_B0[1], r"- block1a_dwconv/kernel \(for stage1_block1_dep"),
    ],
)
def test_an_efficientnet_of_another_depth(file, network, fmt, sentence):
    state = theirs(file, fmt)
    with pytest.raises(
        WeightsMismatch, match=rf"^read as a checkpoint of {fmt.name}, the weights do not.*\n{sentence}"
    ):
        convert.convert(state, config(network), source="w")


def test_an_inception_with_other_layers(tmp_path):
    path = keras_file(tmp_path / "w.h5", "inception_resnet_v2")
    with pytest.raises(
        WeightsMismatch, match=r"^read as a checkpoint of keras\.applications, .*\n- conv:9/kernel \(1, 1"
    ):
        kc.build("inception_v3", weights=path)


def test_what_keras_does_not_store_is_its_constant_and_nothing_else():
    state, wanted = theirs(*KERAS_B0), shapes.variables(shapes.tally(config("inception_v3")))
    with pytest.raises(WeightsMismatch, match=r"^keras\.applications has no place for stem_norm1/gamma: there it is 1"):
        to_theirs(ours("inception_v3"), registry.get("inception_v3").backbone, keras_applications.FORMAT)
    del state["stem_bn/gamma"]
    with pytest.raises(WeightsMismatch, match=r"\n- stem_bn/gamma \(for stem_norm/gamma\)$"):
        convert.convert(state, config("tf_efficientnet_b0"), source="w")
    values = foreign.without_gammas(ours("inception_v3"))
    found = to_ours(
        to_theirs(values, registry.get("inception_v3").backbone, KERAS_V3[1]),
        registry.get("inception_v3").backbone,
        wanted,
        KERAS_V3[1],
    )
    assert found.keys() == values.keys() and all(np.array_equal(found[k], values[k]) for k in values)


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", pytest.param("inception_v3", marks=SLOW)])
def test_files_with_and_without_a_top(tmp_path, name):
    """The number of classes is the file's: none without a top; another one starts a new head."""
    with_top = keras_file(tmp_path / "top.h5", name, classes=21)
    no_top = keras_file(tmp_path / "no_top.h5", name, top=False)
    build = lambda path, **kw: kc.build(name, weights=path, input_shape=(96, 96, 3), **kw).output_shape[-1]  # noqa: E731
    width = ours(name)["head_logits/kernel"].shape[0]
    assert (build(with_top), build(with_top, classes=1000), build(with_top, classes=0)) == (21, 1000, width)
    assert (build(no_top), build(no_top, classes=5), build(no_top, classes=0)) == (width, 5, width)


# --- CIFAR, and the real checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
def test_cifar_files_are_told_by_their_content(tmp_path, prefix):
    state = {prefix + k: v for k, v in theirs("resnet20", cifar.FORMAT, classes=10).items()}
    save_file(state, tmp_path / "w.safetensors")
    model = kc.build("resnet20", weights=tmp_path / "w.safetensors")
    check(model, ours("resnet20", classes=10))
    known = config_of(model)
    assert known.class_names == cifar.CLASSES and known.preprocess == Preprocess(size=(32, 32), crop=1.0)
    assert prefix + "linear.weight" in state


@pytest.mark.parametrize("depth", [20, 32])
def test_the_public_cifar_checkpoints_agree_in_both_formats(shared, depth):
    pytest.importorskip("torch")
    [pickled] = (shared / "weights").glob(f"resnet{depth}-*.th")
    tensors = shared / "weights" / f"resnet{depth}_cifar10_idelbayev.safetensors"
    one, other = (arrays.arrays(kc.build(f"resnet{depth}", weights=file)) for file in (pickled, tensors))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_the_tiny_imagenet_checkpoint(shared):
    path = shared / "weights" / "resnet18_tiny_imagenet_timm"
    model = kc.build(path)
    state, found = load_file(path / "model.safetensors"), arrays.arrays(model)
    np.testing.assert_array_equal(found["stem_conv/kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["head_logits/kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(found["stage4_block2_norm2/moving_variance"], state["layer4.1.bn2.running_var"])
    known = config_of(model)
    assert model.input_shape == (None, 64, 64, 3) and len(known.class_names) == 200
    assert known.provenance["class_descriptions"]["n01443537"].startswith("goldfish")
