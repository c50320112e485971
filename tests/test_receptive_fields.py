"""A layer sees what the walk over its graph says: shown by impulses, by published figures, and by hand."""

from __future__ import annotations

import doctest
import functools
import importlib
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_cnn as kc
from keras_cnn.errors import BadSpec

LENGTH, MARGIN = 301, 60  # no border reaches further in, by three layers of at most 4 entries, stride or dilation 3


def field(model, name=None):
    """(size, jump, start) of a layer, by default the last, along the first axis."""
    told = kc.insight.receptive_field(model)
    one = told[name or model.layers[-1].name]
    return one.size[0], one.jump[0], one.start[0]


def seen(model) -> np.ndarray:
    """(output position, input position): whether the one depends on the other. A linear network of positive weights
    answers to an impulse at a position wherever that is seen."""
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    length = model.input_shape[1]
    return keras.ops.convert_to_numpy(model(np.eye(length, dtype="float32")[..., None]))[..., 0].T > 0


def spans(model) -> list[tuple[int, int]]:
    return [tuple(np.flatnonzero(row)[[0, -1]]) if row.any() else (-1, -1) for row in seen(model)]


few = lambda most: st.integers(1, most)  # noqa: E731
paddings = st.sampled_from(["valid", "same"])


def later(layer, *arguments, **keywords):
    """Draws what makes a layer, which itself is made in the test: Keras' initialisers use the module `random`."""
    return st.builds(functools.partial, st.just(layer), *arguments, **keywords)


bare = {"use_bias": st.just(False)}
anywhere = st.sampled_from(["valid", "same", "causal"])
sides = lambda most: st.tuples(few(most), few(most))  # noqa: E731
shrinking = st.one_of(
    later(layers.Conv1D, st.just(1), few(4), few(3), anywhere, **bare),
    later(layers.Conv1D, st.just(1), few(4), padding=anywhere, dilation_rate=few(3), **bare),
    later(layers.SeparableConv1D, st.just(1), few(4), few(2), paddings, **bare),
    later(layers.AveragePooling1D, few(3), few(3), paddings),
    later(layers.ZeroPadding1D, sides(3)),
    later(layers.Cropping1D, sides(2)),
)
growing = st.one_of(
    shrinking,
    later(layers.UpSampling1D, few(3)),
    later(layers.Conv1DTranspose, st.just(1), few(4), few(3), paddings, **bare),
)


def factor(part: functools.partial) -> int:
    """By how much a layer upsamples."""
    place = {"UpSampling1D": 0, "Conv1DTranspose": 2}.get(part.func.__name__)
    return 1 if place is None else part.args[place]


def chain(parts, length=LENGTH):
    x = image = keras.Input((length, 1))
    for part in parts:
        x = part()(x)
    return keras.Model(image, x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(shrinking, min_size=1, max_size=3))
def test_every_output_sees_just_what_is_told(parts):
    model = chain(parts)
    size, jump, start = field(model)
    inside = 0
    for i, found in enumerate(spans(model)):
        told = (start + i * jump, start + i * jump + size - 1)
        if told[0] >= MARGIN and told[1] < LENGTH - MARGIN:
            assert found == told
            inside += 1
        else:  # entries of a window that lie beyond the border see less
            assert found == (-1, -1) or (told[0] <= found[0] and found[1] <= told[1])
    assert inside


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(growing, min_size=1, max_size=3))
def test_behind_an_upsampling_the_output_that_sees_most_counts(parts):
    model = chain(parts)
    size, jump, start = field(model)
    found = {i: (a, b) for i, (a, b) in enumerate(spans(model)) if a >= MARGIN and b < LENGTH - MARGIN}
    assert max(last - first + 1 for first, last in found.values()) == size
    turns = math.prod(map(factor, parts))
    for i in found.keys() & set(range(0, model.output_shape[1], turns)):  # those that see as output 0 does
        assert found[i][0] == pytest.approx(start + i * jump, abs=1e-9)


def test_branches_are_joined_as_they_lie():
    image = keras.Input((LENGTH, 1))
    past = layers.Conv1D(1, 3, padding="causal", dilation_rate=4, use_bias=False)(image)  # i - 8 ... i
    around = layers.Conv1D(1, 5, padding="same", use_bias=False)(image)  # i - 2 ... i + 2
    model = keras.Model(image, layers.Add()([past, around]))
    assert field(model) == (11, 1, -8)
    assert spans(model)[20] == (12, 22)


