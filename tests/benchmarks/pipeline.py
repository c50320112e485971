"""Images per second of the training pipeline alone, beside `keras.utils.image_dataset_from_directory`, and its memory.

    python tests/benchmarks/pipeline.py                      # 500x400 and 12 megapixels, at 224 pixels
    python tests/benchmarks/pipeline.py --sizes 500x400 --side 112
    python tests/benchmarks/pipeline.py --memory 200000      # resident memory over a pass of so many images

Photos are synthetic, JPEGs of quality 90: structure at four scales and the noise of a sensor, so that they have as many
bits a pixel as camera files have. Keras decodes and resizes; ours also takes a random part of each, filtered against
aliasing, mirrors half of them, and knows the order of every pass. "originals": from the files. "packed": from shards
whose short side `pack(size=)` made 8 / 7 of the network's, as usual. "held": decoded once, with room for it. Ways take
turns; figures are medians over the rounds, ratios are taken within a round. The processor's time is of all threads: it
does not grow when others use the machine. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from PIL import Image

import keras_cnn as kc
from keras_cnn import data, runtime
from keras_cnn.data.files import Source
from keras_cnn.data.labels import Labels
from keras_cnn.data.splits import labelled

BATCH = 32
SCALES = ((4, 60), (16, 40), (64, 20), (256, 10))  # structures across the photo, and their strength


def photo(width: int, height: int, seed: int, noise: float = 4.0) -> bytes:
    """The bytes of a JPEG with something like a photo in it."""
    draws = np.random.default_rng(seed)
    pixels = 128 + draws.normal(0, noise, (height, width, 3))
    for count, strength in SCALES:
        coarse = draws.integers(0, 256, (min(count, height), min(count, width), 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(smooth, np.float32) - 128) * strength / 60
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write(root: Path, width: int, height: int, count: int) -> Path:
    for i in range(count):
        place = root / "train" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:05}.jpg").write_bytes(photo(width, height, i))
    return root


def measured(way: Any, count: int) -> tuple[float, float]:
    """(seconds, the processor's seconds) of each of so many images, without the beginning of the stream.

    The stream has no end, so that no pass begins meanwhile, and is its own in each turn: what one goes on to prefetch
    would be counted to the next.
    """
    stream = iter(way.repeat())
    for _ in range(4):
        next(stream)
    seen, begun, used = 0, time.perf_counter(), time.process_time()
    while seen < count:
        seen += len(next(stream)[0])
    return (time.perf_counter() - begun) / seen, (time.process_time() - used) / seen


def compare(width: int, height: int, side: int, files: int, count: int, rounds: int, folder: Path) -> None:
    root = write(folder / f"{width}x{height}", width, height, files)
    preprocess = kc.Preprocess(size=(side, side))
    packed = kc.pack(root, folder / f"packed{width}", size=side * 8 // 7).path
    told: dict[str, Any] = {"augment": "crop", "batch_size": BATCH}
    anew = {"cache_bytes": 0, **told}
    theirs = {"image_size": (side, side), "batch_size": BATCH, "verbose": 0}
    ways = {
        "keras": keras.utils.image_dataset_from_directory(root / "train", **theirs),
        "originals": data.load_data(root, preprocess, **anew, val_split=0).train,
        "packed": data.load_data(packed, preprocess, **anew, val_split=0).train,
        "held": data.load_data(root, preprocess, **told, val_split=0).train,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(measured(way, count))
    size = sum(file.stat().st_size for file in root.rglob("*.jpg")) / files
    print(f"\n{width}x{height}, {size / 1024:,.0f} KiB each, seen at {side}x{side}, {rounds} rounds of {count} images")
    print(f"{'':12}{'images/s':>10}{'times Keras':>13}{'ms of processor':>17}{'times Keras':>13}")
    for name, times in taken.items():
        pairs = list(zip(taken["keras"], times, strict=True))
        rate = 1 / statistics.median(wall for wall, _ in times)
        used = 1e3 * statistics.median(cpu for _, cpu in times)
        ratios = [statistics.median(keras[k] / ours[k] for keras, ours in pairs) for k in (0, 1)]
        print(f"{name:12}{rate:10,.0f}{ratios[0]:13.2f}{used:17.2f}{ratios[1]:13.2f}")


def resident() -> float:
    """MiB of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def memory(count: int, folder: Path) -> None:
    """Resident memory over a pass of many small photos: it must not grow with what has been seen."""
    blobs = [photo(96, 80, seed) for seed in range(64)]
    sources = [Source(f"{i:07}.jpg", f"{i:07}.jpg", partial(io.BytesIO, blobs[i % 64])) for i in range(count)]
    labels = Labels("classification", ("a", "b"), np.arange(count, dtype=np.int32) % 2)
    splits = labelled(sources, labels, None, "synthetic")
    packed = kc.pack(splits, folder / "many").path
    del sources, splits, labels
    before = resident()
    loaded = data.load_data(
        packed, kc.Preprocess(size=(64, 64)), augment="crop", batch_size=256, cache_bytes=0, val_split=0
    )
    indexed = resident()
    found = []
    for step, _ in enumerate(loaded.train):
        if step % 50 == 49:
            found.append(resident())
    first = found[len(found) // 10]
    print(f"\n{count:,} images: {before:,.0f} MiB before, {indexed:,.0f} with the index in memory")
    print(f"after a tenth of the pass {first:,.0f}, at most {max(found):,.0f}, at its end {found[-1]:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["500x400", "4000x3000"])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0)
    told = parser.parse_args()
    print(f"{runtime.cores()} cores, {', '.join(sorted(runtime.instructions() & {'avx2', 'avx512f', 'asimd'}))}")
    with tempfile.TemporaryDirectory() as folder:
        if told.memory:
            return memory(told.memory, Path(folder))
        for size in told.sizes:
            width, height = map(int, size.split("x"))
            large = width * height > 1e6
            files, count = (BATCH, 8 * BATCH) if large else (16 * BATCH, 32 * BATCH)
            compare(width, height, told.side, files, count, told.rounds, Path(folder))


if __name__ == "__main__":
    main()
