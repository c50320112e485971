"""What the command line shows: results, notes, sentences for errors; and the quiet start of the framework.

Everything that is shown passes through `terminal.plain` here: names of files and classes are text, whatever is in them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_cnn import runtime, terminal
from keras_cnn.errors import BadImage, KerasCnnError, WeightsMismatch
from keras_cnn.terminal import plain

if TYPE_CHECKING:
    from keras_cnn.cli.tables import Table

SKIP = "Or leave such images out with --skip-bad."
verbose = False  # -v: tracebacks and logs


def begin() -> None:
    """Make the process' streams, warnings and logs ours; none of them fails for a character that they cannot write."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    warnings.showwarning = show_warning
    log = logging.getLogger("keras_cnn")
    log.handlers, log.propagate = [_Notes()], False
    set_verbose(False)
    set_quiet(False)


def set_verbose(on: bool) -> None:
    global verbose
    verbose = on
    logging.getLogger("keras_cnn").setLevel(logging.DEBUG if on else logging.WARNING)


def set_quiet(on: bool) -> None:
    terminal.shown = not on


def show(*things: str | Table) -> None:
    """Print results: a line for each text, however long; tables as wide as they are, if that fits the terminal."""
    for i, thing in enumerate(things):
        if isinstance(thing, str):
            print(plain(thing))
        else:
            print("\n" * bool(i) + "\n".join(thing.lines(_columns())))


def note(*lines: str) -> None:
    """Tell something beside the results: stdout holds results only, so that --json can be piped on."""
    print("\n".join(map(plain, lines)), file=sys.stderr)


def quoted(path: object) -> str:
    """A path as it can be pasted into a command."""
    return shlex.quote(plain(path))


def _columns() -> int | None:
    """Of the terminal; None where stdout is none, and lines may be as long as they like."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def framework(seed: int | None = None, training: bool = True) -> Any:
    """Import Keras and its backend, set up for what the command does, with their chatter kept off the terminal."""
    settings(training)
    with quiet():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("ERROR")
        import keras_cnn

        if seed is not None:
            keras.utils.set_random_seed(seed)
        keras.ops.zeros(())
    warnings.filterwarnings("ignore", module=r"(keras|tensorflow)(\.|$)")
    return keras_cnn


def settings(training: bool = True) -> None:
    """What has to be set before TensorFlow is imported."""
    runtime.prepare(training)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what native code writes to stderr; show it when the block fails."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def verbosity(as_json: bool) -> int:
    """Keras' progress: a bar on a terminal, a line an epoch in a file, nothing with --quiet or beside JSON."""
    if as_json or not terminal.shown:
        return 0
    return 1 if sys.stdout.isatty() else 2


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Show a warning: ours as a sentence, others with the place that they come from."""
    ours = category.__module__.startswith("keras_cnn")
    place = warnings.formatwarning(message, category, filename, lineno).splitlines()
    note(*([f"note: {message}"] if ours else place))


def fail(error: BaseException) -> bool:
    """Tell an error that the user can mend; False for a bug."""
    sentence = explain(error)
    if sentence is None:
        return False
    if verbose:
        note(*"".join(traceback.format_exception(error)).splitlines())
    # Keys that do not fit are a list, a line each; a line break in another message is a stranger's.
    lines = sentence.split("\n") if isinstance(error, WeightsMismatch) else [sentence]
    note(f"error: {lines[0]}", *lines[1:])
    return True


def explain(error: BaseException) -> str | None:
    """The sentence for an error that the user can mend; None for a bug."""
    if isinstance(error, BadImage):
        return f"{error} {SKIP}"
    if isinstance(error, KerasCnnError):
        return " ".join([str(error), *getattr(error, "__notes__", ())])
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}: free some space and run the command again."
    if isinstance(error, OSError) and error.filename:  # rights, a read-only disk, a file where a folder should be
        return f"{error.filename}: {error.strerror}."
    quoted = BadImage.quoted_in(error)
    return f"{quoted} {SKIP}" if quoted else None
