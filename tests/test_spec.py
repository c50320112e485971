"""Networks as data: arithmetic, checks of keywords, names, and what is known of a network without building it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cnn as kc
from keras_cnn import errors
from keras_cnn.errors import BadSpec, CorruptFile, UnknownModel
from keras_cnn.hub.resolve import tags
from keras_cnn.models import registry, shapes
from keras_cnn.models.backbone import NORMS, Backbone, check_norm, drop_path_rates, out_size, stage_plan
from keras_cnn.models.config import Config, Input, Preprocess
from keras_cnn.models.heads import Head

ARCHITECTURES = registry.architectures()
R50 = ARCHITECTURES["resnet50"]


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strides", "stem", "output_stride", "plan"),
    [
        ((1, 2, 2, 2), 4, 32, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        ((1, 2, 2, 2), 4, 16, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]),
        ((1, 2, 2, 2), 4, 8, [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]),
        ((1, 2, 2), 1, 32, [(1, 1, 1), (2, 1, 1), (2, 1, 1)]),
        ((1, 2, 2, 2), 1, 8, [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        ((2, 2, 2, 1), 4, 32, [(2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1)]),
    ],
)
def test_stage_plan(strides, stem, output_stride, plan):
    """As worked out by hand from DeepLab's rule."""
    assert stage_plan(strides, stem, output_stride) == plan


def test_drop_path_grows_linearly_over_all_blocks():
    assert list(drop_path_rates(0.3, (1, 2, 1))) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert list(drop_path_rates(0.3, (1,))) == [0]


@given(
    size=st.integers(1, 60),
    window=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
)
def test_out_size_counts_the_windows(size, window, stride, dilation, padding):
    reach = dilation * (window - 1)
    starts = range(0, size, stride) if padding == "same" else range(0, size - reach, stride)
    if padding == "same" or size > reach:
        assert out_size(size, window, stride, padding, dilation) == len(starts)
    assert out_size(None, window, stride, padding, dilation) is None


@pytest.mark.parametrize(
    ("norm", "groups"),
    [("batch", None), ("none", None), ("layer", 1), ("instance", -1), ("group:32", 32), ("group:1", 1)],
)
def test_norm_names(norm, groups):
    assert check_norm(norm) == groups


