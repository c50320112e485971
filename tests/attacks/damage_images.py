"""Damage images and zips at random, and count what reading them ends in; `python tests/attacks/damage_images.py`.

What is promised: an image is decoded, or refused by BadImage in one sentence (a zip also by BadData); never another
exception, never more memory than MOST_MEMORY beyond what the process had, never longer than SLOWEST.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from keras_cnn import data
from keras_cnn.errors import BadData, BadImage
from keras_cnn.models.config import Preprocess

MOST_MEMORY = 3 << 29  # bytes, as the largest WebP needs
SLOWEST = 30.0  # seconds of processor time for one image or zip
SMALL = Preprocess(size=(16, 16), crop=1.0)
FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers.zip"


def originals(flowers: Path = FLOWERS, photos: int = 5) -> dict[str, bytes]:
    """Whole files of every format and mode, by name; some photos, where they are there."""
    draws = np.random.default_rng(0)
    colour = Image.fromarray(draws.integers(0, 256, (40, 48, 4), dtype=np.uint8)).resize((96, 80))
    deep = Image.fromarray(draws.integers(0, 4096, (20, 24), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    frames = {"save_all": True, "append_images": [colour.convert("RGB").rotate(90)]}
    made = {
        "rgb.png": ("RGB", "PNG", {}),
        "rgba.png": ("RGBA", "PNG", {}),
        "la.png": ("LA", "PNG", {}),
        "bilevel.png": ("1", "PNG", {}),
        "palette.png": ("P", "PNG", {"transparency": 3}),
        "baseline.jpg": ("RGB", "JPEG", {"exif": exif}),
        "progressive.jpg": ("RGB", "JPEG", {"progressive": True}),
        "cmyk.jpg": ("CMYK", "JPEG", {}),
        "moving.gif": ("RGB", "GIF", frames),
        "lossy.webp": ("RGB", "WEBP", {}),
        "lossless.webp": ("RGBA", "WEBP", {"lossless": True}),
        "moving.webp": ("RGB", "WEBP", frames),
        "plain.tif": ("RGB", "TIFF", {}),
        "deflated.tif": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": ("L", "TIFF", {"compression": "tiff_lzw"}),
        "pages.tif": ("RGB", "TIFF", frames),
        "fax.tif": ("1", "TIFF", {"compression": "group4"}),
        "rgb.bmp": ("RGB", "BMP", {}),
        "palette.bmp": ("P", "BMP", {}),
        "rgb.ppm": ("RGB", "PPM", {}),
    }
    files = {name: _encoded(colour.convert(mode), kind, **options) for name, (mode, kind, options) in made.items()}
    files |= {f"deep{end}": _encoded(deep, kind) for end, kind in ((".png", "PNG"), (".tif", "TIFF"), (".pgm", "PPM"))}
    if flowers.is_file():
        with zipfile.ZipFile(flowers) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            files |= {name: archive.read(name) for name in names[:: max(1, len(names) // photos)][:photos]}
    return files


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- damages ---------------------------------------------------------------------------------------------------------


def flip(blob: bytes, draws: random.Random) -> bytes:
    """Some bits."""
    changed = bytearray(blob)
    for _ in range(draws.choice((1, 1, 3, 20))):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def flip_header(blob: bytes, draws: random.Random) -> bytes:
    """Bytes among the first 64, where sizes and kinds stand."""
    changed = bytearray(blob)
    for _ in range(draws.choice((1, 2, 4))):
        changed[draws.randrange(min(64, len(changed)))] = draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))
    return bytes(changed)


def cut(blob: bytes, draws: random.Random) -> bytes:
    return blob[: draws.randrange(len(blob))]


def overwrite(blob: bytes, draws: random.Random) -> bytes:
    """A stretch by zeros, ones or noise."""
    start, count = draws.randrange(len(blob)), draws.choice((4, 64, 1024))
    part = draws.choice((b"\0" * count, b"\xff" * count, draws.randbytes(count)))
    return (blob[:start] + part + blob[start + count :])[: len(blob)]


def shift(blob: bytes, draws: random.Random) -> bytes:
    """A stretch is lost, or comes twice."""
    start, count = draws.randrange(len(blob)), draws.choice((1, 2, 16, 500))
    return blob[:start] + draws.choice((b"", 2 * blob[start : start + count])) + blob[start + count :]


def claim(blob: bytes, draws: random.Random) -> bytes:
    """Another size in the header of a PNG, its checksum right; of other formats, some large number."""
    sides = [draws.choice((0, 1, 7, 300, 9000, 30_000, 2**31 - 1)) for _ in range(2)]
    if blob.startswith(b"\x89PNG"):
        chunk = b"IHDR" + struct.pack(">II", *sides) + blob[24:29]
        return blob[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + blob[33:]
    start, form = draws.randrange(min(len(blob) - 4, 400)), draws.choice(("<H", ">H", "<I", ">I"))
    number = struct.pack(form, min(sides[0], 2 ** (8 * struct.calcsize(form)) - 1))
    return blob[:start] + number + blob[start + len(number) :]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, flip_header, cut, overwrite, shift, claim)


# --- trials ----------------------------------------------------------------------------------------------------------


def images(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what was damaged how, its bytes): all files and damages in turn."""
    files, draws = list(originals().items()), random.Random(seed)
    for i in range(count):
        (name, blob), damage = files[i % len(files)], DAMAGES[(i // len(files)) % len(DAMAGES)]
        yield f"{Path(name).suffix[1:]}, {damage.__name__}", damage(blob, draws)


def zips(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The same for zips of a few images in two classes, deflated or stored."""
    files, draws = list(originals().items()), random.Random(seed)
    for i in range(count):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for n, (name, blob) in enumerate(draws.sample(files, 6)):
                archive.writestr(f"{'ab'[n % 2]}/{n}{Path(name).suffix}", blob)
        damage = DAMAGES[i % len(DAMAGES)]
        yield f"zip, {damage.__name__}", damage(file.getvalue(), draws)


def read_image(blob: bytes) -> str:
    """What reading damaged bytes ends in."""
    return _outcome(lambda: data.load_image(blob, SMALL))


def read_zip(blob: bytes, path: Path) -> str:
    """What loading a damaged zip ends in; unreadable images in it are skipped."""
    path.write_bytes(blob)
    return _outcome(lambda: data.load_data(path, SMALL, skip_bad=True))


def _outcome(read: Callable[[], object]) -> str:
    started = time.process_time()
    try:
        read()
        outcome = "decoded"
    except (BadImage, BadData) as error:
        outcome = type(error).__name__ if "\n" not in str(error) else f"{type(error).__name__} of several lines"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome if time.process_time() - started < SLOWEST else f"{outcome}, too slow"


PROMISED = {"decoded", "BadImage", "BadData"}


def memory() -> int:
    """The most memory that this process has had, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--zips", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where damaged zips are written")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    import logging

    logging.disable()  # of skipped images
    before, table = memory(), Counter()
    for what, blob in images(args.images, args.seed):
        table[what, read_image(blob)] += 1
    for what, blob in zips(args.zips, args.seed):
        table[what, read_zip(blob, args.folder / "damaged.zip")] += 1
    outcomes = sorted({outcome for _, outcome in table})
    print("| what | " + " | ".join(outcomes) + " |\n|---" * 1 + "|---" * len(outcomes) + "|")
    for what in sorted({what for what, _ in table}):
        print(f"| {what} | " + " | ".join(str(table[what, outcome]) for outcome in outcomes) + " |")
    grown = memory() - before
    print(f"\nmost memory beyond the start: {grown >> 20} MiB")
    sys.exit(bool(set(outcomes) - PROMISED) or grown > MOST_MEMORY)


if __name__ == "__main__":
    main()
