"""Networks as data: arithmetic, checks of keywords, names, and what is known of a network without building it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cnn as kc
from keras_cnn import catalog, errors, tally
from keras_cnn.errors import BadSpec, CorruptFile, UnknownModel
from keras_cnn.hub.resolve import tags
from keras_cnn.spec import (
    NORMS,
    Config,
    Head,
    Preprocess,
    Spec,
    check_norm,
    drop_path_rates,
    out_size,
    stage_plan,
)

ARCHITECTURES = catalog.architectures()
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
        R50.with_(norm=norm)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"merge": "mul"}, "merge='mul': choose one of 'add', 'concat'."),
        ({"output_stride": 4}, "output_stride=4: choose one of 8, 16, 32."),
        ({"pad": "valid"}, "pad='valid': choose one of 'torch', 'same'."),
        ({"pool_pad": "ones"}, "pool_pad='ones': choose one of 'lowest', 'zero'."),
        ({"drop_rate": 1.0}, "drop_rate=1.0: give a probability from 0 up to, not including, 1."),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1: give a probability from 0 up to, not including, 1."),
        ({"input_shape": (224, 224)}, "input_shape=(224, 224): give (height, width, channels)"),
        ({"input_shape": (224, 224, None)}, "input_shape=(224, 224, None): give (height, width, channels)"),
        ({"input_shape": (0, 224, 3)}, "input_shape=(0, 224, 3): give (height, width, channels)"),
        ({"input_shape": (2.5, 224, 3)}, "input_shape=(2.5, 224, 3): give (height, width, channels)"),
        ({"depth": 3, "colour": 1}, "ResNet has no colour, depth."),
    ],
)
def test_bad_values_of_a_spec(changes, sentence):
    with pytest.raises(BadSpec, match=re.escape(sentence)):
        R50.with_(**changes)


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
        ARCHITECTURES["keras_resnet50v2"].with_(output_stride=16)


def test_every_error_of_ours_is_a_value_error():
    ours = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if not issubclass(cls, Warning)]
    assert len(ours) > 5 and all(issubclass(cls, errors.KerasCnnError) for cls in ours)
    assert issubclass(errors.KerasCnnError, ValueError)


# --- preprocessing as data ------------------------------------------------------------------------------------------


def test_preprocess_at_other_channels_and_sizes():
    pre = Preprocess(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3), size=(10, 20))
    gray = pre.for_channels(1)
    assert gray.mean == pytest.approx((0.4,)) and gray.std == pytest.approx((0.2,))
    assert pre.for_channels(3) is pre and len(pre.for_channels(4).std) == 4
    assert pre.at_size((30, 40)).size == (30, 40)
    assert pre.at_size((None, 40)) is pre and pre.at_size((10, 20)) is pre


# --- configurations as JSON -----------------------------------------------------------------------------------------

rates = st.floats(0, 0.9)
sides = st.none() | st.integers(1, 512)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def dilates(spec) -> bool:
    return not getattr(spec, "stride_last", False) and "Inception" not in spec.family


specs = st.builds(
    lambda spec, changes: spec.with_(**{k: v for k, v in changes.items() if k != "output_stride" or dilates(spec)}),
    st.sampled_from(list(ARCHITECTURES.values())),
    st.fixed_dictionaries(
        {},
        optional={
            "input_shape": st.tuples(sides, sides, st.integers(1, 8)),
            "norm": st.sampled_from(["batch", "layer", "instance", "none"]) | st.integers(1, 64).map("group:{}".format),
            "act": st.sampled_from(["relu", "gelu", "silu"]),
            "merge": st.sampled_from(["add", "concat"]),
            "output_stride": st.sampled_from([8, 16, 32]),
            "drop_rate": rates,
            "drop_path_rate": rates,
            "norm_eps": st.floats(1e-9, 1),
        },
    ),
)
heads = st.builds(
    Head,
    classes=st.integers(1, 2000),
    hidden=st.lists(st.integers(1, 999), max_size=3),
    dropout=rates,
    pooling=st.sampled_from(["avg", "max"]),
    activation=st.sampled_from(["softmax", None]),
) | st.builds(Head, classes=st.just(0), pooling=st.sampled_from(["avg", None]))
preprocesses = st.builds(
    Preprocess,
    mean=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    std=st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 512), st.integers(1, 512)),
    crop=st.floats(0.1, 1),
    mode=st.sampled_from(["center", "squash"]),
)
configs = st.builds(
    Config,
    architecture=st.sampled_from(list(ARCHITECTURES)),
    spec=specs,
    head=heads,
    preprocess=preprocesses,
    class_names=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    provenance=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(config=configs)
def test_config_survives_json(config):
    again = catalog.config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and type(again.spec) is type(config.spec)


@pytest.mark.parametrize("key", [*catalog.default_config("resnet50", R50).to_dict()])
def test_a_configuration_without_a_key_names_it(key):
    values = catalog.default_config("resnet50", R50).to_dict()
    del values[key]
    with pytest.raises(CorruptFile, match=f"lacks '{key}'"):
        catalog.config_from_dict(values)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("spec", "family"), "Perceptron", "a family 'Perceptron' that this version does not know: upgrade"),
        (("spec", "kernel"), 5, "has kernel, which this version does not know: upgrade"),
        (("head", "temperature"), 5, "has temperature, which this version does not know: upgrade"),
        (("spec",), [], "not complete"),
        (("head",), {}, "not complete"),
        (("head",), None, "not complete"),
        (("class_names",), None, "not complete"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(place, value, sentence):
    values = catalog.default_config("resnet50", R50).to_dict()
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(CorruptFile, match=sentence):
        catalog.config_from_dict(values)


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
    for look in (catalog.get, kc.build, kc.info):
        with pytest.raises(UnknownModel, match=rf"called '{name}'\. Did you mean .*\b{near}\b.*\?"):
            look(name)


def test_a_name_like_no_other_points_to_the_list():
    with pytest.raises(UnknownModel, match="`keras-cnn list` shows all"):
        catalog.get("xyzzy")


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
    facts, spec = kc.info(name), ARCHITECTURES[name]
    rows = tally.tally(catalog.default_config(name, spec))
    assert (facts["parameters"], facts["macs"]) == (tally.parameters(rows), tally.macs(rows))
    assert (facts["classes"], facts["stages"]) == (spec.classes, list(spec.stages))
    assert facts["name"] == facts["architecture"] == name
    json.dumps(facts)


def test_macs_of_the_published_networks():
    """In units of 1e9: timm's results files give 4.11 for resnet50, 3.67 for resnet34, 1.82 for resnet18."""
    macs = {name: round(kc.info(name)["macs"] / 1e9, 2) for name in ("resnet18", "resnet34", "resnet50")}
    assert macs == pytest.approx({"resnet18": 1.82, "resnet34": 3.67, "resnet50": 4.11}, abs=0.03)


# --- layer names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layer_names_keep_to_the_vocabulary(name):
    spec = ARCHITECTURES[name]
    layers = [row.layer for row in tally.tally(catalog.default_config(name, spec))]
    assert len(set(layers)) == len(layers)
    assert not [layer for layer in layers if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", layer)]
    seen = list(dict.fromkeys(layer.partition("_")[0] for layer in layers))
    assert seen == [*spec.stages, "head"]
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


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        R50.classes = 3
    assert all(isinstance(spec, Spec) and hash(spec) for spec in ARCHITECTURES.values())


def test_images_too_small_are_refused_with_the_least_size():
    with pytest.raises(BadSpec, match=r"inception_v3 needs images of at least 75x75 pixels, not 64x64\."):
        kc.build("inception_v3", input_shape=(64, 64, 3))