# --- bad values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["", "Batch", "group", "group:", "group:0", "group:-1", "group:x", "groups:32"])
def test_unknown_norm_lists_the_known_ones(norm):
    with pytest.raises(BadSpec, match=re.escape(f"norm={norm!r}: choose {', '.join(NORMS)}")):
        R50.backbone.with_(norm=norm)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"merge": "mul"}, "merge='mul': choose one of 'add', 'concat', 'none'."),
        ({"output_stride": 4}, "output_stride=4: choose one of 8, 16, 32."),
        ({"pad": "valid"}, "pad='valid': choose one of 'torch', 'same'."),
        ({"pool_pad": "ones"}, "pool_pad='ones': choose one of 'lowest', 'zero'."),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1: give a probability from 0 up to, not including, 1."),
        ({"depth": 3, "colour": 1}, "ResNet has no colour, depth."),
    ],
)
def test_bad_values_of_a_backbone(changes, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        R50.backbone.with_(**changes)


@pytest.mark.parametrize("shape", [(224, 224), (224, 224, None), (0, 224, 3), (2.5, 224, 3), None])
def test_bad_input_shapes(shape):
    with pytest.raises(BadSpec, match=re.escape(f"input_shape={shape}: give (height, width, channels)")):
        R50.at(shape)


def test_a_network_at_another_input_shape_knows_each_fact_once():
    gray = R50.at((None, 96, 1))
    assert (gray.input_shape, gray.channels, gray.preprocess.size) == ((None, 96, 1), 1, (224, 96))
    assert gray.at((64, 32, 3)).input_shape == (64, 32, 3)
    assert not {"input_shape", "size", "classes", "dropout", "drop_rate"} & gray.to_dict()["backbone"].keys()


@pytest.mark.parametrize("name", ["resnet50", "keras_resnet50v2", "inception_v3", "efficientnet_b0", "resnet20"])
def test_stages_tell_channels_and_stride(name):
    """As Keras' graph has them at 512 pixels; without a framework."""
    model, found = kc.build(name, input_shape=(512, 512, 3)), shapes.feature_maps(ARCHITECTURES[name].backbone)
    maps = kc.features(model, list(found)).outputs
    seen = [(x.shape[-1], 2 ** round(math.log2(512 / x.shape[1]))) for x in maps]  # Inceptions cut a border off
    assert seen == list(found.values())
    assert kc.info(name)["features"]["stage2"] == found["stage2"]._asdict()


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (Head, {"classes": -1}, "classes=-1: give the number of classes, or 0"),
        (Head, {"classes": 2, "dropout": 1}, "dropout=1: give a probability"),
        (Head, {"classes": 2, "pooling": "sum"}, "pooling='sum': choose one of 'avg', 'max', None."),
        (Head, {"classes": 2, "pooling": None}, "a classifier needs pooled features"),
        (Head, {"classes": 0, "hidden": (8,)}, "hidden layers without a classifier"),
        (Preprocess, {"crop": 0}, "crop=0: give the share of the image that is kept"),
        (Preprocess, {"crop": 1.01}, "crop=1.01: give the share of the image that is kept"),
        (Preprocess, {"interpolation": "cubic"}, "interpolation='cubic': choose one of 'bicubic'"),
        (Preprocess, {"mode": "border"}, "mode='border': choose one of 'center', 'squash'."),
    ],
)
def test_bad_values_of_a_head_and_a_preprocess(cls, values, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        cls(**values)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"classes": 3, "head": Head(classes=4)}, "3 classes and head.classes=4 disagree"),
        ({"freeze": "stage9"}, "there is no stage 'stage9': this network has stem, stage1, stage2, stage3, head."),
        ({"norm": "group:7"}, "norm='group:7': 7 does not divide the 16 channels of stem_norm."),
        ({"classes": -2}, "classes=-2: give the number of classes"),
    ],
)
def test_bad_keywords_of_build(keywords, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        kc.build("resnet20", **keywords)


def test_dilation_where_the_last_block_strides_is_refused():
    with pytest.raises(BadSpec, match="output_stride works where the first block of a stage strides"):
        ARCHITECTURES["keras_resnet50v2"].backbone.with_(output_stride=16)


def test_every_error_of_ours_is_a_value_error():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    ours = [cls for cls in classes if not issubclass(cls, Warning)]
    assert len(ours) > 5 and all(issubclass(cls, errors.KerasCnnError) for cls in ours)
    assert issubclass(errors.KerasCnnError, ValueError)


# --- preprocessing as data ------------------------------------------------------------------------------------------


def test_preprocess_at_other_channels_and_sizes():
    pre = Preprocess(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3), size=(10, 20))
    gray = pre.for_channels(1)
    assert gray.mean == pytest.approx((0.4,)) and gray.std == pytest.approx((0.2,))
    assert pre.for_channels(3) is pre and len(pre.for_channels(4).std) == 4
    assert pre.at_size((30, 40)).size == (30, 40)
    assert pre.at_size((None, 40)).size == (10, 40) and pre.at_size((10, None)) is pre.at_size((10, 20)) is pre


# --- configurations as JSON -----------------------------------------------------------------------------------------

