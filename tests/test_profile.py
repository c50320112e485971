"""Costs: the profile of a Keras model is the tally of its Config, and both are the published figures."""

from __future__ import annotations

import keras
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadSpec
from keras_cnn.models import registry, shapes

pytestmark = pytest.mark.large_graphs

# Published multiply-accumulates in billions (timm's results), by network and resolution.
PUBLISHED = {
    ("inception_v3", 299): 5.73,
    ("inception_v4", 299): 12.28,
    ("inception_resnet_v2", 299): 13.18,
    ("resnet18", 224): 1.82,
    ("resnet18", 288): 3.01,
    ("resnet34", 224): 3.67,
    ("resnet34", 288): 6.07,
    ("resnet50", 224): 4.11,
    ("resnet50", 288): 6.80,
    ("resnet50d", 288): 7.19,
    ("resnet50_gn", 288): 6.85,
    ("resnet101", 224): 7.83,
    ("resnet101", 288): 12.95,
    ("resnet152", 224): 11.56,
    ("resnet152", 288): 19.11,
    ("resnet101d", 320): 16.48,
    ("resnet152d", 320): 24.08,
    ("resnet200d", 320): 31.25,
    ("wide_resnet50_2", 288): 18.94,
    ("resnetv2_50", 288): 6.79,
    ("resnetv2_101", 288): 12.94,
    ("efficientnet_b0", 224): 0.40,
    ("efficientnet_b0", 256): 0.52,
    ("efficientnet_b1", 288): 0.97,
    ("efficientnet_b2", 288): 1.12,
    ("efficientnet_b3", 320): 2.01,
    ("efficientnet_b4", 384): 4.51,
    ("efficientnet_b5", 448): 9.59,
    ("tf_efficientnet_b0", 224): 0.40,
    ("tf_efficientnet_b1", 240): 0.71,
    ("tf_efficientnet_b2", 260): 1.02,
    ("tf_efficientnet_b3", 300): 1.87,
    ("tf_efficientnet_b4", 380): 4.49,
    ("tf_efficientnet_b5", 456): 10.46,
    ("tf_efficientnet_b6", 528): 19.40,
    ("tf_efficientnet_b7", 600): 38.33,
    ("tf_efficientnet_b8", 672): 63.48,
    ("tf_efficientnet_l2", 800): 479.12,
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_macs_are_within_one_percent_of_the_published(name, size):
    measured = shapes.macs(shapes.tally(registry.get(name).at((size, size, 3)))) / 1e9
    assert round(measured, 2) == pytest.approx(PUBLISHED[name, size], rel=0.01)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnetv2_18", "resnet20", "efficientnet_b0", "inception_v3", "resnet50_gn"]
)
def test_profile_of_the_model_is_the_tally_of_its_spec(name):
    rows = shapes.tally(registry.get(name))
    measured = [row for group in kc.profile(kc.build(name)).values() for row in group]
    assert shapes.parameters(measured) == shapes.parameters(rows)
    assert shapes.macs(measured) == shapes.macs(rows)
    outputs = {row.layer: row.output for row in measured}
    assert {row.layer: row.output for row in rows}.items() <= outputs.items()


def test_profile_of_any_keras_model():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.SeparableConv2D(4, 3, padding="same", name="one_separable"),
            layers.Conv2DTranspose(3, 2, strides=2, use_bias=False, name="two_up"),
            layers.LayerNormalization(name="two_norm"),
            keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(5, 1, name="three_conv")]),
            layers.GlobalAveragePooling2D(name="four_pool"),
            layers.Dense(7, name="four_dense"),
        ]
    )
    stages = kc.profile(model)
    assert list(stages) == ["one", "two", "three", "four"]
    costs = {stage: shapes.macs(rows) for stage, rows in stages.items()}
    assert costs == {
        "one": 64 * (9 * 2 + 2 * 4),
        "two": 64 * (4 * 4 * 3) + 5 * 16 * 16 * 3,
        "three": 256 * 15,
        "four": 35,
    }
    assert sum(map(shapes.parameters, stages.values())) == model.count_params()
    assert shapes.activations(stages["four"]) == 4 * (5 + 7)


def test_profile_agrees_with_keras_applications():
    theirs = keras.applications.ResNet50(weights=None)
    rows = [row for group in kc.profile(theirs).values() for row in group]
    assert sum(map(lambda row: row.macs, rows)) == pytest.approx(kc.info("keras_resnet50")["macs"], rel=1e-6)


def test_an_open_size_is_asked_for():
    model = kc.build("resnet20", input_shape=(None, None, 3))
    with pytest.raises(BadSpec, match="give input_shape"):
        kc.profile(model)
    assert sum(map(shapes.macs, kc.profile(model, (32, 32, 3)).values())) == kc.info("resnet20")["macs"]


def test_a_layer_of_unknown_cost_is_told():
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, keras.layers.LSTM(3, name="odd_lstm")(inputs))
    with pytest.raises(BadSpec, match="odd_lstm: the cost of a LSTM is not known"):
        kc.profile(model)
