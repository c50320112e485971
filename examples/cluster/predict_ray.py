"""Answer any number of images on all machines of a Ray cluster.

    python examples/cluster/predict_ray.py runs/photos /shared/photos answers.parquet --workers 4

Needs `pip install "ray[data]"` beside keras-cnn, here and on the machines, which all see the model and the photos
under the same names. RAY_ADDRESS says where the cluster is; without it, Ray starts one on this machine.

A worker is an actor, which makes its predictor once. A predictor uses all cores of its machine: one worker a machine is
right. Answers come back to where this runs: the file is as of `keras-cnn predict --out FILE.parquet`, in no order.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless it is told not to

import pyarrow as pa
import ray
from pyarrow import parquet

import keras_cnn as kc
from keras_cnn.data.index import find_images
from keras_cnn.files import write_beside

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a weights directory, an exported file or a tag")
parser.add_argument("photos", type=Path, help="a folder of images, at any depth")
parser.add_argument("out", type=Path, help="a .parquet file, which is not there yet")
parser.add_argument("--workers", type=int, default=1, help="as many as there are machines")
parser.add_argument("--engine", default="keras", help="keras, tensorflow, openvino, onnx, litert, or auto")


class Worker:
    """What an actor holds: a predictor does not travel, its network's name does."""

    def __init__(self, model: str, engine: str) -> None:
        self.predict = kc.predictor(model, engine=engine)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.predict.table(batch["image"].to_pylist())


def main() -> None:
    given = parser.parse_args()
    if not given.photos.is_dir():
        parser.error(f"{given.photos} is no folder: workers read images by their paths.")
    if given.out.exists():
        parser.error(f"{given.out} is already there: give another file.")
    model = str(Path(given.model).resolve()) if Path(given.model).exists() else given.model
    paths = pa.table({"image": [source.name for source in find_images(given.photos.resolve())]})
    # Blocks are the unit of work: so many that no worker waits long for the last one.
    blocks = min(len(paths), 8 * given.workers)
    ray.init()
    answers = ray.data.from_arrow(paths, override_num_blocks=blocks).map_batches(
        Worker,
        fn_constructor_args=(model, given.engine),
        batch_format="pyarrow",
        batch_size=256,  # the predictor decodes them while it computes those before
        concurrency=given.workers,
        scheduling_strategy="SPREAD",  # over machines
    )
    # Ray's own writing takes cores of which, if there are few, the workers have all: it would wait for ever.
    write_beside(given.out, lambda place: written(place, answers.iter_batches(batch_size=None, batch_format="pyarrow")))
    errors = parquet.read_table(given.out, columns=["error"])["error"]
    bad = len(errors) - errors.null_count
    print(f"{given.out} holds the answers for {len(errors) - bad:,} images; {bad:,} could not be read")


def written(place: str, tables: Iterable[pa.Table]) -> None:
    file = None
    for table in tables:
        file = file or parquet.ParquetWriter(place, table.schema)
        file.write_table(table)
    file.close()  # there is an image, and so a table


if __name__ == "__main__":
    main()