rates = st.floats(0, 0.9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def refused(backbone) -> set[str]:
    """Fields that a family lets nobody change."""
    inception = {"output_stride", "drop_path_rate"} if "Inception" in backbone.family else set()
    inception |= {"merge"} if backbone.family == "Inception" else set()
    return inception | ({"output_stride"} if getattr(backbone, "stride_last", False) else set())


backbones = st.builds(
    lambda backbone, changes: backbone.with_(**{k: v for k, v in changes.items() if k not in refused(backbone)}),
    st.sampled_from([config.backbone for config in ARCHITECTURES.values() if config.backbone.SIDES == 2]),
    st.fixed_dictionaries(
        {},
        optional={
            "norm": st.sampled_from(["batch", "layer", "instance", "none"]) | st.integers(1, 64).map("group:{}".format),
            "act": st.sampled_from(["relu", "gelu", "silu"]),
            "merge": st.sampled_from(["add", "concat"]),
            "output_stride": st.sampled_from([8, 16, 32]),
            "drop_path_rate": rates,
            "norm_eps": st.floats(1e-9, 1),
        },
    ),
)
heads = st.builds(
    Head,
    classes=st.integers(1, 3) | st.integers(1, 2000),
    hidden=st.lists(st.integers(1, 999), max_size=3),
    dropout=rates,
    pooling=st.sampled_from(["avg", "max"]),
    activation=st.sampled_from(["softmax", None]),
) | st.builds(Head, classes=st.just(0), pooling=st.sampled_from(["avg", None]))
preprocesses = st.builds(
    lambda channels, **others: Preprocess(
        mean=tuple(mean for mean, _ in channels), std=tuple(std for _, std in channels), **others
    ),
    channels=st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 512), st.integers(1, 512)),
    crop=st.floats(0.1, 1),
    mode=st.sampled_from(["center", "squash"]),
)
configs = st.builds(
    lambda head, names, **others: Config(head=head, class_names=names if len(names) == head.classes else (), **others),
    architecture=st.sampled_from(list(ARCHITECTURES)),
    input=st.builds(Input, any_size=st.tuples(st.booleans(), st.booleans())),
    backbone=backbones,
    head=heads,
    preprocess=preprocesses,
    names=st.lists(st.text(max_size=8).filter(str.strip), max_size=3, unique=True).map(tuple),
    provenance=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(config=configs)
def test_config_survives_json(config):
    again = registry.config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and type(again.backbone) is type(config.backbone)


@pytest.mark.parametrize("key", [*R50.to_dict()])
def test_a_configuration_without_a_key_names_it(key):
    values = R50.to_dict()
    del values[key]
    with pytest.raises(CorruptFile, match=f"lacks '{key}'"):
        registry.config_from_dict(values)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("backbone", "family"), "Perceptron", "a family 'Perceptron' that this version does not know: upgrade"),
        (("backbone", "kernel"), 5, "has kernel, which this version does not know: upgrade"),
        (("head", "temperature"), 5, "has temperature, which this version does not know: upgrade"),
        (("backbone", "family"), ["ResNet"], "a family ['ResNet'] that this version does not know: upgrade"),
        (("backbone",), [], "not complete: its backbone is [], not an object."),
        (("backbone",), {"family": "ResNet"}, "not complete: its backbone lacks depths."),
        (("head",), {}, "not complete: its head lacks classes."),
        (("head",), None, "not complete: its head is None, not an object."),
        (("preprocess",), "imagenet", "not complete: its preprocess is 'imagenet', not an object."),
    ],
)
def test_a_configuration_of_another_kind_is_refused(place, value, sentence):
    values = R50.to_dict()
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(CorruptFile, match=re.escape(sentence)):
        registry.config_from_dict(values)


