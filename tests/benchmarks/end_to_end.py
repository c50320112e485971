"""Images per second from a folder to answers, beside decoding alone and the network alone, and memory over the run.

    python tests/benchmarks/end_to_end.py                               # 10,000 synthetic photos, resnet50
    python tests/benchmarks/end_to_end.py --folder photos/ --images 0   # all that are there
    python tests/benchmarks/end_to_end.py --model resnet18.tiny_in200 --engine openvino --images 1000

Photos are those of pipeline.py, 500x400, 64 of them with links to them; those of a folder are linked to likewise until
there are as many as asked for. One `predictor.stream` runs over all; in turns with it the same images are decoded by
the same means, and as many are answered that are decoded already. Ratios are taken within a turn. Where decoding and
the network share the cores, no more than 1 / (1 / decoding + 1 / network) can come of both: "of what the cores allow"
is the share of that. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from pipeline import photo

import keras_cnn as kc
from keras_cnn import runtime
from keras_cnn.data.index import find_images
from keras_cnn.data.stream import decoded
from keras_cnn.deploy import engines
from keras_cnn.deploy.outputs import outputs_of

PHOTOS = 64


def linked(root: Path, folder: Path | None, images: int) -> Path:
    """A folder of so many images, links to those of another or to synthetic ones; 0 for as many as there are."""
    if folder is None:
        files = [root / "photos" / f"{i:03}.jpg" for i in range(PHOTOS)]
        files[0].parent.mkdir()
        for i, file in enumerate(files):
            file.write_bytes(photo(500, 400, i))
    else:
        files = [Path(source.name).resolve() for source in find_images(folder)]
    links = root / "links"
    links.mkdir()
    for i, file in zip(range(images or len(files)), itertools.cycle(files), strict=False):
        (links / f"{i:07}{file.suffix}").symlink_to(file)
    return links


def rate(results: Iterator[Any], count: int) -> float:
    """So many of them a second, of the next ones."""
    begun = time.perf_counter()
    assert sum(1 for _ in itertools.islice(results, count)) == count
    return count / (time.perf_counter() - begun)


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="resnet50")
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--images", type=int, default=10_000)
    arguments.add_argument("--engine", default="keras")
    arguments.add_argument("--precision", default="float32")
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--turns", type=int, default=10)
    told = arguments.parse_args()
    batch = told.batch_size
    predict = kc.predictor(kc.build(told.model), batch_size=batch, engine=told.engine, precision=told.precision)
    with tempfile.TemporaryDirectory() as place:
        folder = linked(Path(place), told.folder, told.images)
        sources = find_images(folder)
        decoding = decoded(sources, predict.config.preprocess, ahead=2 * batch)
        pixels = [one.pixels for _, one in itertools.islice(decoding, batch)]
        network = outputs_of(predict.network, (("", one) for one in itertools.cycle(pixels)), batch)
        whole = predict.stream(folder)
        warm = 3 * batch  # what is decoded ahead, and compiled, before the first answer
        for results in (decoding, network, whole):
            rate(results, warm)
        share = (len(sources) - warm - batch) // told.turns // batch * batch  # answers come in whole batches
        if not share:
            arguments.error(f"{len(sources)} images are too few for {told.turns} turns of batches of {batch}")
        print(
            f"{engines.processor()}, {runtime.cores()} cores; {told.model}, {predict.network.engine}, {told.precision}"
        )
        print(f"{len(sources):,} images in {told.turns} turns of {share:,}; images/s")
        print(f"{'turn':>4} {'decoding':>9} {'network':>9} {'both':>9} {'of the slower':>14} {'MiB':>7}")
        rows = []
        for turn in range(told.turns):
            alone, computed, both = rate(decoding, share), rate(network, share), rate(whole, share)
            rows.append((alone, computed, both, both / min(alone, computed), both * (1 / alone + 1 / computed)))
            figures = f"{alone:9.1f} {computed:9.1f} {both:9.1f} {rows[-1][3]:14.2f} {resident():7.0f}"
            print(f"{turn + 1:4} {figures}", flush=True)
    *_, slower, allowed = map(statistics.median, zip(*rows, strict=True))
    print(f"medians: {slower:.2f} of the slower, {allowed:.2f} of what the cores allow where both share them")


if __name__ == "__main__":
    main()
