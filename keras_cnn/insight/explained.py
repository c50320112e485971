"""Which number of a network is explained for an image, and by which of its maps."""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight import graphs
from keras_cnn.insight.gradients import gradients
from keras_cnn.models.config import record_of
from keras_cnn.models.meaning import MEANINGS

BATCH = 16  # changed images that a network sees at once
FINE = 4  # positions a side from which a map tells where something is


@dataclass(frozen=True)
class Subject:
    """An image before a network, and one number of what it answers.

    image: float32 (1, height, width, channels). linear: the call whose activation is left out, since it only makes
    probabilities of the answer. number: of outputs (batch, ..., channels) the number that is explained, (batch,).
    place: of the layer whose maps explain it; maps: they, float32 (1, height, width, channels).
    """

    model: Any
    image: np.ndarray
    linear: graphs.Place | None
    number: Callable[[Any], Any]
    place: graphs.Place
    maps: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1:3]  # pyright: ignore[reportReturnType]

    def numbers(self, images: Any, instead: Mapping[graphs.Place, Any] | None = None) -> Any:
        """The number for each of some images, as a tensor (batch,); instead: as of `graphs.run`."""
        outputs = graphs.graph_of(self.model).outputs[:1]
        [output] = graphs.run(self.model, [images], outputs, instead=instead, linear=self.linear)
        return self.number(output)

    def measured(self, count: int, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The number for many images, float32 (count,); make: images of an array of their indices.

        All batches are of one size, since some backends compile anew for each.
        """
        import keras

        found = []
        for start in range(0, count, BATCH):
            some = np.minimum(np.arange(start, start + min(BATCH, count)), count - 1)
            images = keras.ops.convert_to_tensor(make(some).astype("float32"))
            found.append(graphs.array(self.numbers(images)))
        return np.concatenate(found)[:count]

    def gradient_by_maps(self) -> np.ndarray:
        """Of the number by the layer's maps, float32 (height, width, channels)."""
        import keras

        image = keras.ops.convert_to_tensor(self.image)
        one = lambda maps: keras.ops.sum(self.numbers(image, {self.place: maps}))  # noqa: E731
        return gradients(one, [self.maps])[1][0][0].astype("float32")

    def gradient_by_images(self, images: np.ndarray) -> np.ndarray:
        """Of each image's own number, float32 (batch, height, width, channels)."""
        import keras

        return gradients(lambda x: keras.ops.sum(self.numbers(x)), [images])[1][0].astype("float32")


def look(model: Any, image: Any, target: int | str | None = None, layer: str | None = None) -> Subject:
    """What `saliency`'s functions explain: see there. BadSpec and BadData say what is amiss."""
    import keras

    graph = checked(model)
    pixels = pixels_of(model, image)
    output = graphs.last_call(graph.outputs[0])
    scale = graphs.activation_name(output[-1].operation)
    # What a task ends in only turns a number into a probability.
    linear = output if scale in {task.activation for task in MEANINGS.values()} else None
    shown: dict[str, graphs.Place] = {}  # by name, the last call of each layer that gives maps
    kept: list[tuple[graphs.Place, Any]] = []
    everywhere, best = len(graph.outputs[0].shape) == 4, [(False, 0, -(10**9))]
    narrow = set() if layer else graphs.narrows(model, graph.outputs[:1])

    def watch(place: graphs.Place, tensor: Any) -> None:
        shape = tuple(tensor.shape)
        if len(shape) != 4 or place == output:
            return
        name = graphs.name_of(place)
        shown[name] = place
        height, width = shape[1:3]
        rank = (not everywhere and place in narrow, min(height, width, FINE), -height * width * everywhere)
        usable = height * width > 1 and not graphs.pads(place[-1].operation) and rank >= best[0]
        if name == layer if layer else usable:
            kept[:], best[0] = [(place, tensor)], rank

    inputs = [keras.ops.convert_to_tensor(pixels)]
    [raw] = graphs.run(model, inputs, graph.outputs[:1], seen=watch, linear=linear)
    if not kept:
        _refuse_layer(model, layer, shown)
    (place, maps), answer = kept[0], graphs.array(raw)[0]
    number = _number(model, answer, target, scale == "sigmoid")
    return Subject(model, pixels, linear, number, place, graphs.array(maps))


def checked(model: Any) -> Any:
    """The graph of a functional model of one image; BadSpec for others."""
    name, graph = getattr(model, "name", reprlib.repr(model)), graphs.graph_of(model)
    if graph is None:
        raise BadSpec(
            f"{name} has no graph to look into: give a functional Keras model, or a sequential one that is built; a "
            "subclassed model hides what calls what."
        )
    if len(graph.inputs) != 1:
        raise BadSpec(f"{name} takes {len(graph.inputs)} inputs: give a model of one image.")
    if len(graph.inputs[0].shape) != 4:
        raise BadSpec(
            f"{name} takes inputs of the shape {graph.inputs[0].shape[1:]}: it has no spatial maps, which are of "
            "images (height, width, channels)."
        )
    if odd := [x.name for x in graph.operations if getattr(x, "data_format", None) == "channels_first"]:
        raise BadSpec(f"{odd[0]} has data_format='channels_first': give a model with channels last.")
    return graph


def pixels_of(model: Any, image: Any) -> np.ndarray:
    """An image as a model takes it, float32 (1, height, width, channels): an array, or the path of a file.

    Raises BadData for an array of another shape, BadImage for a file that cannot be read, BadSpec for a path and a
    model that does not know how its images are made of files.
    """
    from keras_cnn.data.images import load_image

    pixels = np.asarray(load_image(image, model) if isinstance(image, str | os.PathLike) else image)
    wanted = tuple(graphs.graph_of(model).inputs[0].shape[1:])
    pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    fits = len(pixels.shape) == 3 and all(w in (None, n) for n, w in zip(pixels.shape, wanted, strict=True))
    if not fits or pixels.dtype.kind not in "biuf":
        raise BadData(
            f"image: an array of {pixels.dtype} {pixels.shape}, and {model.name} takes one of numbers {wanted}, None "
            "for any: give one image, (height, width, channels), with values as the network takes them."
        )
    if not np.isfinite(pixels).all():
        raise BadData("image: it holds NaN or infinite values.")
    return pixels[None].astype("float32")


def names_of(model: Any) -> tuple[str, ...]:
    """The names of a network's classes or targets, where it is one of ours and knows them."""
    try:
        return tuple(record_of(model)["class_names"])
    except BadSpec:
        return ()


def _number(model: Any, answer: np.ndarray, target: int | str | None, probability: bool) -> Callable[[Any], Any]:
    """A function of outputs (batch, ..., channels). answer: of the image, without its last activation.

    One output with a sigmoid, or with two names, stands for two classes: its number speaks for the second, and turned
    around for the first.
    """
    from keras import ops

    names, channels = names_of(model), answer.shape[-1]
    two = channels == 1 and (probability or len(names) == 2)
    taken = (answer[..., 0] > 0).astype(int) if two else answer.argmax(-1)
    count = 2 if two else channels
    chosen = _chosen(model, target, names, count, taken)
    channel, sign = (0, 2 * chosen - 1) if two else (chosen, 1)
    here: Any = taken == chosen
    weights = (here if here.any() else np.ones_like(here)).astype("float32")
    weights = sign * weights / weights.sum()

    def number(outputs: Any) -> Any:
        values: Any = ops.cast(outputs[..., channel], "float32")
        return ops.sum(values * weights, axis=tuple(range(1, len(values.shape))))

    return number


def _chosen(model: Any, target: int | str | None, names: Sequence[str], count: int, taken: np.ndarray) -> int:
    """The class that is meant; None is the answer: of a map, the class that most positions have."""
    if target is None:
        return int(np.bincount(taken.reshape(-1)).argmax())
    if isinstance(target, str):
        known = {name: i for i, name in enumerate(names)}
        described = record_of(model)["provenance"].get("class_descriptions", {}) if names else {}
        for name, text in described.items():  # "goldfish, Carassius auratus": either, or both
            known |= {word: known[name] for word in (text, *text.split(", ")) if name in known and word not in known}
        if target in known:
            return known[target]
        if not known:
            raise BadSpec(f"target={target!r}: {model.name} knows no names of classes; give a number below {count}.")
        raise BadSpec(f"target={target!r}: {model.name} has no such class.{near(target, known)}")
    if not isinstance(target, int | np.integer) or not 0 <= target < count:
        raise BadSpec(f"target={target!r}: {model.name} has {count} classes or targets, counted from 0.")
    return int(target)


def near(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """What may have been meant, as the end of a message."""
    found = difflib.get_close_matches(word, list(known), 3, 0.5)
    some = ", ".join([*known][:5])
    return f" Did you mean {' or '.join(found)}?" if found else f" It has {some}{', ...' if len(known) > 5 else ''}."


def _refuse_layer(model: Any, layer: str | None, shown: Mapping[str, Any]) -> None:
    if layer is None or not shown:
        raise BadSpec(f"{model.name} has no spatial maps of more than one position before its output.")
    if any(layer == other.name for other in model.layers):
        raise BadSpec(f"layer={layer!r}: {model.name}'s answer depends on no map (height, width, channels) of it.")
    raise BadSpec(f"layer={layer!r}: {model.name} has no such layer.{near(layer, shown)}")
