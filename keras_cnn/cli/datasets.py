"""What commands are given as data: how it is read, what it is for, and the head that a network needs to learn it.

The data is decoded before a framework starts, so that bad input is told at once.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_cnn import terminal
from keras_cnn.cli import console
from keras_cnn.cli.options import AUGMENT, DATA, SKIP_BAD
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.models.fields import one_of
from keras_cnn.models.meaning import MEANINGS

if TYPE_CHECKING:
    from keras_cnn.models.config import Config


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data to measure on: where it is, and which columns mean what where it is a table, as `kc.Table` has them."""

    data: Annotated[str, DATA]
    skip_bad: Annotated[bool, SKIP_BAD] = False
    image_column: Annotated[str | None, typer.Option(help="Of a table: the column of paths of images.")] = None
    labels: Annotated[
        list[str] | None, typer.Option(help="Of a table: the column of labels; again for several of numbers.")
    ] = None
    separator: Annotated[str | None, typer.Option(help="Of a table: between several names in a cell, as '|'.")] = None
    root: Annotated[str | None, typer.Option(help="Of a table: the folder that paths are relative to.")] = None
    split_column: Annotated[str | None, typer.Option(help="Of a table: the column that says train, val or test.")] = (
        None
    )
    window: Annotated[
        int | None, typer.Option(min=1, help="Of one long series: steps that are seen, to forecast those behind them.")
    ] = None
    horizon: Annotated[int | None, typer.Option(min=1, help="With --window: steps that are forecast.")] = None

    @property
    def source(self) -> Any:
        """What `load_data` takes."""
        from keras_cnn.data import Table

        if self.window or self.horizon:
            raise BadSpec(f"--window and --horizon are for sequences, and {self.data} for images.")
        columns = {
            "image": self.image_column,
            "labels": tuple(self.labels or ()) or None,
            "separator": self.separator,
            "root": self.root,
            "split": self.split_column,
        }
        return Table(self.data, **columns) if any(columns.values()) else self.data

    def sequences(self, val_split: float = 0.0, seed: int = 0) -> Any:
        """The same as sequences; BadSpec for options that are for images."""
        from keras_cnn.data.sequence_files import FILES
        from keras_cnn.data.sequences import load_sequences

        for field in fields(self):
            if (
                field.name not in ("data", "labels", "task", "augment", "window", "horizon")
                and getattr(self, field.name) != field.default
            ):
                raise BadSpec(f"--{field.name.replace('_', '-')} is for images, and {self.data} for sequences.")
        if Path(self.data).suffix.lower() not in FILES:
            raise BadData(f"{self.data}: the network reads sequences: give a file that ends in {', '.join(FILES)}.")
        label = tuple(self.labels or ()) or None
        told: dict[str, Any] = {"label": label} if self.window is None else {"targets": label}
        return load_sequences(
            self.data, window=self.window, horizon=self.horizon, val_split=val_split, seed=seed, **told
        )


@dataclass(frozen=True, kw_only=True)
class TrainingData(Dataset):
    """Data to learn from."""

    task: Annotated[
        str | None,
        typer.Option(
            help=f"What is learnt: {', '.join(MEANINGS)}; by default what the labels say, or the network is for."
        ),
    ] = None
    augment: Annotated[str, AUGMENT] = "light"
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Whether --augment mirrors images; by default unless they are glyphs, or classes speak of sides.",
        ),
    ] = None


