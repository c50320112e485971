"""Freezing by name and by share, what is told of it beforehand, and the table of what learns."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import sys

import keras
import numpy as np
import pytest
import seeded
from hypothesis import given
from hypothesis import strategies as st

import keras_cnn as kc
from keras_cnn import cli
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec
from keras_cnn.models import naming
from keras_cnn.models.heads import Head
from keras_cnn.transfer.freeze import TrainableRow


@functools.cache
def built(name: str):
    return kc.build(name, input_shape=(16, 16, 3), classes=2) if name == "resnet20" else kc.build(name)


def fresh(name: str = "resnet20"):
    """One network for all tests that look at its flags only, everything trainable."""
    return kc.unfreeze(built(name), bn="train")


def make(**keywords):
    return kc.build("resnet20", **{"input_shape": (16, 16, 3), "classes": 2, **keywords})


def flags(model) -> dict[str, bool]:
    return {layer.name: layer.trainable for layer in model.layers}


def frozen(model) -> set[str]:
    """Layers with weights of which none learns."""
    return {layer.name for layer in model.layers if layer.weights and not layer.trainable_weights}


def weighted(model) -> list[str]:
    return [layer.name for layer in model.layers if layer.weights]


def learned(layers) -> int:
    """Keras' own count, without the statistics of batch norm."""
    layers = list(layers)
    statistics = [v for layer in layers for v in layer.weights if "moving_" in v.path]
    return sum(layer.count_params() for layer in layers) - sum(math.prod(v.shape) for v in statistics)


# --- the selection --------------------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["stem", "stage1", "stage2", "head", "aux"]), min_size=1, max_size=12)
SHARES = st.floats(0, 1, exclude_min=True)


@st.composite
def sizes(draw) -> dict[str, int]:
    """Layers of any size, some without weights, in any order of stages."""
    return {f"{stage}_layer{i}": draw(st.integers(0, 10**9)) for i, stage in enumerate(draw(NAMES))}


def backbone(sizes: dict[str, int]) -> list[str]:
    return [name for name in sizes if not name.startswith(("head_", "aux_"))]


def held(sizes: dict[str, int], names) -> int:
    return sum(sizes[name] for name in names)


@given(sizes=sizes(), fraction=SHARES)
def test_a_share_is_the_longest_run_of_layers_within_it(sizes, fraction):
    layers = backbone(sizes)
    most = fraction * held(sizes, layers)
    lower = naming.lower(sizes, fraction=fraction)
    upper = naming.upper(sizes, fraction=fraction)
    assert upper >= sizes.keys() - set(layers)
    for run, order in ((lower, layers), (upper & set(layers), layers[::-1])):
        assert run == set(order[: len(run)]) and held(sizes, run) <= most
        assert len(run) == len(order) or held(sizes, order[: len(run) + 1]) > most


@given(sizes=sizes(), one=SHARES, other=SHARES)
def test_a_greater_share_selects_no_less(sizes, one, other):
    less, more = sorted((one, other))
    for select in (naming.lower, naming.upper):
        assert select(sizes, fraction=less) <= select(sizes, fraction=more)


@given(sizes=sizes())
def test_the_whole_share_is_the_default(sizes):
    assert naming.lower(sizes, fraction=1) == naming.lower(sizes) == set(backbone(sizes))
    assert naming.upper(sizes, fraction=1) == naming.upper(sizes) == set(sizes)


@given(sizes=sizes(), data=st.data())
def test_below_and_above_a_stage_are_all_and_do_not_overlap(sizes, data):
    stage = data.draw(st.sampled_from(naming.stages(sizes)))
    below, above = naming.lower(sizes, stage), naming.upper(sizes, stage)
    assert below | above == set(sizes) and not below & above
    assert any(name.startswith(f"{stage}_") for name in below)


# --- freeze and unfreeze --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["stage[12]_.*", ".*_norm.*", "stem_conv", "(stem|stage3)_.*", ".*_logits|stage1_block"]
)
def test_freeze_by_name_is_exactly_what_matches(pattern):
    model = fresh()
    model.get_layer("stage2_block2_conv1").trainable = False  # stays so, whatever is asked
    before = flags(model)
    assert kc.freeze(model, match=pattern) is model
    assert flags(model) == {name: flag and not re.fullmatch(pattern, name) for name, flag in before.items()}
    kc.freeze(model, "head")
    kc.unfreeze(model, match=pattern, bn="train")
    assert set(weighted(model)) - frozen(model) == {name for name in weighted(model) if re.fullmatch(pattern, name)}
    assert not model.get_layer("stem_preprocess").trainable


