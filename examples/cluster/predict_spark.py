"""Answer any number of images on all executors of a Spark cluster.

    spark-submit examples/cluster/predict_spark.py runs/photos /shared/photos /shared/answers

Needs `pip install pyspark pandas pyarrow` and Java beside keras-cnn, here and on the executors, which all see the three
places under the same names. `python` in the place of `spark-submit` runs it on this machine.

A worker's process makes its predictor once, at its first task. A predictor uses all cores of its machine: where there
are 8, `spark-submit --conf spark.task.cpus=8` gives it one task at a time. The answers lie in parquet files, with the
columns of `keras-cnn predict --out FILE.parquet`, in no order; an unreadable image has a line with its error.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

import keras_cnn as kc
from keras_cnn.data.index import find_images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a weights directory, an exported file or a tag")
parser.add_argument("photos", type=Path, help="a folder of images, at any depth")
parser.add_argument("out", type=Path, help="a folder for the answers, which is not there yet")
parser.add_argument("--engine", default="keras", help="keras, tensorflow, openvino, onnx, litert, or auto")


@functools.cache
def predictor(model: str, engine: str) -> Any:
    """One for a process, whichever of its tasks asks."""
    return kc.predictor(model, engine=engine)


def answers(*told: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What maps batches of paths. A predictor does not travel: the name of its network, and this module, do."""

    def mapped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import predict_spark  # which stays in the process; what Spark sends with a task, goes with it

        for batch in batches:
            yield from predict_spark.predictor(*told).table(batch["image"].to_pylist()).to_batches()

    return mapped


def main() -> None:
    given = parser.parse_args()
    photos, out = given.photos.resolve(), given.out.resolve()
    if not photos.is_dir():
        parser.error(f"{photos} is no folder: executors read images by their paths.")
    if out.exists():
        parser.error(f"{out} is already there: give another folder.")
    model = str(Path(given.model).resolve()) if Path(given.model).exists() else given.model
    spark = SparkSession.builder.appName("keras-cnn predict").getOrCreate()
    spark.sparkContext.addPyFile(__file__)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "256")  # decoded while others are computed
    paths = [(source.name,) for source in find_images(photos)]
    # Partitions are tasks: so many that no executor waits long for the last one.
    tasks = min(len(paths), 8 * spark.sparkContext.defaultParallelism)
    frame = spark.createDataFrame(paths, "image string").repartition(tasks)
    columns = from_arrow_schema(kc.predictor(model).table([]).schema)
    frame.mapInArrow(answers(model, given.engine), columns).write.parquet(f"file://{out}")
    errors = spark.read.parquet(f"file://{out}").select("error")
    count, bad = errors.count(), errors.where("error is not null").count()
    print(f"{out} holds the answers for {count - bad:,} images; {bad:,} could not be read")
    spark.stop()


if __name__ == "__main__":
    main()