def test_maps_brought_to_another_size_are_counted_out():
    """7 positions stretched over 13, on 13 of another jump: no two outputs see alike."""
    image = keras.Input((13, 13, 1))
    small = layers.Conv2D(1, 1, 2, "same", use_bias=False)(image)
    large = layers.Resizing(13, 13, "nearest")(small)
    model = keras.Model(image, layers.Add(name="sum")([image, large]))
    impulses = np.eye(13, dtype="float32")[:, :, None, None] * np.ones((1, 1, 13, 1), "float32")
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    answers = keras.ops.convert_to_numpy(model(impulses))[:, :, 0, 0].T > 0
    widths = [np.flatnonzero(row)[-1] - np.flatnonzero(row)[0] + 1 for row in answers]
    assert field(model)[0] == max(widths)
    image = keras.Input((None, None, 1))
    open_ = layers.Add(name="sum")([layers.Conv2D(1, 2, 2, "same")(image), image])
    with pytest.raises(BadSpec, match=r"sum: .*input_shape"):
        kc.insight.receptive_field(keras.Model(image, open_))


# --- published figures, and by hand ---------------------------------------------------------------------------------


@pytest.mark.large_graphs
@pytest.mark.parametrize(
    "name, size, last",
    [
        ("keras_resnet50", 483, "stage4_block3_act"),  # strides on the 1x1 (Araujo et al. 2019, table)
        ("resnet50", 427, "stage4_block3_act"),  # strides on the 3x3
        ("resnet18", 435, "stage4_block2_act"),
        ("inception_v3", 1311, "stage4_block3_concat"),  # Araujo et al. 2019, table
    ],
)
def test_sizes_are_those_published(name, size, last):
    told = kc.insight.receptive_field(kc.build(name))
    assert (told[last].size, told[last].jump) == ((size, size), (32, 32))
    assert told["head_pool"].size == told["head_logits"].size == (math.inf, math.inf)


def test_a_vgg_by_hand():
    """Five stages: each 3x3 adds two jumps, each pool one, and doubles the jump (1409.1556)."""
    size, jump, model = 1, 1, keras.Sequential([keras.Input((64, 64, 3))])
    for depth in (2, 2, 3, 3, 3):
        for _ in range(depth):
            model.add(layers.Conv2D(2, 3, padding="same", activation="relu"))
            size += 2 * jump
        model.add(layers.MaxPooling2D(name=f"pool{jump}"))
        size, jump = size + jump, jump * 2
    assert (size, jump) == (212, 32)  # Araujo et al. 2019 have 212 for VGG-16, too
    model.add(layers.Flatten())
    model.add(layers.Dense(4, name="logits"))
    assert field(model, "pool16")[:2] == (size, jump)
    assert field(model, "logits") == (math.inf, 0, -math.inf)


def test_an_inception_block_by_hand():
    """1x1, 1x1 - 3x3, 1x1 - 5x5, and a pool of 3, on a map of jump 2 and size 3: the 5x5 is widest."""
    image = keras.Input((32, 32, 1))
    stem = layers.Conv2D(4, 3, 2, "same", name="stem")(image)
    widths = {"one": 1, "three": 3, "five": 5}
    branches = [layers.Conv2D(2, k, padding="same", name=n)(layers.Conv2D(2, 1)(stem)) for n, k in widths.items()]
    branches.append(layers.MaxPooling2D(3, 1, "same", name="pool")(stem))
    model = keras.Model(image, layers.Concatenate(name="joined")(branches))
    sizes = {name: field(model, name)[0] for name in ("stem", "one", "three", "five", "pool", "joined")}
    assert sizes == {"stem": 3, "one": 3, "three": 3 + 2 * 2, "five": 3 + 4 * 2, "pool": 3 + 2 * 2, "joined": 11}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel, dilations", [(3, (1, 2, 4, 8)), (5, (1, 2, 1, 2))])