@pytest.mark.parametrize("fraction", [1e-4, 0.1, 0.25, 0.5, 0.9, 0.9999])
def test_freeze_by_share_is_within_it_and_misses_no_layer_that_fits(fraction):
    model = kc.freeze(fresh(), fraction=fraction)
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    assert layers.pop("head_logits").trainable
    held = sum(learned([layers[name]]) for name in frozen(model))
    next_up = next((layer for name, layer in layers.items() if name not in frozen(model)))
    assert held <= fraction * learned(layers.values()) < held + learned([next_up])


@pytest.mark.parametrize("name", ["resnet20", "inception_v3"])
def test_the_whole_share_of_a_network_is_the_default(name):
    def after(change, *arguments, **keywords):
        return flags(change(fresh(name), *arguments, **keywords))

    assert after(kc.freeze, fraction=1) == after(kc.freeze) == after(kc.freeze, fraction=1.0)
    for bn in ("train", "frozen"):
        default = flags(kc.unfreeze(kc.freeze(fresh(name), "head"), bn=bn))
        assert flags(kc.unfreeze(kc.freeze(fresh(name), "head"), fraction=1.0, bn=bn)) == default
    assert any(default.values()) and not all(default.values())


def test_unfreeze_by_share_takes_the_head_and_the_uppermost_layers():
    model = kc.unfreeze(kc.freeze(fresh(), "head"), fraction=0.3, bn="train")
    block = {f"stage3_block3_{layer}" for layer in ("conv1", "norm1", "conv2", "norm2")}  # 0.275 of the backbone
    assert set(weighted(model)) - frozen(model) == {"stage3_block2_norm2", *block, "head_logits"}


@pytest.mark.parametrize("way", [{"match": "(stage3|head)_.*"}, {"fraction": 0.9}])
def test_batch_norm_of_what_is_unfrozen_may_stay(way):
    model = kc.unfreeze(kc.freeze(make(head=Head(classes=2, embedding=8)), "head"), bn="frozen", **way)
    *_, stage3, head = kc.trainable_table(model)
    assert stage3.trainable == learned(layer for layer in kc.stages(model)["stage3"] if "norm" not in layer.name)
    assert (stage3.batchnorm, head.batchnorm) == ("frozen", "train")


@pytest.mark.parametrize("way", [{"upto": "stage2"}, {"match": "stage[12]_.*"}, {"fraction": 0.5}], ids=str)
def test_what_is_frozen_does_not_move_by_a_bit(way):
    model = make()
    arrays.assign(model, seeded.arrays({k: tuple(v.shape) for k, v in arrays.variables(model).items()}))
    still = frozen(kc.freeze(model, **way))
    before = arrays.arrays(model)
    labels = np.arange(16) % 2
    images = (labels[:, None, None, None] * 200 + np.zeros((16, 16, 16, 3))).astype("uint8")
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=8, epochs=1, verbose=0)
    moved = {key for key, value in arrays.arrays(model).items() if not np.array_equal(value, before[key])}
    layer = lambda key: key.partition("/")[0]  # noqa: E731
    assert not still & set(map(layer, moved))
    norms = {f"{name}/{part}" for name in still for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert len(norms & before.keys()) >= 4 * 12
    assert moved >= {key for key in before if "norm" in key and layer(key) not in still}  # all others do


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["stage1", "head", "stage[12]_.*conv.*", 0.6])
def test_the_table_counts_what_keras_counts(what):
    model = kc.freeze(fresh(), **naming.parse(what))
    table = kc.trainable_table(model)
    assert [row.stage for row in table] == list(kc.stages(model))
    for row, layers in zip(table, kc.stages(model).values(), strict=True):
        assert row.layers == sum(bool(layer.weights) for layer in layers)
        assert row.parameters == learned(layers)
    statistics = 2 * sum(layer.gamma.shape[0] for layer in model.layers if "norm" in layer.name)
    assert table.total.parameters == model.count_params() - statistics
    assert table.total.trainable == sum(int(keras.ops.size(v)) for v in model.trainable_weights)
    assert table.total.layers == len(weighted(model))


def test_the_state_of_batch_norm():
    model = kc.freeze(kc.freeze(fresh(), "stage1"), match="stage2_block1_norm1")
    table = kc.trainable_table(model)
    assert [row.batchnorm for row in table] == ["frozen", "frozen", "mixed", "train", ""]
    assert table.total.batchnorm == "mixed"
    assert table[0] == TrainableRow("stem", 2, 3 * 3 * 3 * 16 + 2 * 16, 0, "frozen")
    assert kc.trainable_table(fresh()).total.batchnorm == "train"
    groups = kc.trainable_table(make(norm="group:4"))
    assert {row.batchnorm for row in (*groups, groups.total)} == {""}
    assert groups.total.parameters == groups.total.trainable == kc.trainable_table(fresh()).total.parameters


