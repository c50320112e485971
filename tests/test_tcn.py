"""Temporal convolutional networks: causality, receptive field, parity with keras-tcn, heads, and what is refused."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec, ReachWarning, UnknownOption
from keras_cnn.models import registry, shapes
from keras_cnn.models.families.tcn import TCN, doubling, reach
from keras_cnn.models.hints import HINTS
from keras_cnn.models.registry import config_from_dict
from keras_cnn.models.sequence_heads import SequenceHead

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "tcn.json").read_text())
# Configurations of keras-tcn's layer, in its own words; the first is its default at a small size.
REFERENCES: dict[str, dict] = {
    "default": {"nb_filters": 8, "dilations": [1, 2, 4]},
    "batch norm": {"nb_filters": 8, "dilations": [1, 2, 4], "use_batch_norm": True, "use_skip_connections": False},
    "layer norm": {
        "nb_filters": [4, 8],
        "dilations": [1, 4],
        "kernel_size": 2,
        "use_layer_norm": True,
        "use_skip_connections": False,
    },
    "two stacks, centred": {"nb_filters": 8, "dilations": [1, 2], "nb_stacks": 2, "padding": "same"},
}


def backbone(theirs: dict) -> TCN:
    """Our network of one of keras-tcn's configurations."""
    widths, stacks = theirs["nb_filters"], theirs.get("nb_stacks", 1)
    norm = "batch" if theirs.get("use_batch_norm") else "layer" if theirs.get("use_layer_norm") else "none"
    return TCN(
        widths=tuple(widths) if isinstance(widths, list) else (widths,),
        kernel=theirs.get("kernel_size", 3),
        dilations=tuple(theirs["dilations"]) * stacks,
        causal=theirs.get("padding") != "same",
        skips=theirs.get("use_skip_connections", True),
        norm=norm,
        norm_eps=1e-3,
    )


def sequence(steps: int = 20, channels: int = 3, count: int = 2) -> np.ndarray:
    return seeded.generator("sequence").standard_normal((count, steps, channels)).astype("float32")


def built(network: TCN, channels: int = 3, **told) -> keras.Model:
    """With seeded weights, standardised by them as well."""
    model = kc.build(
        network, **{"input_shape": (None, channels), "head": SequenceHead(classes=0, pooling=None), **told}
    )
    values = {k: seeded.array(k, tuple(v.shape)) for k, v in arrays.variables(model).items()}
    arrays.assign(model, values | {k: np.abs(v) + 0.5 for k, v in values.items() if k.endswith("/std")})
    return model


def outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


# --- what an output sees ----------------------------------------------------------------------------------------------


@st.composite
def networks(draw) -> TCN:
    causal = draw(st.booleans())
    skips = draw(st.booleans())
    dilations = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    widths = st.integers(3, 5)  # of fewer channels a norm of each step leaves signs alone
    return TCN(
        widths=(draw(widths),) if skips else tuple(draw(widths) for _ in dilations),
        kernel=draw(st.integers(1, 4) if causal else st.sampled_from((1, 3, 5))),
        dilations=dilations,
        causal=causal,
        skips=skips,
        merge=draw(st.sampled_from(("add", "concat"))),
        norm=draw(st.sampled_from(("batch", "layer", "none"))),  # those that keep steps apart
        act="tanh",  # a ReLU may hide a step that is seen
        drop_path_rate=draw(st.sampled_from((0.0, 0.2))),
        spatial_dropout=draw(st.sampled_from((0.0, 0.2))),
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(network=networks())
def test_an_output_sees_the_receptive_field_and_no_later_step(network):
    """By a change of one step: bit-equal where it lies outside, other at the very ends of the field."""
    field = network.receptive_field
    assert field == 1 + 2 * (network.kernel - 1) * sum(network.dilations)
    behind = field - 1 if network.causal else (field - 1) // 2
    ahead = 0 if network.causal else behind
    steps, at = 2 * field + 5, field + 2
    model = built(network)
    x = sequence(steps)
    changed = x.copy()
    changed[:, at] += 3.0
    differs = (outputs(model, x) != outputs(model, changed)).any(axis=(0, 2))
    seen = np.flatnonzero(differs)
    assert (seen.min(), seen.max()) == (at - ahead, at + behind)


@pytest.mark.parametrize(("kernel", "steps"), [(3, 512), (7, 784), (2, 2), (2, 64), (5, 1)])
def test_doubled_dilations_reach_over_the_steps_and_no_fewer_do(kernel, steps):
    found = doubling(kernel, steps)
    assert found == tuple(2**i for i in range(len(found)))
    assert reach(kernel, found) >= steps and (len(found) == 1 or reach(kernel, found[:-1]) < steps)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "the answer is that of the last step, and rests on the last 29 of 512 steps"),
        ({"causal": False}, "rests on the last 15 of 512 steps"),
        (
            {"head": SequenceHead(classes=4, pooling="avg")},
            "each step's features, which are pooled, see 29 of 512 steps",
        ),
    ],
)
def test_a_network_that_does_not_see_the_whole_sequence_says_so_and_what_would(told, sentence):
    whole = {"input_shape": (512, 8), "kernel": 3, "dilations": (1, 2, 4), **told}
    mend = r".* Give dilations=\(1, 2, 4, 8, 16, 32, 64, 128\)"
    with pytest.warns(ReachWarning, match=re.escape(sentence) + mend) as caught:
        kc.build("tcn", **whole)
    assert caught[0].filename == __file__


