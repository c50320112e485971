"""Training on several devices and machines: what Keras and TensorFlow need around them for one `fit` to run on all.

TensorFlow's own engine does the work (`tf.distribute`), or Keras' `DataParallel` on JAX. Keras 3's `fit` fails under
`MultiWorkerMirroredStrategy` (keras issue 20585): `_mended` says what is replaced in it for as long as `distribute`
lasts, and tests/test_distribution.py says when Keras no longer needs it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np

from keras_cnn.errors import BadSpec, LostWorker
from keras_cnn.models.fields import known_options, one_of
from keras_cnn.training.place import HOW, Place

Made = TypeVar("Made")

JOBS = ("chief", "worker")  # of TF_CONFIG, in the order in which workers are counted


def place() -> Place:
    """Where this process stands, within `distribute`."""
    tf: Any = sys.modules.get("tensorflow")
    if keras.backend.backend() == "jax":
        spread = keras.distribution.distribution()
        return Place(replicas=int(spread.device_mesh.devices.size) if spread else 1)
    if tf is None or keras.backend.backend() != "tensorflow" or not tf.distribute.has_strategy():
        return Place()
    strategy = tf.distribute.get_strategy()
    resolver = strategy.cluster_resolver
    workers = _workers(resolver.cluster_spec().as_dict()) if resolver else {}
    if not workers:
        return Place(replicas=strategy.num_replicas_in_sync)
    worker = list(workers).index((resolver.task_type, resolver.task_id))
    return Place(worker, len(workers), strategy.num_replicas_in_sync)


@known_options
@contextlib.contextmanager
def distribute(how: str = "auto", *, wait: float = 600.0) -> Iterator[Place]:
    """Train on several devices or machines what is built and trained in the block; yields this process's `Place`.

    ```python
    with kc.distribute("auto"):
        model = kc.build("resnet50", classes=10)
        kc.train(model, data, out="runs/photos")
    ```

    how: "mirrored": on all devices of this machine; "multiworker": on those of several, each of which runs the same
        script, with TF_CONFIG as TensorFlow has it, or under Slurm (`srun`); "none"; "auto": what the machine and the
        environment say. On JAX "mirrored" is Keras' DataParallel.
    wait: seconds within which all workers have to come.

    batch_size stays that of all devices together, which share each batch. Statistics of batch norm, and the norm that
    gradients are clipped to, are those of the whole batch: losses and weights are those of one device but for rounding,
    where images are not augmented (each worker draws its own augmentation) and nothing is dropped. The chief, worker 0,
    alone writes; `out` has to be seen by all, if they are to go on from it.
    Raises BadSpec for a TF_CONFIG that cannot be meant, or a port in use; LostWorker where one does not come, or is
    gone later: start all again with resume=True, as schedulers do.
    """
    one_of("how", how, HOW)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        if how == "multiworker" or (backend == "torch" and how == "mirrored"):
            raise BadSpec(f"how={how!r} needs TensorFlow: it is not there with KERAS_BACKEND={backend}.")
        with _data_parallel(how) if backend == "jax" else contextlib.nullcontext():
            yield place()
        return
    import tensorflow as tf

    cluster = None if how in ("none", "mirrored") else of_environment()
    if how == "multiworker" and cluster is None:
        raise BadSpec(
            "how='multiworker' needs to know the other workers: set TF_CONFIG, as TensorFlow's guide to multi-worker "
            "training says, or start with Slurm's srun; examples/cluster/ has files to start from."
        )
    if cluster and len(cluster.addresses) > 1:
        cluster.meet(wait)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster.jobs), task_type=cluster.job, task_id=cluster.index, rpc_layer="grpc"
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    elif how == "mirrored" or (how == "auto" and len(tf.config.list_logical_devices("GPU")) > 1):
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        yield Place()
        return
    with strategy.scope(), _mended(), _telling_who_is_gone(cluster):
        yield place()


def apart(work: Callable[[], Made]) -> Made:
    """What some work makes without the other devices: within `distribute`, building a network waits for all of them.

    It has a thread of its own, since a strategy of TensorFlow holds for the thread that entered it.
    """
    if place().replicas == 1:
        return work()
    with concurrent.futures.ThreadPoolExecutor(1) as own:
        return own.submit(work).result()


def spread(data: Any, batch_size: int) -> Any:
    """Data as Keras' `fit` is to have it within `distribute`: a data set of tf.data is this worker's share already."""
    here = place()
    if here.workers == 1 or not hasattr(data, "element_spec"):
        return data
    import tensorflow as tf

    share = data if here.replicas == here.workers else data.unbatch().batch(batch_size // here.replicas)
    return tf.distribute.get_strategy().distribute_datasets_from_function(lambda context: share)


@contextlib.contextmanager
def together(model: Any) -> Iterator[None]:
    """Have batch norms take their statistics over all devices, for as long as this lasts."""
    here = place()
    norms = []
    if here.replicas > 1 and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if model.distribute_strategy is not tf.distribute.get_strategy():
            raise BadSpec("the network was built outside of this `distribute` block: build it within.")
        norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.synchronized = True
    try:
        yield
    finally:
        for norm in norms:
            norm.synchronized = False


def summed(gradients: Sequence[Any]) -> list[Any]:
    """Gradients, or None in their place, summed over all devices: those of the whole batch, as its loss is a mean."""
    if place().replicas == 1 or keras.backend.backend() != "tensorflow":
        return list(gradients)
    import tensorflow as tf

    context: Any = tf.distribute.get_replica_context()
    every = iter(context.all_reduce("SUM", [one for one in gradients if one is not None]))
    return [one if one is None else next(every) for one in gradients]


# --- workers ---------------------------------------------------------------------------------------------------------


def _workers(jobs: dict[str, list[str]]) -> dict[tuple[str, int], str]:
    """The address of each worker by its job and its number there, the chief first."""
    return {(job, i): address for job in JOBS for i, address in enumerate(jobs.get(job, ()))}


@dataclass(frozen=True)
class Cluster:
    """Who trains together: addresses by job, and which of them this process is."""

    jobs: dict[str, list[str]]
    job: str
    index: int

    @property
    def addresses(self) -> dict[tuple[str, int], str]:
        return _workers(self.jobs)

    @property
    def own(self) -> str:
        return self.addresses[self.job, self.index]

    def meet(self, wait: float) -> None:
        """Wait until every worker listens at its address. TensorFlow would wait for an hour, and name no one."""
        until = time.monotonic() + wait
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = int(self.own.rpartition(":")[2])
            try:
                listener.bind(("", port))
            except OSError as error:
                why = "in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
                raise BadSpec(f"port {port}, at which this worker listens, is {why}: choose another one.") from None
            listener.listen(len(self.addresses))
            missing = None  # yet
            while missing := self.silent(missing):
                if time.monotonic() > until:
                    raise LostWorker(
                        f"no worker came at {', '.join(missing)} within {wait:g} s: start it with the same TF_CONFIG "
                        "(but for its own index), and see that the address can be reached from here."
                    )
                time.sleep(0.2)

    def silent(self, among: Sequence[str] | None = None) -> list[str]:
        """The other workers' addresses, or some of them, at which no one answers."""
        others = [address for address in self.addresses.values() if address != self.own] if among is None else among
        return [address for address in others if not _answers(address)]


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def of_environment() -> Cluster | None:
    """What TF_CONFIG or Slurm say; None where they say nothing."""
    text = os.environ.get("TF_CONFIG", "")
    if not text and int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        import tensorflow as tf

        # It counts workers by their GPUs, for which it calls nvidia-smi: where there is neither, say one for each.
        seen = "CUDA_VISIBLE_DEVICES" in os.environ or shutil.which("nvidia-smi")
        told = {} if seen else {"gpus_per_node": 1024, "gpus_per_task": 1, "auto_set_gpu": False}
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(**told)
        jobs = slurm.cluster_spec().as_dict()
        return Cluster(jobs, slurm.task_type, slurm.task_id)
    if not text:
        return None
    try:
        told = json.loads(text)
        jobs = {job: list(told["cluster"][job]) for job in told["cluster"] if job in JOBS}
        found = Cluster(jobs, told["task"]["type"], int(told["task"]["index"]))
        every = found.addresses
        ports = [int(address.rpartition(":")[2]) for address in every.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSpec(
            f"TF_CONFIG cannot be read ({type(error).__name__}: {error}): it has to be JSON such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
        ) from None
    if (found.job, found.index) not in every:
        raise BadSpec(f"TF_CONFIG's task is {found.job} {found.index}, which its cluster of {len(every)} lacks.")
    if len(set(every.values())) < len(every) or not all(0 < port < 65536 for port in ports):
        raise BadSpec(f"TF_CONFIG gives two workers one address, or no port: {', '.join(every.values())}.")
    return found


@contextlib.contextmanager
def _telling_who_is_gone(cluster: Cluster | None) -> Iterator[None]:
    """LostWorker in place of what TensorFlow says where a worker is gone."""
    import tensorflow as tf

    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)
    try:
        yield
    except lost as error:
        if cluster is None or not (gone := cluster.silent()):
            raise
        raise LostWorker(
            f"{', '.join(gone)} no longer answers: start all workers again with resume=True (--resume), which goes on "
            "from the last state."
        ) from error


