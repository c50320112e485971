"""Networks through the hub: what comes back computes what went in, and what timm computes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from PIL import Image
from repositories import theirs

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import WeightsMismatch

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "logits.json").read_text())
TIMM = ["resnet18", "resnet50", "efficientnet_b0", "inception_v3", "inception_resnet_v2"]
NAMES = ["dark", "light"]
REFERENCE = os.environ.get("REFERENCE_PYTHON", "")  # of an environment with torch and timm


def trained(epochs: int):
    """A small network that tells dark images from light ones."""
    keras.utils.set_random_seed(epochs)
    pre = kc.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), size=(16, 16), crop=1.0, interpolation="bilinear")
    model = kc.build("resnet20", input_shape=(16, 16, 3), classes=NAMES, preprocess=pre)
    labels = np.arange(16) % 2
    images = (labels[:, None, None, None] * 150 + seeded.generator("images").uniform(0, 100, (16, 16, 16, 3))).astype(
        "uint8"
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=epochs, batch_size=8, verbose=0)
    return model, images


def test_round_trip_by_tag_commit_and_branch(hub, home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    first, images = trained(1)
    second, _ = trained(2)
    facts = dict(license="mit", metrics={"val accuracy": 1.0}, command="a test", data="dark and light")
    one = kc.publish(kc.save_pretrained(first, tmp_path / "run", provenance=facts), "me/lights", tag="v1")
    two = kc.publish(kc.save_pretrained(second, tmp_path / "run", provenance=facts), "me/lights")
    places = {"@v1": first, f"@{one.commit}": first, "": second, "@main": second, f"@{two.commit}": second}
    for revision, model in places.items():
        again = kc.build(f"hf://me/lights{revision}")
        expected = arrays.arrays(model)
        found = arrays.arrays(again)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))
        config = kc.config_of(again)
        assert config.class_names == tuple(NAMES)
        assert config.preprocess == kc.config_of(model).preprocess
        commit = one.commit if model is first else two.commit
        assert config.provenance["source"] == f"hf://me/lights@{commit}"
    based = kc.config_of(kc.build("hf://me/lights@v1", classes=5)).provenance
    assert based["base"] == f"hf://me/lights@{one.commit}"


def test_the_snippet_of_the_card_runs(hub, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    model, _ = trained(1)
    kc.publish(kc.save_pretrained(model, tmp_path / "run", provenance={"license": "mit"}), "me/lights")
    (snippet,) = re.findall(r"```python\n(.*?)```", hub.files("me/lights")["README.md"].decode(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "white").save("photo.jpg")
    exec(compile(snippet, "README.md", "exec"), {})
    assert re.search(r"\[\[\d\.\S+ +\d\.\S+ *\]\]", capsys.readouterr().out)


def test_another_architecture_than_the_name_says(hub, home):
    hub.create("timm/resnet18.x", theirs("resnet18", classes=3))
    with pytest.raises(WeightsMismatch, match=r"hf://timm/resnet18\.x holds weights of resnet18, not of resnet50"):
        kc.build("resnet50", weights="hf://timm/resnet18.x")
    assert kc.build("resnet18", weights="hf://timm/resnet18.x", input_shape=(64, 64, 3)).output_shape == (None, 3)


# --- timm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM)
def test_a_repository_of_timm_gives_the_logits_of_timm(hub, home, name):
    golden = GOLDENS[name]
    hub.create(f"timm/{name}.test", theirs(name, gain=golden["gain"]))
    model = kc.build(f"hf://timm/{name}.test", input_shape=(None, None, 3), classifier_activation=None)
    for which, image in seeded.images(name).items():
        logits = np.asarray(model(image, training=False))[0]
        np.testing.assert_allclose(logits, golden["logits"][which], rtol=0, atol=1e-4)


SAVE = """
import sys
import numpy as np, timm, torch
from timm.models import save_for_hf

name, out = sys.argv[1:]
torch.manual_seed(0)
model = timm.create_model(name, num_classes=10).eval()
for module in model.modules():  # statistics of images, and scales, in which a wrong order of layers would show
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = None
        module.weight.data.uniform_(0.5, 1.0), module.bias.data.normal_(0, 0.1)
with torch.no_grad():
    model.train()(torch.randn(8, 3, 128, 128))
    model.get_classifier().weight.normal_(0, 0.002)  # logits of a few units, which 1e-4 is a small part of
model.eval()
save_for_hf(model, out, safe_serialization=True)
cfg = model.pretrained_cfg
image = torch.from_numpy(np.load(out + "/image.npy")).permute(0, 3, 1, 2) / 255
mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
with torch.no_grad():
    np.save(out + "/logits.npy", model((image - mean) / std).numpy())
"""


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE, reason="REFERENCE_PYTHON names no Python with torch and timm")
@pytest.mark.parametrize("name", TIMM)
def test_what_the_save_function_of_timm_wrote(hub, home, tmp_path, name):
    image = seeded.image(128)
    np.save(tmp_path / "image.npy", image)
    subprocess.run([REFERENCE, "-c", SAVE, name, tmp_path], check=True, capture_output=True, timeout=300)
    files = {file: (tmp_path / file).read_bytes() for file in ("config.json", "model.safetensors")}
    hub.create("timm/saved", files)
    model = kc.build("hf://timm/saved", input_shape=(None, None, 3), classifier_activation=None)
    logits = np.asarray(model(image, training=False))
    np.testing.assert_allclose(logits, np.load(tmp_path / "logits.npy"), rtol=0, atol=1e-4)


def test_a_keras_archive_of_ours_is_plain_keras(tmp_path):
    model, images = trained(1)
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))
    assert kc.config_of(again).class_names == tuple(NAMES)
