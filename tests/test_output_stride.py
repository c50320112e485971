"""A dilated network gives the features of the undilated one, and others between (DeepLab, 1606.00915, section 3.1).

Where strides have become dilation, outputs lie 32 / output_stride times as densely. Those that the undilated network
has, too, are every so-manieth from a first one on, up to the borders: what lies beyond is zero in both.
"""

from __future__ import annotations

import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec
from keras_cnn.models import registry

SMALL = {
    "resnet": {"depths": (1, 1, 2, 2), "widths": (8, 12, 16, 24), "stem_width": 8},
    "efficientnet": {"width": 0.25, "depth": 0.3},
}


def features(name, stride, size, **options):
    """The last map before the head, and its arrays, by default drawn from their names."""
    head = kc.Head(classes=0, pooling=None)
    options |= {} if "." in name else SMALL["resnet" if "res" in name else "efficientnet"]
    model = kc.build(name, input_shape=(*size, 3), head=head, output_stride=stride, **options)
    if "." not in name:
        shapes = {key: tuple(v.shape) for key, v in arrays.variables(model).items()}
        arrays.assign(model, seeded.arrays(shapes))
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype("float32")
    return np.asarray(model(image, training=False))


def difference(name, stride, size=(96, 64), first=0, **options):
    """The largest, as a share of the largest feature."""
    coarse, fine = (features(name, s, size, **options) for s in (32, stride))
    step = 32 // stride
    assert fine.shape[1] > coarse.shape[1]
    on_grid = fine[:, first::step, first::step]
    assert on_grid.shape == coarse.shape
    return np.abs(on_grid - coarse).max() / np.abs(coarse).max()


EQUAL = 1e-5  # of the largest feature: float32 sums in another order
EVERYWHERE = ["resnet18", "resnet50", "keras_resnet50", "resnetv2_50", "efficientnet_lite0"]


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_features_are_equal_where_the_grids_coincide(name, stride):
    assert difference(name, stride) < EQUAL


@pytest.mark.parametrize("size", [(97, 65), (75, 130)])
def test_maps_of_odd_sizes_are_equal_too(size):
    assert difference("resnet18", 8, size) < EQUAL


@pytest.mark.parametrize("options", [{}, {"merge": "concat"}], ids=["add", "concat"])
def test_pretrained_features_are_equal(options):
    assert difference("resnet18.tiny_in200", 8, (128, 128), **options) < EQUAL


@pytest.mark.parametrize(("stride", "first"), [(16, 1), (8, 3)])
def test_with_the_padding_of_tensorflow_the_grid_starts_later(stride, first):
    """A window of stride 2 on an even map has its odd zero behind: its centre lies at 2i + 1, of two such at 4i + 3."""
    assert difference("tf_efficientnet_lite0", stride, first=first) < EQUAL
    assert difference("tf_efficientnet_lite0", stride) > 0.01


DIFFERENT = {
    "squeeze-and-excitation": ("efficientnet_b0", 16, {}),
    "statistics over positions": ("resnet18", 16, {"norm": "group:4"}),
    "shortcuts that stride from the first position, windows from the second": ("resnet18", 16, {"pad": "same"}),
    "shortcuts averaging two positions of the denser grid": ("resnet18d", 8, {}),
}


@pytest.mark.parametrize(("name", "stride", "options"), DIFFERENT.values(), ids=[*DIFFERENT])
def test_what_depends_on_how_dense_the_grid_is_differs(name, stride, options):
    assert difference(name, stride, **options) > 3 * EQUAL


def test_averaging_shortcuts_are_equal_while_one_stage_is_dilated():
    assert difference("resnet18d", 16) < EQUAL


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2", "tcn", "keras_resnet50v2"])
def test_a_family_that_has_none_says_why(name):
    backbone = registry.get(name).backbone
    why = {
        "Inception": "max-pools, of which Keras has no dilated ones: it takes output_stride=32 only",
        "TCN": "has no strides",
        "ResNet": "where the first block of a stage strides: use resnetv2_50",
    }
    with pytest.raises(BadSpec) as error:
        backbone.with_(output_stride=8)
    assert why[backbone.family.replace("InceptionResNet", "Inception")] in str(error.value)
