"""What stands inside of a network: its maps of an image, its kernels, what a channel looks for, what looks alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_cnn.data.batches import Data
from keras_cnn.data.stream import in_batches
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight import graphs
from keras_cnn.insight.explained import checked, look, near, pixels_of
from keras_cnn.insight.gradients import gradients
from keras_cnn.models import naming
from keras_cnn.models.config import record_of
from keras_cnn.models.fields import known_options, several

STEP = 0.02  # of an ascent, in spans of the image's values
BATCH = 32


class Neighbour(NamedTuple):
    """An image of some data that looks alike to a network. name: its path, or place; label: as the data has it, None of
    arrays; similarity: the cosine between its features and the given image's, at most 1; image: (height, width,
    channels), as the network sees it."""

    name: str
    label: Any
    similarity: float
    image: np.ndarray


@known_options
def feature_maps(model: Any, image: Any, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """What an image becomes inside of a network: float32 (height, width, channels) of layers, by their names.

    model: any functional Keras model of one image. image: as of `grad_cam`. layers: names, those of a nested model as
    "model/layer". By default the last maps of each stage of a network of ours, else the last ones of each size.
    Raises BadSpec for a layer that gives no maps, or is not there; BadData for an image of another shape.

    >>> import keras_cnn as kc, numpy as np
    >>> maps = kc.insight.feature_maps(kc.build("resnet20"), np.zeros((32, 32, 3), "uint8"))
    >>> {name: one.shape for name, one in maps.items()}["stage2_block3_act"]
    (16, 16, 32)
    """
    import keras

    graph, wanted = checked(model), None if layers is None else several("layers", layers)
    found: dict[str, Any] = {}
    there: dict[str, None] = {}

    def watch(place: graphs.Place, tensor: Any) -> None:
        name = graphs.name_of(place)
        if len(tensor.shape) != 4:
            return
        there[name] = None
        if name in wanted if wanted is not None else not graphs.pads(place[-1].operation):
            found.pop(name, None)  # of a layer that is called again, the last maps, in their order
            found[name] = tensor

    graphs.run(model, [keras.ops.convert_to_tensor(pixels_of(model, image))], graph.outputs, seen=watch)
    if wanted is None:
        wanted = _lasts(model, {name: tuple(tensor.shape) for name, tensor in found.items()})
    if missing := [name for name in wanted if name not in found]:
        raise BadSpec(f"layer {missing[0]!r}: {model.name} has no such layer that gives maps.{near(missing[0], there)}")
    return {name: graphs.array(found[name])[0] for name in wanted}


def _lasts(model: Any, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The last of the maps of more than one position of each stage, or of each size."""
    try:
        record_of(model)
        group = lambda name: naming.stage_of(name)  # noqa: E731
    except BadSpec:
        group = lambda name: shapes[name][1:3]  # noqa: E731
    last = {group(name): name for name, shape in shapes.items() if shape[1] * shape[2] > 1}
    return list(last.values())


@known_options
def filters(model: Any, layer: str | None = None) -> np.ndarray:
    """The kernels of a convolution, float32 (filters, height, width, channels in), those of the first one by default.

    Those of the first convolution are small images, which can be looked at; what further ones look for is shown by
    `maximising_input`. layer: the name of a layer of the model itself.
    Raises BadSpec for a layer without a kernel of two axes, or none of that name.
    """
    kernels = {x.name: x.kernel for x in model.layers if len(getattr(getattr(x, "kernel", None), "shape", ())) == 4}
    if not kernels:
        raise BadSpec(f"{model.name} has no convolution over height and width.")
    name = next(iter(kernels)) if layer is None else layer
    if name not in kernels:
        raise BadSpec(f"layer={layer!r}: {model.name} has no such convolution.{near(str(layer), kernels)}")
    return graphs.array(kernels[name]).transpose(3, 0, 1, 2)


