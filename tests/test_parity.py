"""Every variant gives the logits of the implementation that defines it, on weights seeded by name."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from variants import VARIANTS

import keras_cnn as kc
from keras_cnn import catalog, checkpoint, tally
from keras_cnn.convert import keras_applications
from keras_cnn.convert.rename import to_theirs
from keras_cnn.hub.directory import config_of

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "logits.json").read_text())
TOLERANCE = 1e-4  # absolute, float32
KERAS = {
    "keras_resnet50": "ResNet50",
    "keras_resnet101": "ResNet101",
    "keras_resnet152": "ResNet152",
    "keras_resnet50v2": "ResNet50V2",
    "keras_resnet101v2": "ResNet101V2",
    "keras_resnet152v2": "ResNet152V2",
}


def seeded_model(name: str):
    model = kc.build(name, input_shape=(None, None, 3), classes=10, classifier_activation=None)
    checkpoint.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in checkpoint.variables(model).items()}))
    return model


def test_every_variant_has_a_reference():
    assert GOLDENS.keys() | KERAS.keys() == catalog.architectures().keys()


@pytest.mark.parametrize("name", [v for v in VARIANTS if (v if isinstance(v, str) else v.values[0]) in GOLDENS])
def test_logits_equal_torch(name):
    model = seeded_model(name)
    for size, expected in GOLDENS[name]["logits"].items():
        logits = np.asarray(model(seeded.image(int(size)), training=False))[0]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE, err_msg=f"{name} at {size} pixels")


FADING = pytest.mark.xfail(strict=True, reason="seeded signals fade in EfficientNet: its logits prove little yet")


@pytest.mark.parametrize("name", [pytest.param(n, marks=FADING) if "efficientnet" in n else n for n in GOLDENS])
def test_golden_logits_hang_on_the_image(name):
    """A golden that another image would fit too shows nothing: two images differ by 100 tolerances or more."""
    one, other = (np.array(v) for v in GOLDENS[name]["logits"].values())
    assert np.abs(one - other).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_parameter_count_equals_torch(name):
    config = catalog.default_config(name, catalog.get(name))
    assert tally.parameters(tally.tally(config)) == GOLDENS[name]["parameters"]


@pytest.mark.parametrize("name", KERAS)
def test_logits_and_counts_equal_keras_applications(name):
    ours = seeded_model(name)
    values = to_theirs(checkpoint.arrays(ours), config_of(ours).spec, keras_applications.FORMAT)
    module = keras.applications.resnet_v2 if name.endswith("v2") else keras.applications.resnet
    for size in (64, 75):
        theirs = getattr(keras.applications, KERAS[name])(
            weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
        )
        checkpoint.assign(theirs, values)
        image = seeded.image(size)
        expected = np.asarray(theirs(module.preprocess_input(image.astype("float32")), training=False))
        pre = keras_applications.preprocess(config_of(ours).spec)
        ours_pre = seeded_with_preprocess(ours, pre)
        np.testing.assert_allclose(np.asarray(ours_pre(image, training=False)), expected, rtol=0, atol=TOLERANCE)
    assert ours.count_params() == theirs.count_params()


def seeded_with_preprocess(model, pre):
    from keras_cnn.graph import assemble

    new = assemble(config_of(model).with_(preprocess=pre))
    checkpoint.assign(new, checkpoint.arrays(model))
    return new
