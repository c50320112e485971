"""What a head's output means, a row a task, as far as a network must know it itself: without any framework.

The rest of a task, its losses, figures, answers and pictures, is a file of `keras_cnn/tasks/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Meaning(NamedTuple):
    """One row of `MEANINGS`.

    activation: that the output ends in; None for none. labels: the task of the data that is learnt, as `load_data` has
    it; None where the images themselves are. hub: the Hub's name of the task, for images; None where it has none. out:
    what comes out, in words. names: of classes or targets, how many an output has. in_units: whether the output is in
    the unit of the data, so that a layer with the mean and the spread of the training targets ends the head. whole:
    whether images are seen whole, since the output says something of every pixel. direction: whether the output is a
    vector, which has no classes. figures: the Hub's name of each figure that it has one for. pictures: files that a run
    draws, and how a card calls them.
    """

    activation: str | None
    labels: str | None
    hub: str | None
    out: str
    names: int = 1
    in_units: bool = False
    whole: bool = False
    direction: bool = False
    figures: Mapping[str, str] = MappingProxyType({})
    pictures: Mapping[str, str] = MappingProxyType({})

    def outputs(self, names: int) -> int:
        """Outputs of a head for so many names."""
        return -(-names // self.names)


_OF_CLASSES = {name: name for name in ("accuracy", "f1", "precision", "recall")}
_OF_NUMBERS = {"r2": "r_squared", "mae": "mae", "rmse": "rmse"}
_CONFUSION = {"confusion.png": "Confusion matrix"}

MEANINGS: dict[str, Meaning] = {
    "classification": Meaning(
        "softmax",
        "classification",
        "image-classification",
        "probabilities",
        figures=_OF_CLASSES,
        pictures=_CONFUSION,
    ),
    "multilabel": Meaning(
        "sigmoid",
        "multilabel",
        "image-classification",
        "a probability for each class",
        figures={**_OF_CLASSES, "map": "mean_average_precision"},
        pictures={"precision_recall.png": "Precision and recall by class"},
    ),
    "binary": Meaning(
        "sigmoid",
        "classification",
        "image-classification",
        "the probability of the second class",
        names=2,
        figures=_OF_CLASSES,
        pictures=_CONFUSION,
    ),
    "regression": Meaning(
        None,
        "regression",
        None,
        "numbers in the unit of the data",
        in_units=True,
        figures=_OF_NUMBERS,
        pictures={"predicted.png": "Predicted against true values"},
    ),
    "segmentation": Meaning(
        "softmax",
        "segmentation",
        "image-segmentation",
        "probabilities for each pixel",
        whole=True,
        figures={"miou": "mean_iou", "accuracy": "accuracy"},
        pictures={"masks.png": "Photos with their true and predicted masks"},
    ),
    "embedding": Meaning(
        None,
        "classification",
        "image-feature-extraction",
        "a direction, a vector of length 1",
        direction=True,
        figures={"recall1": "recall_at_1"},
    ),
    "reconstruction": Meaning(
        None,
        None,
        "image-to-image",
        "the image again, in values of 0..255",
        in_units=True,
        whole=True,
        figures=_OF_NUMBERS,
        pictures={"reconstructions.png": "Images and what the network makes of them"},
    ),
}