def load(asked: TrainingData, config: Config, batch_size: int, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """(the data, decoded and told of; what `build` is told so that a network learns it).

    config: of the network, at the size at which it is to see images.
    """
    if asked.task is not None:
        one_of("task", asked.task, tuple(MEANINGS))
    loaded, task = (_sequences if config.backbone.SIDES == 1 else _images)(asked, config, batch_size, seed)
    if terminal.shown:
        console.note(str(loaded) if config.backbone.SIDES == 1 else f"{asked.data}: {loaded.summary}{_more(loaded)}")
    return loaded, _head(config, task, loaded)


def _images(asked: TrainingData, config: Config, batch_size: int, seed: int) -> tuple[Any, str]:
    """(images and labels, the task that they are learnt by)."""
    from keras_cnn.data import index, load_data

    if Path(asked.data).suffix.lower() == ".npz":
        raise BadData(f"{asked.data} holds sequences, and {config.name} reads images: give a network such as tcn.")
    splits = index(asked.source, seed=seed, wish=wish(asked.task, config), skip_bad=asked.skip_bad)
    if asked.task not in (None, splits.task) and set(map(str.lower, splits.class_names)) == {"images", "masks"}:
        raise BadData(f"{asked.data} has images and masks, and --task {asked.task} learns from classes of images.")
    task = _task(asked, config, splits.task)
    preprocess = config.preprocess
    if MEANINGS[task].whole and not config.head.meaning.whole:  # as `build` will
        preprocess = preprocess.whole()
    loaded = load_data(
        splits,
        preprocess,
        batch_size=batch_size,
        augment=None if asked.augment == "none" else asked.augment,
        mirror=asked.mirror,
        skip_bad=asked.skip_bad,
        channels=config.channels,
        seed=seed,
    )
    tell_ignored(loaded.ignored)
    if loaded.canvas:
        console.note("note: training sees a random part of each photo, another one in every epoch")
    return loaded, task


def _sequences(asked: TrainingData, config: Config, batch_size: int, seed: int) -> tuple[Any, str]:
    loaded = asked.sequences(val_split=0.2, seed=seed)
    return loaded, _task(asked, config, loaded.task)


def wish(task: str | None, config: Config) -> Any:
    """What labels are to be, for a network. task: said by a person."""
    from keras_cnn.data.labels import Wish

    return Wish(task and MEANINGS[task].labels, config.head.task)


def _task(asked: TrainingData, config: Config, labels: str) -> str:
    """The task: what was asked for, else the network's own where the labels are for it, else theirs."""
    own = config.head.task
    task = asked.task or (own if config.head.meaning.labels in (None, labels) else labels)
    if not asked.task and config.head.EVERYWHERE and not config.head.can(task):
        raise BadData(
            f"{asked.data} is for {task}, and {config.name} answers every pixel: give images with masks, or "
            f"--task {task}, for another head on its encoder."
        )
    if MEANINGS[task].labels not in (None, labels):
        raise BadData(f"{asked.data} is for {labels}, and --task {task} learns from data for {MEANINGS[task].labels}.")
    return task


def _head(config: Config, task: str, loaded: Any) -> dict[str, Any]:
    """What `build` is told: the network's own kind of head where it can answer for the task, else another."""
    from keras_cnn.models.decoders import UNet
    from keras_cnn.models.heads import Head

    meaning = MEANINGS[task]
    of_images = meaning.labels is None  # whose channels are what is learnt
    names = config.channels if of_images else loaded.class_names or loaded.targets
    more = {"horizon": loaded.horizon} if config.backbone.SIDES == 1 and meaning.in_units else {}
    if config.head.can(task):
        return {"task": task, **more} if meaning.direction else {"task": task, "classes": names, **more}
    if UNet.can(task):
        return {"head": UNet(classes=names, task=task, skip=None if of_images else "concat")}
    plain = Head(classes=0).for_task(task)
    return {"head": plain if meaning.direction else replace(plain, classes=names)}


def to_measure(asked: Dataset, config: Config) -> tuple[Any, list[str]]:
    """(data to measure a network on, found but not read yet; its splits)."""
    if config.backbone.SIDES == 1:
        found = asked.sequences()
        return found, list(found.sizes)
    from keras_cnn.data import index

    found = index(asked.source, val_split=0.0, training=False, wish=wish(None, config), skip_bad=asked.skip_bad)
    tell_ignored(found.ignored)
    return found, [name for name, _ in found.items()]


def tell_ignored(files: Sequence[str]) -> None:
    if files:
        console.note(f"note: files that are no images were ignored, {len(files)} in all, such as {files[0]}")


def _more(loaded: Any) -> str:
    """What to say where photos are far larger than the network sees them."""
    side, found = max(loaded.preprocess.size), loaded.look.sizes
    large = found and statistics.median(map(min, found)) >= 1.5 * side
    return f" (--size {2 * side} shows more)" if large else ""