def test_a_network_that_sees_enough_or_is_asked_for_each_step_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReachWarning)
        kc.build("tcn", input_shape=(29, 8), dilations=(1, 2, 4), classes=2)
        kc.build("tcn", input_shape=(512, 8), dilations=(1, 2, 4), classes=2, task="segmentation")
        kc.build("tcn", input_shape=(None, 8), dilations=(1, 2, 4), classes=2)


def test_info_tells_the_receptive_field():
    told = kc.info("tcn")
    assert (told["receptive_field"], told["causal"]) == (1 + 2 * 2 * 63, True)
    assert "receptive_field" not in kc.info("resnet20")


def test_info_on_the_command_line(run):
    code, out, _ = run("info", "tcn")
    assert code == 0 and "253 steps, none of them later" in out


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_equal_those_of_keras_tcn_on_the_same_weights(name):
    model = built(backbone(REFERENCES[name]))
    x = sequence()
    # The goldens are of the sequence itself: undo what the stem does to it.
    mean, std = (keras.ops.convert_to_numpy(v) for v in model.get_layer("stem_standardise").weights)
    np.testing.assert_allclose(outputs(model, x * std + mean), GOLDENS["outputs"][name], rtol=0, atol=1e-5)


def test_the_blocks_are_those_of_the_paper():
    """1803.01271, figure 1b, computed by NumPy: twice dilated causal convolution and ReLU, a 1x1 shortcut, ReLU."""
    model = built(TCN(widths=(5,), kernel=3, dilations=(2,), norm="none"), channels=2)
    value = {k: keras.ops.convert_to_numpy(v) for k, v in arrays.variables(model).items()}
    x = sequence(12, 2)
    z = (x - value["stem_standardise/mean"]) / value["stem_standardise/std"]

    def conv(z, name):
        kernel, bias = value[f"{name}/kernel"], value[f"{name}/bias"]
        before = np.pad(z, ((0, 0), (2 * (len(kernel) - 1), 0), (0, 0)))
        return sum(before[:, 2 * i : 2 * i + z.shape[1]] @ kernel[i] for i in range(len(kernel))) + bias

    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    branch = relu(conv(relu(conv(z, "stage1_conv1")), "stage1_conv2"))
    shortcut = z @ value["stage1_shortcut_conv/kernel"][0] + value["stage1_shortcut_conv/bias"]
    np.testing.assert_allclose(outputs(model, x), relu(branch + shortcut), rtol=0, atol=1e-5)


# --- the whole network ------------------------------------------------------------------------------------------------

FORECAST = SequenceHead(classes=2, horizon=5, task="regression")
SHAPES = {
    "classes": ({"classes": 4}, (4,)),
    "each step": ({"classes": 4, "task": "segmentation"}, (30, 4)),
    "targets": ({"targets": ["wind", "sun"]}, (2,)),
    "forecast": ({"head": FORECAST}, (5, 2)),
    "features": ({"classes": 0}, (6,)),
    "hidden": ({"head": SequenceHead(classes=3, hidden=(4,), pooling="max", task="multilabel")}, (3,)),
    "mean": ({"head": SequenceHead(classes=3, pooling="avg"), "causal": False, "norm": "group:2"}, (3,)),
}


def small(steps: int | None = 30, **told) -> keras.Model:
    model = kc.build("tcn", **{"input_shape": (steps, 3), "widths": (6,), "dilations": (1, 2, 4, 8), **told})
    values = {k: seeded.array(k, tuple(v.shape)) for k, v in arrays.variables(model).items()}
    arrays.assign(model, values | {k: np.abs(v) + 0.5 for k, v in values.items() if k.endswith("/std")})
    return model