def configuration(name: str, **parts: object) -> dict:
    """A configuration as its file has it, with fields of its parts changed."""
    values = json.loads(json.dumps(ARCHITECTURES[name].to_dict()))
    return values | {k: values[k] | v if isinstance(v, dict) else v for k, v in parts.items()}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"backbone": {"depths": "abc"}}, "depths='abc': give a list, each entry a whole number."),
        ({"backbone": {"depths": [3, 3.5, 3, 3]}}, "depths=[3, 3.5, 3, 3]: give a list, each entry a whole number."),
        ({"backbone": {"depths": [True] * 4}}, "depths=[True, True, True, True]: give a list"),
        ({"backbone": {"depths": None}}, "depths=None: give a list, each entry a whole number."),
        ({"backbone": {"depths": {"1": 3}}}, "depths={'1': 3}: give a list, each entry a whole number."),
        ({"backbone": {"widths": [16]}}, "depths has 4, widths has 1, strides has 4: give as many of each."),
        ({"input": {"any_size": None}}, "any_size=None: give a list, each entry true or false."),
        ({"head": {"classes": "ten"}}, "classes='ten': give a whole number."),
        ({"backbone": {"norm": 5}}, "norm=5: give a text."),
        ({"backbone": {"norm": "group:²"}}, "norm='group:²': choose"),
        ({"backbone": {"act": None}}, "act=None: give a text."),
        ({"backbone": {"preact": "yes"}}, "preact='yes': give true or false."),
        ({"backbone": {"norm_eps": "x"}}, "norm_eps='x': give a number."),
        ({"backbone": {"norm_eps": float("nan")}}, "norm_eps=nan: give a number."),
        ({"backbone": {"norm_eps": -1}}, "norm_eps=-1: give a number from 1e-12 to 1."),
        ({"backbone": {"norm_eps": 1e-320}}, "norm_eps=1e-320: give a number from 1e-12 to 1."),
        ({"backbone": {"act": "threshold"}}, "act='threshold': Keras has no such activation that serves here."),
        ({"head": {"activation": "glu"}}, "activation='glu': Keras has no such activation"),
        ({"head": {"hidden_activation": ""}}, "hidden_activation='': Keras has no such"),
        ({"preprocess": {"crop": 1e-320}}, "crop=1e-320: give the share of the image that is kept, from 0.01 to 1."),
        ({"preprocess": {"std": [1e-320] * 3}}, "std=(1e-320, 1e-320, 1e-320): give numbers from 1e-07 to 1000."),
        ({"preprocess": {"mean": [1e300] * 3}}, "mean=(1e+300, 1e+300, 1e+300): give numbers from -1000 to 1000."),
        ({"architecture": "a/b"}, "architecture='a/b': give letters, digits, '_', '-' and '.'."),
        ({"architecture": "../up"}, "architecture='../up': give letters"),
        (
            {"class_names": ["ant"] * 1000},
            "class_names: 'ant' is the name of two classes: give each a name",
        ),
        ({"class_names": [" ", *map(str, range(999))]}, "class_names: the name of class 0 is empty: give each a name."),
        ({"class_names": ["a" * 10_000, *map(str, range(999))]}, "has 10000 characters: give names of at most 1000."),
        ({"class_names": ["\ud800", *map(str, range(999))]}, "class_names='\\ud800' holds half a character"),
        ({"provenance": {"metrics": {" ": 0.5}}}, "provenance: a metric has no name: give each one."),
        (
            {"provenance": {"metrics": {"\ud800": 0.5}}},
            "provenance='\\ud800' holds half a character, which is no text.",
        ),
        ({"provenance": {"data": 5}}, "provenance: data=5: give a text or None."),
        ({"provenance": {"class_descriptions": {"ant": 5}}}, "provenance: class_descriptions: give each class a text."),
        (
            {"provenance": {"x": json.loads("[" * 30 + "]" * 30)}},
            "provenance: give facts that are not nested so",
        ),
        ({"backbone": {"norm_momentum": 2}}, "norm_momentum=2: give a number from 0 to 1."),
        ({"head": {"dropout": [0.1]}}, "dropout=[0.1]: give a number."),
        ({"backbone": {"stem": "huge"}}, "stem='huge': choose one of 'conv7', 'deep', 'small'."),
        ({"backbone": {"shortcut": "none"}}, "shortcut='none': choose one of"),
        ({"backbone": {"stride_at": 7}}, "stride_at=7: choose one of 1, 2."),
        ({"head": {"classes": 2.5}}, "classes=2.5: give a whole number."),
        ({"head": {"hidden": 5}}, "hidden=5: give a list, each entry a whole number."),
        ({"head": {"hidden": [0]}}, "hidden=(0,): give numbers from 1 to 1048576."),
        ({"head": {"pooling": 3}}, "pooling=3: give a text or None."),
        ({"preprocess": {"mean": ["x", 0, 0]}}, "mean=['x', 0, 0]: give a list, each entry a number."),
        ({"preprocess": {"mean": [0.5]}}, "mean has 1 and std 3 numbers: give both one for each channel."),
        ({"preprocess": {"mean": [10**400, 0, 0]}}, "each entry a number."),
        ({"preprocess": {"std": [0, 0, 0]}}, "std=(0, 0, 0): give numbers above 0, since pixels are divided by them."),
        ({"preprocess": {"mean": [], "std": []}}, "mean has 0 and std 0 numbers"),
        ({"preprocess": {"size": [224]}}, "size=(224,): ResNet reads images: give (height, width)."),
        ({"preprocess": {"size": 224}}, "size=224: give a list, each entry a whole number."),
        ({"preprocess": {"crop": "all"}}, "crop='all': give a number."),
        ({"architecture": 5}, "architecture=5: give a text."),
        ({"class_names": None}, "class_names=None: give a list, each entry a text."),
        ({"class_names": list(range(1000))}, "give a list, each entry a text."),
        ({"class_names": "ant"}, "class_names='ant': give a list, each entry a text."),
        ({"class_names": ["ant"]}, "1 class names for 1000 classes: give each its name."),
        ({"provenance": [1]}, "provenance=[1]: give an object."),
        ({"provenance": {"license": 5}}, "provenance: license=5: give a text or None."),
        ({"provenance": {"metrics": None}}, "provenance: metrics=None: give an object."),
    ],
)
def test_values_of_another_kind_in_a_configuration_are_one_sentence(parts, sentence):
    with pytest.raises(BadSpec) as caught:
        registry.config_from_dict(configuration("resnet50", **parts))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


