"""merge="none" leaves the shortcuts out, and nothing else: the plain network of He et al. (1512.03385, section 3.3)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import seeded
from keras import layers

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec
from keras_cnn.models import assemble, registry, shapes

MOST = ["resnet18", "resnet26d", "resnet50", "resnetv2_18", "keras_resnet50v2", "efficientnet_b0"]
JOINS = ("_add", "_fuse", "_scale")


def shapes_of(model):
    return {key: tuple(v.shape) for key, v in arrays.variables(model).items()}


def by_hand(widths=(16, 32, 64), blocks=3):
    """3x3 convolutions one behind the other, as the paper's figure 3 has them in the middle."""
    stack = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), *convolution(widths[0], 1)]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stack += [*convolution(width, 2 if stage and not block else 1), *convolution(width, 1)]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def convolution(width, stride):
    pad = [layers.ZeroPadding2D(1)] if stride > 1 else []
    conv = layers.Conv2D(width, 3, stride, "valid" if pad else "same", use_bias=False)
    return [*pad, conv, layers.BatchNormalization(epsilon=1e-5), layers.ReLU()]


def test_a_plain_cifar_net_is_a_stack_of_convolutions():
    preprocess = kc.Preprocess(mean=(0, 0, 0), std=(1, 1, 1), size=(32, 32))
    ours = kc.build("resnet20", merge="none", classifier_activation=None, preprocess=preprocess)
    arrays.assign(ours, seeded.arrays(shapes_of(ours)))
    stack = by_hand()
    stack.set_weights(ours.get_weights())
    image = seeded.image(32)
    np.testing.assert_allclose(*(np.asarray(m(image, training=False)) for m in (ours, stack)), rtol=1e-4, atol=1e-4)
    assert ours.count_params() == kc.build("resnet20").count_params()  # its shortcuts have no weights


@pytest.mark.large_graphs
@pytest.mark.parametrize("name", [*MOST, "inception_resnet_v1"])
def test_only_shortcuts_are_left_out(name, monkeypatch):
    monkeypatch.setitem(assemble.STARTS, "he", keras.initializers.Zeros)
    config = registry.get(name)
    plain = config.with_(backbone=config.backbone.with_(merge="none"))
    model = assemble.assemble(plain)
    assert shapes_of(model) == shapes.variables(shapes.tally(plain))
    lost = shapes.variables(shapes.tally(config)).keys() - shapes_of(model).keys()
    assert all("_shortcut_" in key for key in lost) and shapes_of(model).keys() <= shapes_of(kc.build(config)).keys()
    assert not [layer.name for layer in model.layers if layer.name.endswith(JOINS) or "_shortcut_" in layer.name]


def test_a_plain_tcn_has_no_shortcuts():
    model = kc.build("tcn", input_shape=(16, 2), classes=2, widths=(8, 4), dilations=(1, 4), merge="none")
    assert not [layer.name for layer in model.layers if layer.name.endswith(JOINS) or "_shortcut_" in layer.name]


def test_every_block_of_a_plain_network_lets_something_through_from_the_start():
    """Residual branches start at 0; a plain block that did would give the same for all images."""
    image = np.concatenate([seeded.image(32), 255 - seeded.image(32)])
    for name in ("resnet20", "efficientnet_b0"):
        features = kc.build(name, input_shape=(32, 32, 3), classes=0, merge="none")(image, training=True)
        assert np.ptp(np.asarray(features), axis=0).max() > 1e-2


def test_a_plain_network_is_kept_with_its_configuration(tmp_path):
    model = kc.build("resnet20", merge="none", classes=3)
    again = kc.build(kc.save_pretrained(model, tmp_path / "net"))
    assert kc.config_of(again).backbone.merge == "none"
    np.testing.assert_array_equal(*(np.asarray(m(seeded.image(32))) for m in (model, again)))


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("resnet20", {"merge": "none", "drop_path_rate": 0.1}, "merge='none' leaves out: leave it at 0"),
        ("inception_v3", {"merge": "none"}, "Inception has no shortcuts"),
        ("inception_v4", {"merge": "concat"}, "Inception has no shortcuts"),
        ("resnet20", {"merge": "plain"}, "choose one of 'add', 'concat', 'none'"),
    ],
)
def test_where_it_means_nothing_it_is_refused(name, options, told):
    with pytest.raises(BadSpec, match=told):
        kc.build(name, **options)


def test_weights_are_not_read_into_a_network_of_the_other_kind(tmp_path):
    small = {"depths": (1, 1, 1), "classes": 3}
    for merge, other in (("add", "none"), ("none", "add")):
        weights = kc.save_pretrained(kc.build("resnet20", merge=merge, **small), tmp_path / merge)
        with pytest.raises(BadSpec, match=rf"these weights were learnt with merge='{merge}'"):
            kc.build(weights, merge=other)
        assert kc.config_of(kc.build(weights)).backbone.merge == merge
