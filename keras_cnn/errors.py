"""The exceptions that people meet; each message says what was wrong, where, and what to do.

They derive from `ValueError`, so that code written for Keras' own errors catches them, and
the command line turns any of them into one sentence and exit code 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class KerasCnnError(ValueError):
    """Base of every error that the caller can mend."""

    @classmethod
    def quoted_in(cls, error: BaseException) -> str | None:
        """The message of such an error in another one's: tf.data hands on what a decoder raised as text."""
        _, found, sentence = str(error).partition(f"{cls.__name__}: ")
        return sentence.splitlines()[0] if found else None

    @classmethod
    @contextlib.contextmanager
    def surfacing(cls) -> Iterator[None]:
        """Raise such an error itself where another one quotes it: tf.data reads images anew for each pass."""
        try:
            yield
        except Exception as error:
            quoted = None if isinstance(error, KerasCnnError) else cls.quoted_in(error)
            if quoted is None:
                raise
            raise cls(quoted) from None


class UnknownModel(KerasCnnError):
    """No architecture or catalogue tag has this name; the message lists the nearest ones."""


class BadSpec(KerasCnnError):
    """A keyword of a network has a value that cannot be built."""


class UnknownOption(KerasCnnError, TypeError):
    """A function has no option of this name, or an option not this value from elsewhere; the message has the mend."""


class WeightsMismatch(KerasCnnError):
    """The arrays do not fit the network; the message lists keys with - (missing) and + (unexpected)."""


class CorruptFile(KerasCnnError):
    """A file is truncated, tampered with, or not what its name says."""


class UnsafeFile(KerasCnnError):
    """A file would have to execute code to be read, or leads to other files; it was not read."""


class MissingPackage(KerasCnnError):
    """An optional package is needed for this; the message says how to install it."""


class BadImage(KerasCnnError):
    """An image cannot be read; the message names the file."""


class BadData(KerasCnnError):
    """A data set cannot be used as it is; the message names the folder or the class."""


class RunExists(KerasCnnError):
    """A directory holds a run or weights, and nobody said what is to become of them."""


class RunInUse(KerasCnnError):
    """Another run, in this process or another one, writes to the directory."""


class CannotWrite(KerasCnnError):
    """A directory cannot be made or written to, or its disk is full; the message says why."""


class LostWorker(KerasCnnError):
    """A worker that trains with others did not come, or is gone. Commands end with 75: try again."""


class NotFinite(KerasCnnError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class HubError(KerasCnnError):
    """The hub refused, or went wrong; the message says what to do. Its subclasses say which."""


class NotFound(HubError):
    """There is no such repository or revision, or it holds no weights that this package reads."""


class NoAccess(HubError):
    """A repository is private or gated, or the token is missing or refused."""


class Offline(HubError):
    """The hub cannot be reached or does not answer as one, and what is needed from it is not in the cache."""


class Conflict(HubError):
    """Someone else changed the repository in between, the tag is taken, or a public repository was to be private."""


class CacheError(KerasCnnError):
    """The cache cannot be written: the disk is full, or the folder read-only."""


class DataWarning(UserWarning):
    """Images are understood in a way that could be meant otherwise."""


class CacheWarning(UserWarning):
    """A cache cannot be used; the work goes on without it."""


class FoldWarning(UserWarning):
    """A network is used as it is, since its folded copy answers otherwise."""


class HubWarning(UserWarning):
    """The hub cannot be reached or does not answer as one, and a cached revision stands in for it."""


class LicenceWarning(UserWarning):
    """The licence of the weights rules out commercial use."""


class MemoryWarning(UserWarning):
    """Memory does not hold a batch; smaller ones are tried."""


class RunWarning(UserWarning):
    """A run goes on, but not exactly as it would have."""


class SlowStart(UserWarning):
    """TensorFlow was imported before this package could choose its settings, and others would be faster here."""


class WeightsWarning(UserWarning):
    """The weights hold NaN or infinite values, or are random where trained ones are needed."""


class ReachWarning(UserWarning):
    """A network answers for whole sequences, and its receptive field is shorter than they are."""


class PixelWarning(UserWarning):
    """Images are in another range than the network takes."""
