"""What a service takes from strangers: whole images within bounds, decoded apart from the network that answers them."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect

from keras_cnn import runtime
from keras_cnn.data.files import Source
from keras_cnn.data.images import MODES, decoded_by, pixels_of, resize_and_crop
from keras_cnn.data.stream import Photo
from keras_cnn.errors import BadImage, KerasCnnError
from keras_cnn.models.config import Preprocess
from keras_cnn.models.fields import known_options, within

MEGABYTE = 2**20
HELD = 256 * MEGABYTE  # of images that are on their way or wait to be decoded, over all senders
LARGE = 4_000_000  # pixels whose memory is worth the milliseconds that giving it back takes
FORMS = {"multipart/": "a form", "application/json": "JSON"}  # what people send instead of an image's bytes


class Busy(KerasCnnError):
    """More is waiting than a service holds."""


class TooLarge(KerasCnnError):
    """An image has more bytes than are taken."""


class TooSlow(KerasCnnError):
    """An image was not here in time."""


class HungUp(KerasCnnError):
    """A sender went away before the end; nobody reads the answer."""


@known_options
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes from strangers.

    megabytes, megapixels: of one image; phones take 50 million pixels. seconds: in which a request has to be here.
    waiting: images of a network that wait for their answer, beyond which others are turned away. rate: requests of one
    address a second, over ten seconds; 0 for any number.
    """

    megabytes: float = 10.0
    megapixels: float = 51.0
    seconds: float = 20.0
    waiting: int = 256
    rate: float = 0.0

    def __post_init__(self) -> None:
        within("megabytes", self.megabytes, 0.01, 1024.0)
        within("megapixels", self.megapixels, 0.001, 1e5)
        within("seconds", self.seconds, 0.1, 3600.0)
        within("waiting", self.waiting, 1, 10**6)
        within("rate", self.rate, 0.0, 1e6)


class Intake:
    """Bodies of requests, whole; over all of them no more than so many bytes at a time."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held, self.bytes = limits, 0, int(limits.megabytes * MEGABYTE)
        self.most = max(HELD, 2 * self.bytes)
        self.tidying: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def body(self, request: Any) -> AsyncIterator[Source]:
        """The image that is sent, held until the end of the block."""
        size = request.headers.get("content-length", "")
        if size.isdecimal() and int(size) > self.bytes:
            raise self._too_large()
        content = bytearray()
        try:
            await self._fill(content, request)
            whole = bytes(content)
            yield Source("image", "the image", lambda: io.BytesIO(whole))
        finally:
            self.held -= len(content)
            if len(content) > MEGABYTE and self.tidying is None:
                self.tidying = asyncio.get_running_loop().call_later(1.0, self._tidy)

    def _tidy(self) -> None:
        self.tidying = None
        asyncio.get_running_loop().run_in_executor(None, runtime.give_back)

    async def _fill(self, content: bytearray, request: Any) -> None:
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    content += part
                    self.held += len(part)
                    if len(content) > self.bytes:
                        raise self._too_large()
                    if self.held > self.most:
                        raise Busy("too many images are being sent: ask again in a second.")
        except TimeoutError:
            raise TooSlow(f"the image was not here within {self.limits.seconds:g} s.") from None
        except ClientDisconnect:
            raise HungUp("the sender hung up.") from None
        if not content:
            raise BadImage("the body is empty: send the bytes of an image.")
        kind = request.headers.get("content-type", "")
        for form, what in FORMS.items():
            if kind.startswith(form):
                raise BadImage(f"the body is {what}: send the image's own bytes, as curl --data-binary does.")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the image has more than {self.limits.megabytes:g} MB.")


def photo(source: Source, preprocess: Preprocess, limits: Limits) -> Photo:
    """The pixels of an image as a network sees them. Raises BadImage."""
    large = False

    def opened(image: Any) -> None:
        nonlocal large
        pixels, most = image.width * image.height, limits.megapixels
        large = pixels > LARGE
        if pixels > most * 1e6:
            sides = f"{image.width}x{image.height}"
            raise BadImage(f"the image has {sides} pixels, and {most:g} million are taken: shrink it first.")

    def seen(image: Any) -> np.ndarray:
        return pixels_of(image, MODES[len(preprocess.mean)], preprocess.window)

    try:
        image = decoded_by(seen, source.read, source.name, opened)
        return Photo(resize_and_crop(image, preprocess, name=source.name), (image.shape[0], image.shape[1]))
    except BadImage as error:
        said = str(error)
    finally:
        if large:
            image = None
            runtime.give_back()
    raise BadImage(said)  # anew: the first one's traceback holds the pixels


class Rates:
    """How often addresses asked over the last seconds; quiet ones are forgotten."""

    def __init__(self, rate: float, span: float = 10.0) -> None:
        self.most, self.span, self.recent = rate * span, span, dict[str, deque[float]]()

    def too_often(self, address: str) -> bool:
        if not self.most:
            return False
        now = time.monotonic()
        for other in [one for one, times in self.recent.items() if times and now - times[-1] > self.span]:
            del self.recent[other]
        times = self.recent.setdefault(address, deque())
        while times and now - times[0] > self.span:
            times.popleft()
        if len(times) >= self.most:
            return True
        times.append(now)
        return False