def test_a_tcn_has_the_field_of_its_formula(causal, kernel, dilations):
    network = kc.build("tcn", input_shape=(None, 2), classes=3, kernel=kernel, dilations=dilations, causal=causal)
    formula = kc.TCN(kernel=kernel, dilations=dilations, causal=causal).receptive_field
    told = kc.insight.receptive_field(network)
    last = told[[name for name in told if name.startswith("stage")][-1]]
    assert last.size == (formula,) and last.jump == (1,)
    assert last.start == (1 - formula if causal else -(formula // 2),)


def test_axes_of_an_image_are_told_apart():
    image = keras.Input((32, 32, 1))
    x = layers.Conv2D(1, (3, 5), (1, 2), name="conv")(image)
    x = layers.MaxPooling2D((2, 1), name="pool")(x)
    told = kc.insight.receptive_field(keras.Model(image, x))
    assert told["conv"].size == (3, 5) and told["pool"].size == (4, 5) and told["pool"].jump == (2, 2)


def test_a_unet_is_at_the_resolution_of_its_input():
    told = kc.insight.receptive_field(kc.build("resnet18_unet", input_shape=(64, 64, 3), classes=2))
    encoder, logits = told["stage4_block2_act"], told["head_logits"]
    assert logits.jump == (1, 1) and encoder.size[0] < logits.size[0] < math.inf


def test_a_gate_and_group_norm_see_everything_and_keep_the_grid():
    image = keras.Input((32, 32, 8))
    x = layers.Conv2D(8, 3, 2, "same")(image)
    gate = layers.Dense(8, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x))
    gated = layers.Multiply(name="gated")([x, gate])
    normed = layers.GroupNormalization(2, name="normed")(x)
    local = layers.LayerNormalization(name="local")(x)
    told = kc.insight.receptive_field(keras.Model(image, [gated, normed, local]))
    assert told["gated"].size == told["normed"].size == told["pool"].size == (math.inf, math.inf)
    assert told["gated"].jump == told["normed"].jump == (2, 2) and told["pool"].jump == (0, 0)
    assert told["local"].size == (3, 3)


def test_nested_models_shared_layers_operations_and_words():
    inner = keras.Sequential([keras.Input((None, 4)), layers.Conv1D(4, 3, padding="same", name="conv")], name="inner")
    words = keras.Input((20,), dtype="int32")
    shared = layers.Conv1D(4, 3, padding="same", name="shared")
    x = shared(shared(inner(layers.Embedding(9, 4)(words))))
    told = kc.insight.receptive_field(keras.Model(words, x + keras.ops.relu(x)))
    assert [told[name].size for name in ("inner/conv", "inner", "shared")] == [(3,), (3,), (7,)]
    assert list(told.values())[-1].size == (7,)


@pytest.mark.large_graphs
@pytest.mark.parametrize(
    "name, size",  # Araujo et al. 2019, table
    [
        ("MobileNet", 315),
        ("VGG16", 212),
        pytest.param("ResNet50", 483, marks=pytest.mark.slow),
        pytest.param("InceptionV3", 1311, marks=pytest.mark.slow),
        pytest.param("InceptionResNetV2", 3039, marks=pytest.mark.slow),
    ],
)
def test_models_of_keras_applications_have_the_published_sizes(name, size):
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(96, 96, 3))
    assert field(model)[0] == size


FURTHER = """ResNet50V2 Xception MobileNetV2 MobileNetV3Small DenseNet121 NASNetMobile EfficientNetB0 EfficientNetV2B0
ConvNeXtTiny"""


@pytest.mark.slow
@pytest.mark.large_graphs
@pytest.mark.parametrize("name", FURTHER.split())
def test_every_layer_of_the_other_families_of_keras_applications_is_told(name):
    model = getattr(keras.applications, name)(weights=None)
    assert {layer.name for layer in model.layers} <= kc.insight.receptive_field(model).keys()


# --- what cannot be told --------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "last, told",
    [
        (layers.Lambda(lambda x: x, name="odd"), "odd: which positions a Lambda sees"),
        (layers.Permute((2, 1, 3), name="turn"), "turn: which positions a Permute sees"),
        (layers.Conv2D(1, 1, data_format="channels_first", name="first"), "first has data_format"),
        (layers.UpSampling2D(interpolation="bicubic", name="up"), "up: interpolation='bicubic'"),
        (layers.Resizing(4, 4, name="small"), "small: a Resizing from an open size"),
    ],
)
def test_layers_without_a_rule_are_named(last, told):
    image = keras.Input((3, None, 8) if "first" in told else (None, None, 3))
    with pytest.raises(BadSpec, match=told):
        kc.insight.receptive_field(keras.Model(image, last(image)))


@pytest.mark.parametrize(
    "model, told",
    [
        (lambda: Subclassed(name="own"), "'own' has no graph"),
        (lambda: keras.Sequential([layers.Dense(3)], name="unbuilt"), "'unbuilt' has no graph"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.Dense(3)], name="table"), "table has no spatial axes"),
    ],
)
def test_models_without_a_field_are_told(model, told):
    with pytest.raises(BadSpec, match=told):
        kc.insight.receptive_field(model())


def test_the_docstring_example_runs():
    module = importlib.import_module("keras_cnn.insight.receptive_fields")
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted
