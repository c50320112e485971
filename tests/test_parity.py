"""Every variant gives the logits of the implementation that defines it, on weights seeded by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import foreign
import keras
import numpy as np
import pytest
import seeded
from variants import IMAGES, VARIANTS

import keras_cnn as kc
from keras_cnn.checkpoints import arrays, convert
from keras_cnn.checkpoints.convert import keras_applications, timm, torchvision
from keras_cnn.checkpoints.convert.rename import to_theirs
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.models import registry, shapes
from keras_cnn.models.assemble import assemble
from keras_cnn.models.config import IMAGENET_STD
from keras_cnn.models.heads import Head

pytestmark = pytest.mark.large_graphs

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "logits.json").read_text())
TORCHVISION = json.loads((Path(__file__).parent / "goldens" / "torchvision.json").read_text())
TOLERANCE = 1e-4  # absolute, float32
# Ours to the functions of keras.applications, and the modules with their preprocessing.
KERAS = {
    "keras_resnet50": ("ResNet50", "resnet"),
    "keras_resnet101": ("ResNet101", "resnet"),
    "keras_resnet152": ("ResNet152", "resnet"),
    "keras_resnet50v2": ("ResNet50V2", "resnet_v2"),
    "keras_resnet101v2": ("ResNet101V2", "resnet_v2"),
    "keras_resnet152v2": ("ResNet152V2", "resnet_v2"),
    **{f"tf_efficientnet_b{n}": (f"EfficientNetB{n}", "efficientnet") for n in range(8)},
    **{
        f"tf_efficientnetv2_{n}": (f"EfficientNetV2{n.upper()}", "efficientnet_v2")
        for n in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    "inception_v3": ("InceptionV3", "inception_v3"),
    "inception_resnet_v2": ("InceptionResNetV2", "inception_resnet_v2"),
}
SMALL = re.compile(r"keras_resnet50(v2)?|inception_v.|tf_efficientnet_b0|tf_efficientnetv2_b0|efficientnet_b0")


def default_or_slow(names):
    return [n if SMALL.fullmatch(n) else pytest.param(n, marks=pytest.mark.slow) for n in names]


def assert_logits(model, name: str, golden: dict):
    """An even size, an odd one, and an image inverted."""
    for which, image in seeded.images(name).items():
        logits, expected = np.asarray(model(image, training=False))[0], golden["logits"][which]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE, err_msg=f"{name}, {which}")


# Ours alone: the stem of the CIFAR nets before the blocks of resnet18, which have references each. What its weights
# answer is held to their card by test_card.py.
OWN = {"resnet18_half"}


def test_every_variant_has_a_reference():
    assert GOLDENS.keys() | KERAS.keys() | OWN == set(IMAGES)


def seeded_model(name):
    model = kc.build(name, input_shape=(None, None, 3), head=seeded.head(name, 10))
    shapes = {key: tuple(v.shape) for key, v in arrays.variables(model).items()}
    arrays.assign(model, seeded.arrays(shapes, GOLDENS[name]["gain"]))
    return model


@pytest.mark.parametrize("name", [v for v in VARIANTS if (v if isinstance(v, str) else v.values[0]) in GOLDENS])
def test_logits_equal_torch(name):
    assert_logits(seeded_model(name), name, GOLDENS[name])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "inception_v3"])
def test_golden_logits_depend_on_the_image(name):
    """A golden that another image would fit too shows nothing."""
    model = seeded_model(name)
    for which, image in seeded.images(name).items():
        logits = np.asarray(model(image, training=False))[0]
        others = [golden for other, golden in GOLDENS[name]["logits"].items() if other != which]
        assert min(np.abs(logits - other).max() for other in others) > 100 * TOLERANCE
        for changed in (image[..., ::-1], image[:, ::-1], image[:, :, ::-1]):  # colours, rows, columns
            other = np.asarray(model(np.ascontiguousarray(changed), training=False))[0]
            assert np.abs(logits - other).max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_of_different_images_differ(name):
    """What the test above shows for a network of each family holds for the file itself."""
    even, odd, inverted = (np.array(v) for v in GOLDENS[name]["logits"].values())
    assert min(np.abs(even - inverted).max(), np.abs(even - odd).max()) > 100 * TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_parameter_count_equals_torch(name):
    config = registry.get(name).with_(head=seeded.head(name, registry.get(name).head.classes))
    assert shapes.parameters(shapes.tally(config)) == GOLDENS[name]["parameters"]


def undecided(name, gain=1.0):
    """A variant's configuration for any size, and its seeded weights."""
    config = registry.get(name).at((None, None, 3)).with_(head=Head(classes=10, activation=None))
    return config, seeded.arrays(shapes.variables(shapes.tally(config)), gain)


def through_a_file(state, config):
    """Our network as it comes out of a source's arrays, which say themselves whose they are."""
    found, values = convert.convert(state, config, source=config.architecture)
    model = assemble(found.with_(head=config.head))
    arrays.assign(model, values)
    return model


@pytest.mark.parametrize("name", default_or_slow(KERAS))
def test_logits_equal_keras_applications(name):
    """From raw pixels, preprocessing included, with all arrays of both sides, at an even and an odd size.

    With weights=None an EfficientNet V1 divides by the root of the stored variance; with the published weights, which
    store the standard deviation there, by that root twice. Given the variance itself, the former is the latter.
    """
    make, module = (getattr(keras.applications, n) for n in KERAS[name])
    (config, values), fmt = undecided(name), keras_applications.FORMAT
    sizes = (96, 107) if name.startswith("inception") else (64, 75)
    sees = config.with_(preprocess=fmt.preprocess(config.backbone, {}))
    values = foreign.lively(values, sees, sizes)
    values = foreign.without_gammas(values) if "gamma" in fmt.constants(config.backbone) else values
    state = to_theirs(values, config.backbone, fmt)
    ours = through_a_file(state, config)
    for size in sizes:
        theirs = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
        foreign.fill(theirs, state, config_of(ours).backbone, pixel_variance=tuple(s * s for s in IMAGENET_STD))
        image = seeded.image(size)
        expected = theirs(module.preprocess_input(image.astype("float32")), training=False)
        np.testing.assert_allclose(ours(image, training=False), expected, rtol=0, atol=TOLERANCE)
        other = theirs(module.preprocess_input(255.0 - image), training=False)
        assert np.abs(np.subtract(expected, other)).max() > 100 * TOLERANCE, "any image would give these logits"


@pytest.mark.parametrize("name", default_or_slow(TORCHVISION))
def test_logits_and_counts_equal_torchvision(name):
    """Its EfficientNets go by names and an epsilon of their own; its Inception turns ImageNet statistics to -1..1."""
    golden = TORCHVISION[name]
    config, values = undecided(name, golden["gain"])
    fmt = torchvision.FORMAT if config.backbone.family == "EfficientNet" else timm.FORMAT
    ours = through_a_file(to_theirs(values, config.backbone, fmt), config)
    assert_logits(ours, name, golden)
    config = registry.get(name)
    assert shapes.parameters(shapes.tally(config)) == golden["parameters"]