@pytest.mark.parametrize("kind", SHAPES)
def test_every_head_survives_saving_and_is_what_it_was_counted(kind, tmp_path):
    told, shape = SHAPES[kind]
    model, x = small(**told), sequence(30)
    found = outputs(model, x)
    assert found.shape == (2, *shape) and found.dtype == "float32" and np.ptp(found) > 0
    config = kc.config_of(model)
    rows = shapes.tally(config)
    assert {k: tuple(v.shape) for k, v in arrays.variables(model).items()} == shapes.variables(rows)
    assert rows[-1].output[1:] == shape
    assert {row.layer: row.output for row in rows}.items() <= {
        layer.name: tuple(layer.output.shape) for layer in model.layers
    }.items()
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    again = kc.build(kc.save_pretrained(model, tmp_path / "net"))
    np.testing.assert_array_equal(outputs(again, x), found)
    model.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(outputs(keras.saving.load_model(tmp_path / "net.keras"), x), found)
    np.testing.assert_array_equal(outputs(kc.build(tmp_path / "net.keras"), x), found)
    assert "sequences (batch, time, 3)" in (tmp_path / "net" / "README.md").read_text()


def test_what_is_published_comes_back(hub, home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    model = small(head=FORECAST)
    kc.publish(kc.save_pretrained(model, tmp_path / "net", provenance={"license": "mit"}), "me/forecast")
    again = kc.build("hf://me/forecast")
    assert kc.config_of(again).head == FORECAST
    np.testing.assert_array_equal(outputs(again, sequence(30)), outputs(model, sequence(30)))


def test_any_length_is_taken_where_time_is_open():
    free, fixed = small(None, classes=3), small(30, classes=3)
    assert free.input_shape == (None, None, 3)
    np.testing.assert_array_equal(outputs(free, sequence(30)), outputs(fixed, sequence(30)))
    assert outputs(free, sequence(1)).shape == outputs(free, sequence(101)).shape == (2, 3)


def test_a_forecast_is_in_the_unit_of_the_data():
    model, x = small(head=FORECAST), sequence(30)
    plain = keras.Model(model.input, model.get_layer("head_steps").output)
    mean, std = (keras.ops.convert_to_numpy(v) for v in model.get_layer("head_unit").weights)
    np.testing.assert_allclose(outputs(model, x), outputs(plain, x) * std + mean, rtol=1e-6)


@pytest.mark.parametrize("verb", [kc.train, kc.fine_tune])
def test_channels_are_standardised_as_in_the_training_data_alone(verb):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(24, 12, 2)) * [1, 100] + [0, 7]).astype("float32")
    y = np.arange(24) % 2
    model = kc.build("tcn", input_shape=(12, 2), classes=2, widths=(4,), dilations=(1, 2))
    told = {"schedule": "all"} if verb is kc.fine_tune else {}
    verb(model, x, y, validation_data=(x + 50, y), epochs=1, verbose=0, **told)
    layer = model.get_layer("stem_standardise")
    np.testing.assert_allclose(layer.mean.numpy(), x.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.std.numpy(), x.std((0, 1)), rtol=1e-4)


def test_weights_start_another_head_and_another_task(tmp_path):
    kc.save_pretrained(model := small(classes=4), tmp_path / "net")
    for told, shape in [({"classes": 2}, (2, 2)), ({"head": FORECAST}, (2, 5, 2)), ({"targets": 3}, (2, 3))]:
        again = kc.build(tmp_path / "net", **told)
        assert outputs(again, sequence(30)).shape == shape
        key = "stage3_conv1/kernel"
        np.testing.assert_array_equal(arrays.arrays(again)[key], arrays.arrays(model)[key])
    file = tmp_path / "net" / "model.safetensors"
    again = kc.build(kc.config_of(model), weights=file)
    np.testing.assert_array_equal(outputs(again, sequence(30)), outputs(model, sequence(30)))


def test_a_horizon_makes_a_forecast_and_another_one_a_new_head(tmp_path):
    model = small(targets=["wind", "sun"], horizon=5)
    assert kc.config_of(model).head == FORECAST and kc.config_of(model).class_names == ("wind", "sun")
    kc.save_pretrained(model, tmp_path / "net")
    assert kc.build(tmp_path / "net").output_shape == (None, 5, 2)
    assert kc.build(tmp_path / "net", horizon=7).output_shape == (None, 7, 2)
    assert kc.build(tmp_path / "net", horizon=0).output_shape == (None, 2)
    assert kc.build(tmp_path / "net", task="classification", classes=3).output_shape == (None, 3)
    with pytest.raises(BadSpec, match="horizon=5: a forecast is of sequences"):
        kc.build("resnet20", horizon=5)


def test_concatenation_starts_as_the_sum(tmp_path):
    model = small(classes=4)
    again = kc.build(kc.save_pretrained(model, tmp_path / "net"), merge="concat")
    np.testing.assert_allclose(outputs(again, sequence(30)), outputs(model, sequence(30)), rtol=0, atol=1e-5)