ODD = (
    None,
    True,
    -1,
    0,
    0.5,
    7,
    10**30,
    1e300,
    float("nan"),
    "",
    "abc",
    [],
    [[]],
    [0],
    ["x"],
    [10**12] * 4,
    {},
    {"a": 1},
)


@pytest.mark.parametrize("name", ["resnet50", "inception_resnet_v1", "efficientnet_b0"])
@pytest.mark.parametrize("part", ["input", "backbone", "head", "preprocess"])
def test_any_value_in_a_configuration_is_counted_at_once_or_refused(name, part):
    for field in configuration(name)[part]:
        for value in ODD:
            try:
                config = registry.config_from_dict(configuration(name, **{part: {field: value}}))
                assert shapes.parameters(shapes.tally(config)) > 0 and json.dumps(config.to_dict())
            except errors.KerasCnnError as error:
                assert len(str(error)) < 300 and "\n" not in str(error)


BLOCK = ["ir", 2, 3, 2, 6, 24, 0.25]


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("resnet20", {"depths": [10**8] * 3}, "depths=(100000000, 100000000, 100000000): give numbers from 1 to 5000."),
        ("resnet20", {"depths": [5000] * 3}, "blocks of all depths=15000: give a number from 1 to 5000."),
        ("resnet20", {"depths": [0, 0, 0]}, "depths=(0, 0, 0): give numbers from 1 to 5000."),
        ("resnet20", {"depths": [], "widths": [], "strides": []}, "blocks of all depths=0: give a number from 1"),
        ("resnet20", {"widths": [10**9] * 3}, "widths=(1000000000, 1000000000, 1000000000): give numbers from 1 to"),
        ("resnet20", {"strides": [1, 0, 2]}, "strides=(1, 0, 2): give numbers from 1 to 32."),
        ("resnet50", {"base": 10**9}, "base=1000000000: give a number from 1 to 1048576."),
        ("resnet50", {"base": 0}, "base=0: give a number from 1 to 1048576."),
        ("resnet50", {"widths": [8] * 4, "base": 4}, "widths * base // 64 * groups=(0, 0, 0, 0): give numbers from 1"),
        ("resnet18", {"groups": 32}, "groups is for bottlenecks: leave it at 1, or give bottleneck=True."),
        ("resnet18", {"stride_at": 1}, "stride_at is for bottlenecks: leave it at 2, or give bottleneck=True."),
        ("efficientnet_b0", {"depth": 1e8}, "depth=100000000.0: give a number from 0.01 to 1000."),
        ("efficientnet_b0", {"depth": 1000}, "blocks times depth=16000: give a number from 1 to 5000."),
        ("efficientnet_b0", {"width": 0}, "width=0: give a number from 0.01 to 1000."),
        ("efficientnet_b0", {"blocks": []}, "blocks times depth=0: give a number from 1 to 5000."),
        ("efficientnet_b0", {"blocks": [BLOCK[:5]]}, "each entry a list of 7: a text, a whole number"),
        ("efficientnet_b0", {"blocks": [["xx", *BLOCK[1:]]]}, "kind in blocks='xx': choose one of 'ds', 'ir'"),
        ("efficientnet_b0", {"blocks": [["ir", 10**8, *BLOCK[2:]]]}, "repeats in blocks=100000000: give a number from"),
        ("efficientnet_b0", {"blocks": [[*BLOCK[:3], 0, *BLOCK[4:]]]}, "stride in blocks=0: give a number from 1 to"),
        ("efficientnet_b0", {"blocks": [[*BLOCK[:6], 9]]}, "squeeze-excite ratio in blocks=9: give a number from 0"),
        ("inception_v3", {"version": "v1"}, "version='v1': choose one of 'v3', 'v4'."),
        ("inception_resnet_v2", {"version": "v3"}, "version='v3': choose one of 'v1', 'v2'."),
    ],
)
def test_a_backbone_is_bounded_before_it_is_counted(name, changes, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        registry.config_from_dict(configuration(name, backbone=changes))


@pytest.mark.parametrize("name", ["resnet1202", "efficientnet_l2", "tf_efficientnetv2_l"])
def test_the_deepest_and_widest_networks_scaled_by_ten_steps_are_within_the_bounds(name):
    config = kc.compound_scale(name, 10)
    assert registry.config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert len(shapes.tally(config)) > 3 * len(shapes.tally(ARCHITECTURES[name]))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("resnet20", {"widths": (64, 32, 16)}, "give widths that do not fall, as stage2_block1_shortcut_pad has them."),
        (
            "resnet20",
            {"act": "ours>wiggle"},
            "stem_act: Keras has no activation 'ours>wiggle'; keras.act",
        ),
    ],
)
def test_what_shows_only_when_a_network_is_written(name, changes, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        kc.build(ARCHITECTURES[name].backbone.with_(**changes), input_shape=(32, 32, 3))


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resnet_50", "resnet50"),
        ("wide_resnet50", "wide_resnet50_2"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, near):
    for look in (registry.get, kc.build, kc.info):
        with pytest.raises(UnknownModel, match=rf"called '{name}'\. Did you mean .*\b{near}\b.*\?"):
            look(name)


def test_a_name_like_no_other_points_to_the_list():
    with pytest.raises(UnknownModel, match="`keras-cnn list` shows all"):
        registry.get("xyzzy")


def test_an_unknown_tag_and_a_missing_directory():
    with pytest.raises(UnknownModel, match="resnet50 has no weights tagged 'gone' here; known: "):
        kc.build("resnet50.gone")
    with pytest.raises(UnknownModel, match=r"^runs/gone: there is no such directory\.$"):
        kc.build("runs/gone")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet?0", ["resnet20", "resnet50"]),
        ("resnet1?", ["resnet18"]),
        ("resnet1*[02]", ["resnet110", "resnet152", "resnet1202"]),
        ("resnet1*d", ["resnet18d", "resnet101d", "resnet152d"]),
        ("resnext*", ["resnext50_32x4d", "resnext101_32x8d"]),
        ("nothing*", []),
    ],
)  # fmt: skip
def test_wildcards_in_natural_order(pattern, names):
    assert kc.list_models(pattern) == names


