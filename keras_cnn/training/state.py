"""The directory of a run: who may write there, and the state from which one that was killed goes on.

A run leaves two files beside its weights. `progress.safetensors` is all that its course depends on, as it was when an
epoch began or after one of its batches: it goes when the run ends. The one before it stays, for the case that it is
damaged. `run.json` is written at the end: options and history, and the sign that the run is complete. Each is written
whole or not at all, with a checksum. `log.csv` is the history for people and spreadsheets.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from keras_cnn import files
from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.card import REPORT, pictures
from keras_cnn.checkpoints.directory import CONFIG, WEIGHTS
from keras_cnn.data import seen
from keras_cnn.errors import BadSpec, CannotWrite, CorruptFile, NotFinite, RunExists, RunWarning
from keras_cnn.training.place import ALONE, Place

STATE, PREVIOUS, RUN, LOG = "progress.safetensors", "progress.previous.safetensors", "run.json", "log.csv"
OLD = ("backup/latest.weights.h5", "backup/training_metadata.json")  # Keras' own backup, which `train` once had
FORMAT = 3  # of both files
EVERY = 20.0  # seconds between two writes: epochs on cached features are shorter than the writing
SPARSE = 20  # times as long as a write takes must lie between two within an epoch, so that they cost little

Facts = dict[str, Any]
State = tuple[arrays.Arrays, Facts]


# --- who may write ---------------------------------------------------------------------------------------------------


def left_in(out: Path) -> list[str]:
    """What a run or a save left in a directory, by its names; nothing where it may be written to unasked."""
    return [name for name in (STATE, PREVIOUS, RUN, WEIGHTS, CONFIG, *OLD) if (out / name).exists()]


def check(out: str | os.PathLike[str] | None, resume: bool = False, overwrite: bool = False) -> None:
    """Raise where a run may not write to `out`, before any work is done for it; nothing is made.

    resume: a run that is there goes on, or none is there. overwrite: what is there is to be replaced.
    Raises RunExists where a run or weights are there and neither was said, or nothing to go on from; RunInUse;
    CannotWrite.
    """
    if resume and overwrite:
        raise BadSpec("resume goes on with a run, overwrite replaces it: choose one of them.")
    if out is None:
        if resume or overwrite:
            raise BadSpec(f"{'resume' if resume else 'overwrite'}=True needs out: the directory of the run.")
        return
    out = Path(out)
    files.check_writable(out)
    if (out / files.LOCK).exists():
        with files.alone(out):
            pass
    there = left_in(out)
    if there and not (resume or overwrite):
        raise RunExists(
            f"{out} already holds a run or weights ({there[0]}): resume=True (--resume) goes on with it, "
            "overwrite=True (--overwrite) replaces it; or name another directory."
        )
    if there and resume and not {STATE, PREVIOUS, RUN} & set(there):
        raise RunExists(
            f"{out} holds {there[0]}, but no state of a run that this version could go on from: overwrite=True "
            "(--overwrite) begins anew; or name another directory."
        )


# --- the state -------------------------------------------------------------------------------------------------------


def write(path: Path, values: arrays.Arrays, facts: Mapping[str, Any]) -> None:
    """Write a state; what was there stays until this one is whole."""
    about = json.dumps({"format": FORMAT, "facts": facts, "sha256": _digest(facts, values)})
    arrays.write_arrays(values, path, {"state": about})


def read(path: Path) -> State:
    """The arrays and facts of a state; CorruptFile where one bit is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about = json.loads(file.metadata()["state"])
            values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path) from None
    return values, _sound(path, about, values)


def _read_last(out: Path) -> State | None:
    """The last state that was written there, or the one before it where that is damaged; None where there is none."""
    places = [path for name in (STATE, PREVIOUS) if (path := out / name).exists()]
    for path in places:
        try:
            return read(path)
        except CorruptFile:
            if path == places[-1]:
                raise
            warnings.warn(f"{path} is damaged: the run goes on from the state before it.", RunWarning, 5)
    return None


