"""The image itself, after some compression to an internal encoding: an autoencoder. Labels are not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Picture

from keras_cnn.errors import BadSpec
from keras_cnn.insight import plots
from keras_cnn.tasks import base, regression, results
from keras_cnn.tasks.results import Gathering

SHOWN = 6  # images in the picture, drawn at random


class Image(NamedTuple):
    """An image as the network gives it back. pixels: uint8 (height, width, channels). error: why it cannot be read."""

    name: str
    pixels: Any
    error: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"image": self.name, "shape": [] if self.pixels is None else list(self.pixels.shape)}

    def picture(self) -> Any:
        """Pillow's image of the pixels; a last axis of one is gray."""
        return Picture.fromarray(self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels)

    def columns(self) -> dict[str, Any]:
        return {}

    def lines(self) -> list[str]:
        return ["--out FOLDER writes the images that the network makes of them"]


@dataclass(frozen=True, repr=False)
class Result(results.Result):
    """labels: squared errors of each image, the mean over its pixels, (images, channels); outputs: the mean of its
    pixels and that of their squares, (images, 2, channels). samples: (image, what became of it) of some."""

    samples: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """r2, the share of the variance of all pixels that is given back, the mean over channels, as it is logged;
        rmse, in values of 0..255; images."""
        if not len(self):
            return {"images": 0}
        mean, squares = self.outputs.mean(0)
        left = self.labels.mean(0) / np.maximum(squares - mean**2, 1e-12)
        return {"r2": float(1 - left.mean()), "rmse": float(np.sqrt(self.labels.mean())), "images": len(self)}

    def details(self) -> dict[str, Any]:
        off = np.sqrt(self.labels.mean(-1))
        order = (-off).argsort(kind="stable")[:10].tolist()
        return {"worst": [{"image": self.image(i), "rmse": float(off[i])} for i in order]}

    def pictures(self, folder: str | Path) -> dict[str, str]:
        plots.reconstructions(self.samples, Path(folder) / "reconstructions.png")
        return {"reconstructions.png": "images, and below them what the network makes of them"}


class _Comparing(Gathering):
    """Measures image by image, in the memory of a few."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        super().__init__(Result, (), class_names)
        self.some = results.Some(SHOWN)

    def add(self, name: str, image: np.ndarray, label: Any, row: np.ndarray) -> None:
        truth = np.asarray(image, "float64")
        self.names.append(name)
        self.labels.append(((row - truth) ** 2).mean((0, 1)))
        self.rows.append(np.stack([truth.mean((0, 1)), (truth**2).mean((0, 1))]))
        self.some.offer((image, row))

    def result(self, **facts: Any) -> Result:
        labels, rows = (np.array(part, "float64") for part in (self.labels, self.rows))
        return Result(labels, rows, tuple(self.names), (), samples=tuple(self.some.kept), **facts)


class Reconstruction(regression.Regression):
    """The image itself; labels may be anything."""

    name = "reconstruction"

    def outputs(self, model: Any) -> int:
        wanted, given = model.inputs[0].shape, model.outputs[0].shape
        if base.unit_of(model) is None or wanted[-1] != given[-1] or len(wanted) != len(given):
            raise BadSpec(
                f"{model.name} does not end in an image like its input: build it with "
                f"head=kc.UNet(classes={wanted[-1]}, skip=None, task='reconstruction')."
            )
        return given[-1]

    def check(self, labels: Any, outputs: int | None, what: str) -> None:
        pass

    def check_all(self, labels: Any, held_out: Any) -> None:
        pass

    def check_data(self, data: Any, model: Any, outputs: int) -> None:
        pass

    def check_classes(self, names: Sequence[str], model: Any, outputs: int) -> None:
        pass

    def as_labels(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def targets(self, labels: Any, outputs: int, inputs: Any) -> np.ndarray:
        return np.asarray(inputs, "float32")

    def gather(self, outputs: tuple[int, ...], class_names: tuple[str, ...]) -> Gathering:
        return _Comparing(class_names)

    def numbers(self, labels: np.ndarray, what: str) -> np.ndarray:
        return labels

    def places(self, data: Any, names: tuple[str, ...], outputs: int) -> np.ndarray:
        return np.arange(outputs)

    def renumbered(self, label: Any, place: np.ndarray) -> Any:
        return label

    def linear(self, features: np.ndarray, labels: np.ndarray, outputs: int, model: Any) -> Any:
        return None

    def neighbours(self, count: int) -> Any:
        return None

    def answer(self, name: str, row: np.ndarray, config: Any, top: int, size: tuple[int, ...] | None) -> Any:
        return Image(name, np.clip(np.rint(row), 0, 255).astype(np.uint8))

    def unreadable(self, name: str, error: str) -> Any:
        return Image(name, None, error)


TASK = Reconstruction()