# --- Keras and TensorFlow --------------------------------------------------------------------------------------------


class _DataParallel(keras.distribution.DataParallel):
    """Keras' own, but that each device has the whole of a batch that cannot be divided, such as a last one."""

    def get_data_layout(self, data_shape: Any) -> Any:
        layout: Any = super().get_data_layout(data_shape)
        if data_shape[0] % self.device_mesh.devices.size == 0:
            return layout
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


@contextlib.contextmanager
def _data_parallel(how: str) -> Iterator[None]:
    devices = keras.distribution.list_devices()
    if how == "none" or len(devices) == 1:
        yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(_DataParallel(devices=devices))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """Replace, for a while, what in Keras' trainer is wrong with several workers.

    It builds from a whole distributed batch, which cannot be converted: the part of the first device here will do. It
    takes the mean of logs over their first axis, which scalars have not. And it gives the whole of a batch to each
    device in `predict_on_batch`, then joins all answers: here each worker answers for itself.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer

    kind, reduce = trainer.TensorFlowTrainer, trainer.reduce_per_replica

    def build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if self._distribute_strategy is None:
            return
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda part: self.distribute_strategy.experimental_local_results(part)[0], next(batches)
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def reduced(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction not in ("auto", "mean"):
            return reduce(values, strategy, reduction)
        return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    def predict_on_batch(self: Any, x: Any) -> Any:
        if self.predict_function is None:
            self.predict_function = tf.function(lambda x: self(x, training=False), reduce_retracing=True)
        return tf.nest.map_structure(np.asarray, self.predict_function(tf.convert_to_tensor(x)))

    with contextlib.ExitStack() as stack:
        for owner, name, ours in (
            (kind, "_maybe_symbolic_build", build),
            (kind, "predict_on_batch", predict_on_batch),
            (trainer, "reduce_per_replica", reduced),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, ours)
        yield
