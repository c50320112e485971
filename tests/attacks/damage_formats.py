"""Damage files of weights at random, and tell what reading them led to.

    python tests/attacks/damage_formats.py --trials 500 [--memory 2048]

Every trial takes a whole file or directory, damages it once (flipped bits, a piece cut out, doubled, zeroed or
shuffled, a value of the header exchanged) and reads it as a user would. The outcomes, of which only the first three are
right: `same` (the damage changed no number), `refused` (one sentence of ours), `warned`, `other values` (read without a
word: silently wrong, unless nothing in the format can tell), `crashed` (any other exception).
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

import foreign
import repositories
import seeded
import torch_files

from keras_cnn.checkpoints import card, convert, directory
from keras_cnn.checkpoints.convert import keras_applications, timm
from keras_cnn.checkpoints.convert.rename import to_theirs
from keras_cnn.data.images import load_image
from keras_cnn.errors import KerasCnnError
from keras_cnn.models import registry, shapes

Subject = Callable[[Path], tuple[list[Path], Callable[[], object]]]
CONFIG = repositories.config("resnet20")
ODD = (None, True, -1, 0, 0.5, 10**30, 1e300, 1e-320, float("nan"), "", "a/b", "\ud800", "x\ny", [], [[]], {}, {"": 1})


# --- subjects: (what is damaged, how it is read) ----------------------------------------------------------------------


def ours(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """A weights directory of ours, as `build` and `info` read it."""
    repositories.write(repositories.ours(), folder / "net")

    def read() -> object:
        source = directory.read(folder / "net")
        card.card(source.config, "net").encode()
        return _digest(source.load()[1]) if source.load else None

    return [folder / "net" / "model.safetensors", folder / "net" / "config.json"], read


def _state() -> dict[str, np.ndarray]:
    values = seeded.arrays(shapes.variables(shapes.tally(CONFIG)))
    return {k: np.ascontiguousarray(v) for k, v in to_theirs(values, CONFIG.backbone, timm.FORMAT).items()}


def safetensors(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    """A bare file, of which nothing tells the hash."""
    save_file(_state(), folder / "w.safetensors")
    return [folder / "w.safetensors"], lambda: _converted(folder / "w.safetensors", CONFIG)


def pytorch(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    torch_files.save(folder / "w.pth", _state())
    return [folder / "w.pth"], lambda: _converted(folder / "w.pth", CONFIG)


def h5(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    name = "keras_resnet50v2"
    config = registry.get(name)
    config = config.with_(backbone=config.backbone.with_(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8)))
    values = seeded.arrays(shapes.variables(shapes.tally(config)))
    state = to_theirs(values, config.backbone, keras_applications.FORMAT)
    foreign.write_h5(folder / "w.h5", state)
    return [folder / "w.h5"], lambda: _converted(folder / "w.h5", config)


def images(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    from PIL import Image

    Image.fromarray(seeded.image(64)[0]).save(folder / "x.png")
    return [folder / "x.png"], lambda: _digest({"x": np.asarray(load_image(folder / "x.png", CONFIG.preprocess))})


SUBJECTS: dict[str, Subject] = {
    "ours": ours,
    "safetensors": safetensors,
    "pytorch": pytorch,
    "h5": h5,
    "images": images,
}


def _converted(path: Path, config: object) -> object:
    return _digest(directory.finite(*convert.read(path, config))[1])  # type: ignore[arg-type]


def _digest(values: dict[str, np.ndarray]) -> object:
    return tuple(sorted((key, value.shape, value.astype("float32").tobytes()) for key, value in values.items()))


# --- damages ----------------------------------------------------------------------------------------------------------


def damage(content: bytes, rng: random.Random) -> bytes:
    """One damage of bytes: more often near the ends, where headers are."""
    data = bytearray(content)
    near = rng.choice([len(data), min(len(data), 4096), min(len(data), 64)])
    at = rng.randrange(near) if rng.random() < 0.7 else len(data) - 1 - rng.randrange(near)
    length = rng.choice([1, 8, 100, 5000])
    kind = rng.choice(["bit", "byte", "cut", "end", "double", "zero", "shuffle"])
    if kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = rng.choice([0, 0xFF, 0x7F, rng.randrange(256)])
    elif kind == "cut":
        del data[at : at + length]
    elif kind == "end":
        del data[at:]
    elif kind == "double":
        data[at:at] = data[at : at + length]
    else:
        piece = bytearray(len(data[at : at + length]))
        piece = piece if kind == "zero" else bytearray(rng.sample(data[at : at + length], len(piece)))
        data[at : at + length] = piece
    return bytes(data)


def exchange(content: bytes, rng: random.Random) -> bytes:
    """A configuration with one value, anywhere, exchanged or left out."""
    values = json.loads(content)
    places = list(_places(values))
    holder, key = rng.choice(places)
    if rng.random() < 0.15:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)
    return json.dumps(values).encode()


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        yield values, key
        yield from _places(value)


# --- trials -----------------------------------------------------------------------------------------------------------


def outcome(read: Callable[[], object], whole: object) -> tuple[str, str]:
    """What reading led to, and for a crash what it was."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = read()
        except KerasCnnError as error:
            return ("refused", "") if len(str(error)) < 3000 else ("crashed", f"a long sentence: {str(error)[:80]}")
        except Exception as error:
            return "crashed", f"{type(error).__name__}: {str(error)[:100]}"
    if found == whole:
        return "same", ""
    ours = [w for w in told if w.category.__module__.startswith("keras_cnn")]
    return ("warned", "") if ours else ("other values", "")


def changed(path: Path, content: bytes, rng: random.Random) -> bytes:
    """A file damaged: where it is a configuration, mostly one value of it exchanged."""
    return (exchange if path.suffix == ".json" and rng.random() < 0.7 else damage)(content, rng)


def trials(
    subject: Subject, count: int, seed: int = 0, change: Callable[[Path, bytes, random.Random], bytes] = changed
) -> tuple[collections.Counter, list[str]]:
    """Outcomes of `count` random damages, and the crashes."""
    rng, counts, crashes = random.Random(seed), collections.Counter(), []
    with tempfile.TemporaryDirectory() as name:
        paths, read = subject(Path(name))
        whole, contents = read(), {path: path.read_bytes() for path in paths}
        for _ in range(count):
            path = rng.choice(paths)
            path.write_bytes(change(path, contents[path], rng))
            found, crash = outcome(read, whole)
            counts[found] += 1
            crashes += [crash] if crash else []
            path.write_bytes(contents[path])
    return counts, crashes


def main(
    about: str | None = __doc__,
    subjects: Mapping[str, Subject] = SUBJECTS,
    change: Callable[[Path, bytes, random.Random], bytes] = changed,
) -> None:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0, help="bound of the address space in MiB; 0 for none")
    parser.add_argument("subjects", nargs="*", default=list(subjects))
    options = parser.parse_args()
    if options.memory:
        resource.setrlimit(resource.RLIMIT_AS, (options.memory * 2**20,) * 2)
    print("| what | same | refused | warned | other values | crashed |\n|---|---|---|---|---|---|")
    for subject in options.subjects:
        counts, crashes = trials(subjects[subject], options.trials, options.seed, change)
        row = [counts[key] for key in ("same", "refused", "warned", "other values", "crashed")]
        print(f"| {subject} | " + " | ".join(map(str, row)) + " |", flush=True)
        for crash in sorted(set(crashes)):
            print(f"  {crashes.count(crash)} x {crash}", file=sys.stderr)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
