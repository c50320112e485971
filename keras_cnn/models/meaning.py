"""What a head's output means, a row a task, as far as a network must know it itself: without any framework.

The rest of a task, its losses, figures, answers and pictures, is a file of `keras_cnn/tasks/`.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """One row of `MEANINGS`.

    activation: that the output ends in; None for none. hub: the Hub's name of the task, for images; None where it has
    none. names: of classes or targets, how many an output has. in_units: whether the output is in the unit of the data,
    so that a layer with the mean and the spread of the training targets ends the head.
    """

    activation: str | None
    hub: str | None
    names: int = 1
    in_units: bool = False

    def outputs(self, names: int) -> int:
        """Outputs of a head for so many names."""
        return -(-names // self.names)


MEANINGS: dict[str, Meaning] = {
    "classification": Meaning("softmax", "image-classification"),
    "multilabel": Meaning("sigmoid", "image-classification"),
    "binary": Meaning("sigmoid", "image-classification", names=2),
    "regression": Meaning(None, None, in_units=True),
    "segmentation": Meaning("softmax", "image-segmentation"),
    "embedding": Meaning(None, "image-feature-extraction"),
    "reconstruction": Meaning(None, "image-to-image", in_units=True),
}
