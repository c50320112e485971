"""Recipes: all that a training from scratch depends on beside its images, as one small file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_cnn.errors import BadSpec, UnknownOption
from keras_cnn.models import fields
from keras_cnn.models.fields import known_options
from keras_cnn.training.options import PRECISIONS, TrainOptions, read_toml

FOLDER = Path(__file__).parent / "recipes"
DATA = ("augment", "batch_size", "seed")  # of load_data: what a recipe may say of the images


@known_options
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: what `build`, `load_data` and `train` are told.

    ```python
    recipe = kc.Recipe.of("small_images", epochs=5)
    model = kc.build("resnet20", classes=data.class_names, **recipe.build)
    data = kc.load_data("photos/", model, **recipe.data)
    kc.train(model, data, options=recipe.train, out="runs/photos")
    ```

    build: options of `build`, such as drop_path_rate. data: augment, batch_size, seed. train: options of `train`.
    precision: of the computation (`keras.config.set_dtype_policy`), None for what is set already, and on the command
        line for the fastest here.
    Batch sizes are the papers'; where another one fits, learning rates of SGD and RMSprop go with it (1706.02677).
    """

    build: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    train: TrainOptions = field(default_factory=TrainOptions)
    precision: str | None = None

    def __post_init__(self) -> None:
        fields.one_of("precision", self.precision, (None, *PRECISIONS))
        for name in self.data:
            if name not in DATA:
                told = fields.instead("data", name, list(DATA))
                raise UnknownOption(f"a recipe's [data] has no option {name!r}: {told}")
        if not isinstance(self.train, TrainOptions):
            object.__setattr__(self, "train", TrainOptions.of(self.train, "a recipe's [train]"))

    @classmethod
    def of(cls, given: Recipe | str | os.PathLike[str], **more: Any) -> Recipe:
        """A recipe by its name or from a TOML file, with tables [build], [data] and [train].

        more: options of `train` that win. Raises BadSpec for a name or a file that is not there, UnknownOption for a
        key that is not known; both say what is nearest.
        """
        if not isinstance(given, Recipe):
            given = cls(**_read(given))
        return dataclasses.replace(given, train=TrainOptions.of(given.train, "train", **more))

    @staticmethod
    def names() -> list[str]:
        """The recipes that come with the package."""
        return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _read(given: str | os.PathLike[str]) -> dict[str, Any]:
    name = str(given)
    path = FOLDER / f"{name}.toml" if name in Recipe.names() else Path(given)
    if not path.suffix and not path.exists():
        raise BadSpec(f"there is no recipe {name!r}: {fields.instead('recipe', name, Recipe.names())}")
    told = read_toml(path)
    known = [one.name for one in dataclasses.fields(Recipe)]
    for key in told:
        if key not in known:
            raise UnknownOption(f"{path} has a table or key {key!r}: {fields.instead('a recipe', key, known)}")
    return told
