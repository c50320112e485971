"""What the command line shows: tables, progress, sentences for errors; and the quiet start of the framework."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from keras_cnn.errors import BadImage, KerasCnnError

console = Console()
notes = Console(stderr=True)  # stdout holds results only, so that --json can be piped on


def framework(seed: int | None = None) -> Any:
    """Import Keras and its backend with their start-up chatter kept off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
    """Keras' progress: a bar on a terminal, a line an epoch in a file, nothing between the lines of JSON."""
    if as_json:
        return 0
    return 1 if sys.stdout.isatty() else 2


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Show a warning: ours as a sentence, others with the place that they come from."""
    ours = category.__module__.startswith("keras_cnn")
    text = f"note: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno)
    print(text, end="", file=sys.stderr)


def explain(error: BaseException) -> str | None:
    """The sentence for an error that the user can mend; None for a bug."""
    if isinstance(error, KerasCnnError):
        return " ".join([str(error), *getattr(error, "__notes__", ())])
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}: free some space and run the command again."
    if isinstance(error, OSError) and error.filename:  # rights, a read-only disk, a file where a folder should be
        return f"{error.filename}: {error.strerror}."
    return BadImage.quoted_in(error)
