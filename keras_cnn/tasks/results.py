"""How good a network is on labelled images: what every task's result is made of, and what collects it."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, repr=False)
class Result(abc.ABC):
    """How good a network is on labelled images; each task has its own figures and pictures.

    labels: of the images, as the network numbers its classes. outputs: of the network, in the same order.
    names: of the images, their paths where they are files. class_names: of the network's classes or targets, where it
    knows them. skipped: names of unreadable images that were left out. trained_on: the same for images that the network
    was trained on, which are not counted here; None where nothing is known of them.
    """

    labels: np.ndarray
    outputs: np.ndarray
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    trained_on: Result | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in self.metrics.items() if key != "images")
        sure = "".join(f" ({low:.1%} to {high:.1%})" for low, high in [*self.intervals.values()][:1])
        return f"<{type(self).__name__}: {len(self):,} images{', ' + figures if figures else ''}{sure}>"

    @property
    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """The figures, the one that is monitored first, and the number of images; this alone where there are none."""

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of those metrics that are shares of the images: where the true share lies, with 95 % confidence."""
        return {}

    @property
    def counts(self) -> dict[str, int]:
        """Of images, which a share alone does not tell."""
        return {}

    def details(self) -> dict[str, Any]:
        """Lists of rows by their title: figures by class or target, and the images that are worst."""
        return {}

    def pictures(self, folder: str | Path) -> dict[str, str]:
        """Draw what shows the result into a folder: file names, each with its title."""
        return {}

    def name_of(self, label: int) -> str:
        """A class or target by its name, or its number where it has none."""
        return self.class_names[label] if self.class_names else str(label)

    def image(self, i: int) -> str:
        """An image by its name, or its place where it has none."""
        return self.names[i] if self.names else f"images[{i}]"


class Gathering:
    """Collects images one by one, and makes a result of them. kind: of the result."""

    def __init__(self, kind: Callable[..., Result], outputs: tuple[int, ...], class_names: tuple[str, ...]) -> None:
        self.kind, self.outputs, self.class_names = kind, outputs, class_names
        self.names: list[str] = []
        self.labels: list[Any] = []
        self.rows: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, image: np.ndarray, label: Any, row: np.ndarray) -> None:
        self.names.append(name)
        self.labels.append(label)
        self.rows.append(row)

    def result(self, **facts: Any) -> Result:
        rows = np.stack(self.rows) if self.rows else np.empty((0, *self.outputs), "float32")
        labels = np.array(self.labels) if self.rows else np.empty((0,), int)
        return self.kind(labels, rows, tuple(self.names), self.class_names, **facts)


class Some:
    """Some of what is offered, for pictures: each with the same chance (Vitter 1985, algorithm R), since data often
    begins with what is alike. most: how many; kept: these."""

    def __init__(self, most: int) -> None:
        self.most, self.offered, self.kept = most, 0, list[Any]()
        self.draws = np.random.default_rng(0)

    def offer(self, one: Any) -> None:
        self.offered += 1
        if len(self.kept) < self.most:
            self.kept.append(one)
        elif (place := int(self.draws.integers(self.offered))) < self.most:
            self.kept[place] = one


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share, hits of `of`: Wilson's (1927), right near 0 and 1 and for few. z: 1.96 for 95 %.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    middle = (hits + z**2 / 2) / (of + z**2)
    half = z / (of + z**2) * math.sqrt(hits * (of - hits) / of + z**2 / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)