def test_stages_are_frozen_cut_and_counted_as_those_of_images():
    model = small(classes=4, freeze="stage2")
    assert list(kc.stages(model)) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert {layer.name.split("_")[0] for layer in model.layers if layer.trainable_weights} == {
        "stage3",
        "stage4",
        "head",
    }
    assert kc.features(model, "stage2").output_shape == (None, 30, 6)
    maps = shapes.feature_maps(kc.config_of(model).backbone, 3)
    assert maps == {"stem": (3, 1), **{f"stage{s}": (6, 1) for s in (1, 2, 3, 4)}}
    before = arrays.arrays(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(sequence(30, count=8), np.arange(8) % 4, verbose=0)
    after = arrays.arrays(model)
    changed = {key.split("_")[0] for key, value in after.items() if (value != before[key]).any()}
    assert changed == {"stage3", "stage4", "head"}
    assert kc.profile(model).keys() == kc.stages(model).keys()


def test_it_learns_what_lies_far_back():
    """The class is the sign of the first step: what the last step sees, through all blocks."""
    keras.utils.set_random_seed(1)
    x = sequence(29, 1, 256)
    model = kc.build("tcn", input_shape=(29, 1), classes=2, dilations=(1, 2, 4), widths=(16,))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, (x[:, 0, 0] > 0).astype(int), epochs=30, batch_size=64, verbose=0)
    assert history.history["accuracy"][-1] > 0.95


def test_half_precision_keeps_input_and_output_in_float32(precision):
    precision("mixed_float16")
    model = small(head=FORECAST)
    kinds = [
        model.get_layer(name).compute_dtype for name in ("stem_standardise", "stage1_conv1", "head_logits", "head_unit")
    ]
    assert kinds == ["float32", "float16", "float32", "float32"]
    assert outputs(model, sequence(30)).dtype == "float32"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            {"kernel": 2, "causal": False},
            "kernel=2 with causal=False: a window of an even number of steps has no centre",
        ),
        ({"norm": "instance"}, "norm='instance' with causal=True takes its statistics over all steps, later ones too"),
        ({"norm": "group:2"}, "norm='group:2' with causal=True"),
        ({"widths": (8, 8)}, "widths has 2 entries and dilations 6: give a width for each block"),
        ({"widths": (8, 4), "dilations": (1, 2), "skips": True}, "skips=True adds up all blocks, whose widths differ"),
        ({"dilations": ()}, "blocks, the entries of dilations=0"),
        ({"dilations": (1, 0)}, "dilations=(1, 0): give numbers from 1"),
        ({"spatial_dropout": 1.0}, "spatial_dropout=1.0: give a probability"),
        ({"output_stride": 16}, "output_stride: a TCN has no strides"),
        ({"depths": (2, 2)}, "TCN has no depths."),
        ({"kernal": 5}, "build has no option 'kernal': did you mean 'kernel'?"),
        ({"dropout": 0.1}, "build has no option 'dropout': write drop_rate="),
        ({"input_shape": (64, 64, 3)}, "input_shape=(64, 64, 3): give (time, channels); time may be None."),
        ({"input_shape": (None, None)}, "input_shape=(None, None): give (time, channels)"),
        ({"head": kc.Head(classes=2)}, "TCN reads sequences, and a Head answers for images"),
    ],
)
def test_bad_values_are_one_sentence(told, sentence):
    with pytest.raises((BadSpec, UnknownOption), match=re.escape(sentence)):
        kc.build("tcn", **{"input_shape": (32, 2), **told})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"horizon": 3}, "horizon=3 with task='classification' and 2 targets: a forecast is a regression"),
        ({"horizon": -1}, "horizon=-1: give a number from 0"),
        ({"pooling": "first"}, "pooling='first': choose one of 'last', 'avg', 'max', None."),
        ({"horizen": 3}, "SequenceHead has no option 'horizen': did you mean 'horizon'?"),
    ],
)
def test_bad_values_of_a_head(values, sentence):
    with pytest.raises((BadSpec, UnknownOption), match=re.escape(sentence)):
        SequenceHead(**{"classes": 2, **values})


def test_networks_for_images_refuse_sequences():
    with pytest.raises(BadSpec, match=r"ResNet reads images, and a SequenceHead answers for sequences: .* kc\.Head"):
        kc.build("resnet20", head=SequenceHead(classes=2))
    with pytest.raises(BadSpec, match=re.escape("ResNet has no kernel.")):
        kc.build("resnet20", kernel=3)


def test_weights_refuse_other_channels(tmp_path):
    kc.save_pretrained(small(classes=2), tmp_path / "net")
    with pytest.raises(BadSpec, match=r"these weights read 3 channels, each with its own meaning"):
        kc.build(tmp_path / "net", input_shape=(30, 4))


def test_no_number_of_a_family_hides_a_hint():
    """What people write who come from elsewhere is still told, whatever numbers the families have."""
    assert not registry.numbers() & HINTS["build"].keys()
