"""Images that come one by one, answered in batches."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from keras_cnn.deploy.intake import Busy

WAIT = 0.004  # seconds that a batch waits for images that are being decoded


@dataclass
class Batcher:
    """Answers images that come one by one in batches: what waits while one batch is computed is the next one.

    predict: answers a list of photos, `batch_size` at once; called in a thread of its own. decoders: where images are
    decoded. waiting: images that may be decoded or wait, beyond which others are turned away.
    """

    predict: Any
    decoders: Executor
    waiting: int
    tasks: queue.SimpleQueue[tuple[Any, int, Future[Any]] | None] = field(default_factory=queue.SimpleQueue)
    inside: int = 0  # images whose answer is awaited
    coming: int = 0  # those of them that are being decoded

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    async def answer(self, read: Callable[[], Any], top: int) -> Any:
        """The answer for the photo that `read` gives. Raises Busy, and what `read` raises."""
        if self.inside >= self.waiting:
            raise Busy("too many images are waiting: ask again in a second.")
        self.inside += 1
        try:
            self.coming += 1
            try:
                photo = await asyncio.get_running_loop().run_in_executor(self.decoders, read)
            finally:
                self.coming -= 1
            made: Future[Any] = Future()
            self.tasks.put((photo, top, made))
            return await asyncio.wrap_future(made)
        finally:
            self.inside -= 1

    def close(self) -> None:
        """Answer what waits, then end."""
        self.tasks.put(None)
        self.thread.join()

    def _work(self) -> None:
        last = False
        while not last:
            batch = [self.tasks.get()]
            until = time.monotonic() + WAIT
            while batch[-1] is not None and len(batch) < self.predict.batch_size:
                try:  # nobody waits for images that are not on their way
                    batch.append(self.tasks.get(self.coming > 0, max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            last = batch[-1] is None
            if asked := [one for one in batch if one is not None and one[2].set_running_or_notify_cancel()]:
                self._answer(asked)

    def _answer(self, asked: list[tuple[Any, int, Future[Any]]]) -> None:
        try:
            answers = self.predict([photo for photo, *_ in asked], top=max(top for _, top, _ in asked))
        except Exception as error:  # for each who asked: the service goes on
            for *_, made in asked:
                made.set_exception(error)
            return
        for answer, (_, _, made) in zip(answers, asked, strict=True):
            made.set_result(answer)
