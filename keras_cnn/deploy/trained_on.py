"""Which images a network was trained on, wherever it is found: in its run's directory, or in a file made of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from keras_cnn.checkpoints import directory, hashes
from keras_cnn.data import seen
from keras_cnn.data.seen import Known
from keras_cnn.deploy.opened import File, is_exported


def place(name: Any) -> Path | None:
    """The directory that a network, or its weights, are read from by this name: it, or that of the file."""
    if not isinstance(name, str | os.PathLike) or is_exported(name) or not os.path.exists(name):
        return None
    return Path(name) if os.path.isdir(name) else Path(name).parent


def of(network: Any) -> Known | None:
    """What is known of a run's directory, a file in it, or an exported `File`; None where nothing is.

    Hashes of before they told how images were seen are of images as their network sees them.
    """
    if isinstance(network, File):
        return _of_export(network)
    folder = place(network)
    known = folder and seen.read(folder / seen.FILE)
    if not folder or not known or known.preprocess is not None:
        return known or None
    return dataclasses.replace(known, preprocess=directory.read(folder).config.preprocess)


def keep(network: Any, beside: Path) -> str | None:
    """Write what is known of a network to a file; its sha256, None where nothing is known."""
    known = of(network)
    seen.write(beside, known.hashes if known else (), known and known.preprocess)
    return hashes.digest(beside) if beside.exists() else None


def beside(path: Path) -> Path:
    """Where an exported network's are kept: with it, yet apart, since it stays where it was made."""
    return path.with_name(f"{path.name}.{seen.FILE}")


def _of_export(file: File) -> Known | None:
    path, digest = beside(file.path), file.about.get("seen")
    if digest is None or not path.is_file() or hashes.digest(path) != digest:  # of another network that was here
        return None
    return seen.read(path)