@known_options
def maximising_input(
    model: Any,
    layer: str,
    channel: int,
    *,
    size: tuple[int, int] | None = None,
    steps: int = 100,
    span: tuple[float, float] = (0.0, 255.0),
    seed: int = 0,
) -> np.ndarray:
    """An image that makes a channel of a layer large: what it looks for. float32 (height, width, channels).

    Gradient ascent from faint noise (Erhan et al. 2009) on the channel's mean over positions. Each step changes pixels
    by 2 % of the span on average, whatever the gradient's size; the image is moved about by up to an eighth of its side
    between steps, slightly blurred, and drawn to the middle gray (Yosinski et al. 2015, 1506.06579, section 3), else it
    would be noise that no photo is like.

    layer: its name, "head_logits" for a class, that of a nested model as "model/layer". size: of the image, for
    networks of any size; by default theirs, or 128 pixels. steps: of the ascent, a forward and a backward pass each.
    span: the least and largest value that an image may have as the network takes it; networks of ours take 0..255.
    seed: of the noise and the moves; other seeds give other images of the same.
    Raises BadSpec for a layer or a channel that is not there.
    """
    import keras

    graph = checked(model)
    if steps < 1 or not span[0] < span[1]:
        raise BadSpec(f"steps={steps!r}, span={span!r}: give 1 step or more, and the lower value of the span first.")
    sides = [
        given or wanted or 128 for given, wanted in zip(size or (None, None), graph.inputs[0].shape[1:3], strict=True)
    ]
    rng, (low, high) = np.random.default_rng(seed), span
    middle, reach = (low + high) / 2, high - low
    image = middle + reach * 0.02 * rng.standard_normal((1, *sides, graph.inputs[0].shape[-1])).astype("float32")
    place = _place(model, layer, image, channel)

    def answer(pixels: Any) -> Any:
        caught: list[Any] = []
        keep = lambda at, tensor: caught.append(tensor) if at == place else None  # noqa: E731
        graphs.run(model, [pixels], graph.outputs, seen=keep)
        return keras.ops.mean(keras.ops.cast(caught[-1][..., channel], "float32"))

    for _ in range(steps):
        move = tuple(int(rng.integers(-(n // 8), n // 8 + 1)) for n in sides)
        image = np.roll(image, move, (1, 2))
        _, (slope,) = gradients(answer, [image])
        image = image + STEP * reach * slope / max(float(np.abs(slope).mean()), 1e-20)
        image = middle + 0.99 * (_blurred(image) - middle)
        image = np.roll(np.clip(image, low, high), tuple(-n for n in move), (1, 2)).astype("float32")
    return image[0]


def _place(model: Any, layer: str, image: np.ndarray, channel: int) -> graphs.Place:
    import keras

    found: dict[str, tuple[graphs.Place, int]] = {}
    graphs.run(
        model,
        [keras.ops.convert_to_tensor(image)],
        seen=lambda place, tensor: found.update({graphs.name_of(place): (place, tensor.shape[-1])}),
    )
    if layer not in found:
        raise BadSpec(f"layer={layer!r}: {model.name} has no such layer.{near(layer, found)}")
    place, channels = found[layer]
    if not 0 <= channel < channels:
        raise BadSpec(f"channel={channel!r}: {layer} has {channels} channels, counted from 0.")
    return place


def _blurred(images: np.ndarray) -> np.ndarray:
    """A tenth of the way to the mean of the four neighbours, edges repeated."""
    wide = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return 0.9 * images + 0.1 * around / 4


@known_options
def nearest_images(
    model: Any, image: Any, data: Any, *, split: str = "train", count: int = 5, layer: str | None = None
) -> list[Neighbour]:
    """The images of some data that a network takes for the most alike, by the cosine between pooled features.

    What it has seen of the kind: a wrong answer is often a near image of another class. Features are the means over
    positions of the maps of a layer, by default those that `grad_cam` explains.

    model, image, layer: as of `grad_cam`. data: what `load_data` gives, of which `split` is looked through; or an array
    of images, (images, height, width, channels). count: how many are told, the most alike first.
    Raises BadData for no images, or other shapes; BadSpec as `grad_cam`.
    """
    import keras

    if count < 1:
        raise BadSpec(f"count={count!r}: give 1 or more.")
    subject = look(model, image, None, layer)
    outputs = graphs.graph_of(model).outputs[:1]

    def features(images: np.ndarray) -> np.ndarray:
        caught: list[Any] = []
        keep = lambda at, tensor: caught.append(tensor) if at == subject.place else None  # noqa: E731
        graphs.run(model, [keras.ops.convert_to_tensor(images.astype("float32"))], outputs, seen=keep)
        return _unit(graphs.array(caught[-1]).mean((1, 2)))

    own, found = _unit(subject.maps.mean((1, 2)))[0], list[Neighbour]()
    for batch in in_batches(_each(data, split), BATCH):
        alike = features(np.concatenate([pixels_of(model, pixels) for _, pixels, _ in batch])) @ own
        found += [Neighbour(n, label, float(a), pixels) for (n, pixels, label), a in zip(batch, alike, strict=True)]
        found = sorted(found, key=lambda one: -one.similarity)[:count]
    if not found:
        raise BadData("data: there are no images in it to compare with.")
    return found


def _each(data: Any, split: str) -> Iterator[tuple[str, np.ndarray, Any]]:
    """(name, image, label) of what is looked through."""
    if isinstance(data, Data):
        yield from ((name, pixels, label) for name, pixels, label in data.each(split) if pixels is not None)
    elif hasattr(data, "__array__") and np.ndim(data) == 4:
        yield from ((f"images[{i}]", pixels, None) for i, pixels in enumerate(np.asarray(data)))
    else:
        raise BadData("data: give what kc.load_data gives, or an array (images, height, width, channels).")


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