def read_end(path: Path) -> Facts:
    """What a run that is complete noted."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    return _sound(path, about)


def _sound(path: Path, about: Any, values: arrays.Arrays | None = None) -> Facts:
    """The facts, once they and the arrays are known to be what was written."""
    if not isinstance(about, dict):
        raise _damaged(path)
    if about.get("format") != FORMAT:
        raise RunExists(
            f"{path} was written by another version of keras_cnn, which alone can go on with it: overwrite=True "
            "(--overwrite) begins anew."
        )
    if about.get("sha256") != _digest(about.get("facts"), values):
        raise _damaged(path)
    return about["facts"]


def _damaged(path: Path) -> CorruptFile:
    return CorruptFile(
        f"{path} is damaged, so that the run cannot go on from it: overwrite=True (--overwrite) begins anew. "
        f"The weights beside it, if there are any, are those of the best epoch so far."
    )


def _digest(facts: Any, values: arrays.Arrays | None = None) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256((text + arrays.digest(dict(sorted((values or {}).items())))).encode()).hexdigest()


# --- the run ---------------------------------------------------------------------------------------------------------


class Run:
    """One run in its directory, which it holds as long as the `with` block lasts; without `out`, nothing is kept.

    options: all that its course depends on; one that began otherwise does not go on.
    known: gives its training images, kept beside its first weights.
    here: this worker, where several train together. The chief alone writes; the others read what it goes on from, once
    that is ready, and all have to have read the same.
    state: what it goes on from, once it is entered. end: what it noted, where it is already complete.
    busy: whether a signal to stop has to wait for the end of a batch, after which the state is written. asked: by which
    signal the run was told so.
    """

    busy = False
    asked: int | None = None

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        options: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        known: Callable[[], seen.Known] = lambda: seen.Known(frozenset()),
        here: Place = ALONE,
    ) -> None:
        self.out = None if out is None else Path(out)
        self.here = here
        self.options = json.loads(json.dumps(options))  # as they are read back
        self.resume, self.overwrite, self._know = resume, overwrite, known
        self.state: State | None = None
        self.end: Facts | None = None
        self.written, self._took = -math.inf, 0.0  # when a state was written last, and how long that took
        self._known: seen.Known | None = None  # what is to be kept beside the first weights
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Run:
        if self.out is None:
            return self
        with self._held:
            if self.here.chief:
                check(self.out, self.resume, self.overwrite)
                self._held.enter_context(files.holding(self.out))
                check(self.out, self.resume, self.overwrite)  # another may have been faster
                for name in (STATE, RUN, LOG):
                    files.clear_beside(self.out / name)  # of a run that was killed as it wrote
                self._clear(self.out)
            self.here.meet()
            self._begin(self.out)
            self._held.enter_context(self._heeding())
            self._held = self._held.pop_all()
        self.here.meet(_digest([self.state and self.state[1], self.end]))
        return self

    def _clear(self, out: Path) -> None:
        """Remove what this run is not to go on from."""
        if self.overwrite:  # the weights stay until there are better ones
            for name in (STATE, PREVIOUS, RUN, LOG, REPORT, *pictures(), *OLD):
                (out / name).unlink(missing_ok=True)
        if (out / RUN).exists():  # where it was killed between its last two steps
            for name in (STATE, PREVIOUS):
                (out / name).unlink(missing_ok=True)

    def _begin(self, out: Path) -> None:
        if (out / RUN).exists():
            self.end = read_end(out / RUN)
            self._compare(self.end["options"])
        else:
            self.state = _read_last(out)
            if self.state:
                self._compare(self.state[1]["options"])
        if self.here.chief and self.end is None and not (self.state and (out / seen.FILE).exists()):
            self._known = self._know()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._held.close()
        if error is None and self.asked is not None:  # in the last epoch, after whose end there was nothing to stop
            self.stop(self.asked)
        if isinstance(error, NotFinite) and self.out is not None and self.here.chief:
            for name in (STATE, PREVIOUS):
                (self.out / name).unlink(missing_ok=True)  # going on would end there again
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and self.out is not None:
            raise CannotWrite(
                f"the disk is full ({error.filename or self.out}): free some space, then go on with resume=True "
                "(--resume)."
            ) from error

    def _compare(self, before: Mapping[str, Any]) -> None:
        # An option that is left unsaid, and that there was none of when the run began, changes nothing; nor does the
        # precision of runs of fine_tune that did not tell it.
        unsaid = (None, "float32")
        now = {name: value for name, value in self.options.items() if name in before or value not in unsaid}
        if told := files.differences(before, now):
            raise BadSpec(
                f"{self.out} holds a run that began otherwise: {told}. Repeat it as it began; or overwrite=True "
                "(--overwrite) replaces it."
            )

    def keep(self, make: Callable[[], State], now: bool = False, amid: bool = False) -> None:
        """Write the state, if the last writing is a while ago. amid: within an epoch, where it is done more rarely."""
        pause = max(EVERY, SPARSE * self._took) if amid else EVERY
        begun = time.monotonic()
        if self.out is None or not self.here.chief or (not now and begun - self.written < pause):
            return
        arrays, facts = make()
        with contextlib.suppress(OSError):  # where there is none yet, or no file system for a second name
            (self.out / PREVIOUS).unlink(missing_ok=True)
            os.link(self.out / STATE, self.out / PREVIOUS)
        write(self.out / STATE, arrays, {"options": self.options, **facts})
        self.written = time.monotonic()
        self._took = self.written - begun

    def stop(self, number: int) -> NoReturn:
        """End as the signal of this number says: Ctrl-C, or what a scheduler sends before it kills."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        print(f"stopped: {self.out} keeps what is done; resume=True (--resume) goes on with it", file=sys.stderr)
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def _heeding(self) -> Iterator[None]:
        """Let signals to stop wait while a batch is learnt; a second one does not wait."""

        def heed(number: int, frame: Any) -> None:
            if not self.busy or self.asked is not None:
                self.stop(number)
            self.asked = number

        before = {}
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}  # else the user's own
            before = {
                number: signal.signal(number, heed) for number, own in usual.items() if signal.getsignal(number) == own
            }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def log(self, rows: list[Facts]) -> None:
        """Write what each epoch so far gave; called before its weights are written."""
        if self.out is None or not self.here.chief:
            return
        if self._known is not None:
            seen.write(self.out / seen.FILE, self._known.hashes, self._known.preprocess)
            self._known = None
        text = io.StringIO()
        writer = csv.DictWriter(
            text, ["epoch", *dict.fromkeys(key for row in rows for key in row)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({"epoch": i, **row} for i, row in enumerate(rows))
        files.write_text(self.out / LOG, text.getvalue())

    def finish(self, facts: Facts) -> None:
        """Note that the run is complete, after its last weights were written."""
        if self.out is None or not self.here.chief:
            return
        facts = json.loads(json.dumps({"options": self.options, **facts}))
        about = {"format": FORMAT, "sha256": _digest(facts), "facts": facts}
        files.write_text(self.out / RUN, json.dumps(about, indent=1) + "\n")
        for name in (STATE, PREVIOUS):
            (self.out / name).unlink(missing_ok=True)
        files.clear_beside(self.out / STATE)
