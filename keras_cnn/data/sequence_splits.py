"""What is learnt of sequences, as numbers, and which of them are for training: by chance, or cut in time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from keras_cnn.errors import BadData
from keras_cnn.models.config import check_class_names

Pair = tuple[np.ndarray, np.ndarray]
Splits = dict[str, Pair]
SPLITS = ("train", "val", "test")


def with_classes(pairs: Splits, where: str, names: tuple[str, ...]) -> tuple[Splits, tuple[str, ...]]:
    """The pairs with y as it is learnt, and the names of classes: none where y are decimal numbers."""
    if all(y.dtype.kind == "f" for _, y in pairs.values()) and not names:
        return {name: (x, _numbers(y, f"y of {name}")) for name, (x, y) in pairs.items()}, ()
    found = {name: (x, _plain(x, y, f"y of {name}")) for name, (x, y) in pairs.items()}
    known = np.unique(np.concatenate([y.reshape(-1) for _, y in found.values()]))
    by_number = bool(names) and known.dtype.kind != "U"
    classes = names or tuple(map(str, known.tolist()))
    check_class_names(classes)
    values = list(range(len(classes))) if by_number else list(classes) if names else known.tolist()
    if strange := [one for one in known.tolist() if one not in values]:
        raise BadData(f"{where} has the class {strange[0]!r}, which class_names lacks: {some(classes)}.")
    learnt = set(found["train"][1].reshape(-1).tolist())
    if unseen := [one for one in known.tolist() if one not in learnt]:
        raise BadData(f"{where}: no training sequence has the class {unseen[0]!r}: give it some, or leave it out.")
    if len(learnt) < 2:
        raise BadData(f"{where}: all is of one class, {known.tolist()[0]!r}: there is nothing to tell apart.")
    numbers = {value: i for i, value in enumerate(values)}
    number = np.vectorize(numbers.__getitem__, otypes=["int64"])
    return {name: (x, number(y)) for name, (x, y) in found.items()}, classes


def _plain(x: np.ndarray, y: np.ndarray, what: str) -> np.ndarray:
    """Classes, (n,) or (n, time), as whole numbers or texts."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 != x.shape[1] else y
    if y.shape not in (x.shape[:1], x.shape[:2]):
        raise BadData(f"{what} has the shape {y.shape}: give (n,) classes, or (n, time), here {x.shape[:2]}.")
    if y.dtype.kind == "f":
        raise BadData(
            f"{what} are decimal numbers where classes are needed: give whole ones, as y.astype(int), or texts."
        )
    return y.astype("int64") if y.dtype.kind in "biu" else y.astype(str)


def _numbers(y: np.ndarray, what: str) -> np.ndarray:
    """Targets, (n, targets) or (n, horizon, targets), as float32."""
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim > 3 or not np.isfinite(y).all():
        mend = "give (n, targets) or (n, horizon, targets)" if y.ndim > 3 else "it has NaN: leave those sequences out"
        raise BadData(f"{what} has the shape {y.shape}: {mend}.")
    return y.astype("float32")


def check_targets(y: np.ndarray, classes: tuple[str, ...], names: tuple[str, ...]) -> None:
    if classes:
        return
    still = np.flatnonzero(np.ptp(y.reshape(-1, y.shape[-1]), axis=0) == 0)
    if len(still):
        name = (names or numbered("target", y.shape[-1]))[still[0]]
        raise BadData(f"{name} is {y.reshape(-1, y.shape[-1])[0, still[0]]:g} in all training sequences: leave it out.")


def drawn(x: np.ndarray, y: np.ndarray, classes: bool, val_split: float, test_split: float, seed: int) -> Splits:
    """Splits by chance; of one class a sequence, of each class in proportion."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == one) for one in np.unique(y)] if classes and y.ndim == 1 else [np.arange(len(x))]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    for group in map(rng.permutation, groups):
        test = min(round(test_split * len(group)), len(group) - 1)
        val = min(round(val_split * len(group)), len(group) - 1 - test)
        for name, part in zip(("test", "val", "train"), np.split(group, [test, test + val]), strict=True):
            parts[name].append(part)
    rows = {name: np.sort(np.concatenate(found)) for name, found in parts.items()}
    return {name: (x[found], y[found]) for name, found in rows.items() if len(found)}


def windows(
    series: np.ndarray,
    targets: list[int],
    where: str,
    cut: tuple[int, int, int],
    val_split: float,
    test_split: float,
) -> Splits:
    """The windows of each part of a series, with the steps behind them."""
    window, horizon, stride = cut
    steps = len(series)
    test = steps - round(test_split * steps)
    val = test - round(val_split * steps)
    found: Splits = {}
    for name, part in zip(SPLITS, np.split(series, [val, test]), strict=True):
        if not len(part):
            continue
        if len(part) < window + horizon:
            raise BadData(
                f"{where} has {steps} steps, of which {len(part)} are for {name}: a window of {window} and the "
                f"{horizon} behind it need {window + horizon}: give shorter ones, or another val_split or test_split."
            )
        whole = np.lib.stride_tricks.sliding_window_view(part, window + horizon, axis=0)[::stride].swapaxes(1, 2)
        found[name] = np.ascontiguousarray(whole[:, :window]), np.ascontiguousarray(whole[:, window:, targets])
    return found


def numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}{i}" for i in range(1, count + 1))


def some(names: Iterable[str], most: int = 5) -> str:
    first = list(names)
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def count(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else f'{what}es' if what.endswith('s') else f'{what}s'}"