def test_the_table_of_a_saved_model_is_that_of_the_model(tmp_path):
    model = kc.freeze(fresh(), fraction=0.4)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert kc.trainable_table(again) == kc.trainable_table(model)
    assert str(kc.trainable_table(again)) == str(kc.trainable_table(model))
    assert kc.trainable_table(kc.replace_head(model, Head(classes=7)))[:-1] == kc.trainable_table(model)[:-1]
    assert frozen(kc.freeze(again, fraction=0.7)) == frozen(kc.freeze(fresh(), fraction=0.7))


# --- told beforehand ------------------------------------------------------------------------------------------------

WHATS = [None, "stem", "stage3", "head", "stage[12]_.*", ".*_norm.*", *[round(0.1 * i, 1) for i in range(1, 11)]]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "inception_v3"])
def test_info_tells_what_would_learn(name):
    for what in WHATS:
        model = fresh(name) if what is None else kc.freeze(fresh(name), **naming.parse(what))
        table, facts = kc.trainable_table(model), kc.info(name, what)
        assert {row.stage: row.trainable for row in table} == {k: v["trainable"] for k, v in facts["profile"].items()}
        assert {row.stage: row.parameters for row in table} == {k: v["parameters"] for k, v in facts["profile"].items()}
        assert (table.total.trainable, table.total.parameters) == (facts["trainable"], facts["parameters"])


def test_the_whats_of_the_test_above_differ():
    told = [kc.info("inception_v3", what)["trainable"] for what in WHATS[:-1]]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("what", "way"),
    [
        (0.5, {"fraction": 0.5}),
        ("0.5", {"fraction": 0.5}),
        (1, {}),
        ("stage2", {"upto": "stage2"}),
        ("stage[12]_.*", {"match": "stage[12]_.*"}),
    ],
)
def test_build_takes_the_same(what, way):
    model = make(freeze=what)
    assert flags(model) == flags(kc.freeze(fresh(), **way))
    assert any(flags(model).values())


@pytest.fixture
def info(monkeypatch, capsys):
    """`keras-cnn info` in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keras-cnn", "info", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
            raise SystemExit
        return (int(stopped.value.code or 0), *capsys.readouterr())

    return call


def test_info_shows_the_column(info):
    for options, shares in (
        ([], ["9.54 k", "147.97 k", "525.57 k", "2.10 M", "8.39 M", "513.00 k", "11.69 M"]),
        (["--freeze", "stage2"], ["0", "0", "0", "2.10 M", "8.39 M", "513.00 k", "11.01 M"]),
    ):
        code, out, err = info("resnet18", *options)
        assert (code, err) == (0, "")
        table = list(itertools.dropwhile(lambda line: not line.startswith("stage "), out.splitlines()))[:8]
        assert [re.split(r" {2,}", line.strip())[-1] for line in table] == ["trainable", *shares]
    code, out, _ = info("resnet18", "--freeze", "0.3", "--json")
    told = json.loads(out)
    del told["scaled"]
    assert told == json.loads(json.dumps(kc.info("resnet18", 0.3))) and told["trainable"] < told["parameters"]


# --- saying no ------------------------------------------------------------------------------------------------------

BAD = {
    "stage9": "there is no stage 'stage9': this network has stem, stage1, stage2, stage3, head.",
    "stage[": r"'stage[' is not a regular expression (unterminated character set at position 5): layers are named",
    "stage9_.*": "'stage9_.*' matches no layer with weights: layers are named like stem_conv, stage2_block",
    ".*_act1": "'.*_act1' matches no layer with weights: layers are named like stem_conv, stage2_block",
    "": "'' matches no layer with weights",
    "0": "0 is no share of the parameters: give a number above 0 and at most 1.",
    "1.01": "1.01 is no share of the parameters",
    "-0.5": "-0.5 is no share of the parameters",
    "nan": "nan is no share of the parameters",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_value_is_one_sentence(info, what):
    code, out, err = info("resnet20", "--freeze", what)
    assert (code, out) == (2, "") and err.startswith(f"error: {BAD[what]}") and err.count("\n") == 1
    for change in (kc.freeze, kc.unfreeze):
        way = naming.parse(what)
        with pytest.raises(BadSpec, match=re.escape(BAD[what])):
            change(fresh(), way.pop("upto", None), **way)
    assert not frozen(fresh())


def test_build_says_no_in_the_same_words():
    for what in (0, -1.0, False, "stage9_.*", "stage9"):
        with pytest.raises(BadSpec, match=r"no share of the parameters|matches no layer|no stage 'stage9'"):
            make(freeze=what)


@pytest.mark.parametrize("ways", list(itertools.combinations(["stage", "match", "fraction"], 2)))
def test_one_way_at_a_time(ways):
    values = {"stage": "stage1", "match": "stem_.*", "fraction": 0.5}
    for change, stage in ((kc.freeze, "upto"), (kc.unfreeze, "above")):
        given = {stage if way == "stage" else way: values[way] for way in ways}
        with pytest.raises(BadSpec, match=rf"^{' and '.join(given)} are given: select by one of {stage}, match, frac"):
            change(fresh(), **given)