def test_list_is_the_catalogue_and_pretrained_is_what_has_weights():
    assert sorted(kc.list_models()) == sorted(ARCHITECTURES)
    assert sorted(kc.list_models(pretrained=True)) == sorted(tags())


@pytest.mark.parametrize("name", ["resnet50", "resnet20", "keras_resnet50v2"])
def test_info_is_the_tally(name):
    facts, config = kc.info(name), ARCHITECTURES[name]
    rows = shapes.tally(config)
    assert (facts["parameters"], facts["macs"]) == (shapes.parameters(rows), shapes.macs(rows))
    assert (facts["classes"], facts["stages"]) == (config.head.classes, list(config.backbone.stages))
    assert facts["name"] == facts["architecture"] == name
    json.dumps(facts)


def test_macs_of_the_published_networks():
    """In units of 1e9: timm's results files give 4.11 for resnet50, 3.67 for resnet34, 1.82 for resnet18."""
    macs = {name: round(kc.info(name)["macs"] / 1e9, 2) for name in ("resnet18", "resnet34", "resnet50")}
    assert macs == pytest.approx({"resnet18": 1.82, "resnet34": 3.67, "resnet50": 4.11}, abs=0.03)


# --- layer names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layer_names_keep_to_the_vocabulary(name):
    config = ARCHITECTURES[name]
    layers = [row.layer for row in shapes.tally(config)]
    assert len(set(layers)) == len(layers)
    assert not [layer for layer in layers if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", layer)]
    seen = list(dict.fromkeys(layer.partition("_")[0] for layer in layers))
    assert seen == [*config.backbone.stages, "head"]
    assert all(re.fullmatch(r"stem|stage[1-9]|top|head", stage) for stage in seen)


# --- public names ---------------------------------------------------------------------------------------------------


def modules(package: str = "keras_cnn") -> list[str]:
    found = importlib.import_module(package)
    return [package, *(m.name for m in pkgutil.walk_packages(found.__path__, f"{package}."))]


@pytest.mark.parametrize("module", modules())
def test_all_is_what_exists(module):
    found = importlib.import_module(module)
    names = getattr(found, "__all__", [])
    assert len(set(names)) == len(names)
    missing = [name for name in names if not hasattr(found, name)]
    assert not missing


def test_public_names_are_documented_and_hide_no_module():
    public = {name: getattr(kc, name) for name in kc.__all__}
    assert not [name for name, value in public.items() if not inspect.getdoc(value)]
    assert not [name for name, value in public.items() if inspect.ismodule(value)]
    assert not {name.split(".")[1] for name in modules()[1:]} & public.keys()
    assert set(kc.__all__) <= set(dir(kc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kc.nothing  # noqa: B018


@pytest.mark.parametrize("package", ["keras_cnn.data", "keras_cnn.hub", "keras_cnn.transfer"])
def test_a_package_exports_all_functions_and_classes_that_it_imports(package):
    found = importlib.import_module(package)
    names = found.__all__
    kinds = (type, type(modules))
    imported = {n for n, v in vars(found).items() if isinstance(v, kinds) and v.__module__.startswith(package)}
    assert imported == set(names)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        R50.head = None
    backbones = [config.backbone for config in ARCHITECTURES.values()]
    assert all(isinstance(backbone, Backbone) and hash(backbone) for backbone in backbones)


def test_images_too_small_are_refused_with_the_least_size():
    with pytest.raises(BadSpec, match=r"inception_v3 needs images of at least 75x75 pixels, not 64x64\."):
        kc.build("inception_v3", input_shape=(64, 64, 3))
