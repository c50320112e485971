"""What a head's output means, a row a task, as far as a network must know it itself: without any framework.

The rest of a task, its losses, figures, answers and pictures, is a file of `keras_cnn/tasks/`.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """One row of `MEANINGS`.

    activation: that the output ends in; None for none. labels: the task of the data that is learnt, as `load_data` has
    it; None where the images themselves are. hub: the Hub's name of the task, for images; None where it has none. out:
    what comes out, in words. names: of classes or targets, how many an output has. in_units: whether the output is in
    the unit of the data, so that a layer with the mean and the spread of the training targets ends the head. whole:
    whether images are seen whole, since the output says something of every pixel. direction: whether the output is a
    vector, which has no classes.
    """

    activation: str | None
    labels: str | None
    hub: str | None
    out: str
    names: int = 1
    in_units: bool = False
    whole: bool = False
    direction: bool = False

    def outputs(self, names: int) -> int:
        """Outputs of a head for so many names."""
        return -(-names // self.names)


MEANINGS: dict[str, Meaning] = {
    "classification": Meaning("softmax", "classification", "image-classification", "probabilities"),
    "multilabel": Meaning("sigmoid", "multilabel", "image-classification", "a probability for each class"),
    "binary": Meaning(
        "sigmoid", "classification", "image-classification", "the probability of the second class", names=2
    ),
    "regression": Meaning(None, "regression", None, "numbers in the unit of the data", in_units=True),
    "segmentation": Meaning(
        "softmax", "segmentation", "image-segmentation", "probabilities for each pixel", whole=True
    ),
    "embedding": Meaning(
        None, "classification", "image-feature-extraction", "a direction, a vector of length 1", direction=True
    ),
    "reconstruction": Meaning(
        None, None, "image-to-image", "the image again, in values of 0..255", in_units=True, whole=True
    ),
}
