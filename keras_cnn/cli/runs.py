"""The runs that several commands share: a network beside the data that it is to see; fine-tuned, scored, kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn import files
from keras_cnn.checkpoints import commands
from keras_cnn.cli import console, datasets
from keras_cnn.cli.datasets import TrainingData
from keras_cnn.errors import BadSpec
from keras_cnn.models.fields import one_of
from keras_cnn.training import state
from keras_cnn.training.options import FineTuneOptions
from keras_cnn.training.place import HOW, Place

if TYPE_CHECKING:
    from keras_cnn.checkpoints.directory import Source
    from keras_cnn.models.config import Config

STATES = (state.STATE, "study.json")  # what a run, or a study, goes on from


def known(name: str, weights: str | None, size: int = 0) -> Source:
    """What a name and weights mean: as `resolve` says; or an exported file, which has both in it."""
    from keras_cnn.checkpoints.directory import Source, config_of
    from keras_cnn.deploy.opened import is_exported, opened
    from keras_cnn.hub import resolve

    if not is_exported(name):
        return resolve(name, weights)
    if weights is not None or size:
        raise BadSpec(f"{name} is an exported network with weights and size in it: leave out --weights and --size.")
    file = opened(name)
    return Source(config_of(file), lambda: file)  # pyright: ignore[reportArgumentType]


def network(found: Source, name: str, weights: str | None, size: int) -> tuple[Any, Any]:
    """(network, the package) at a size. found: what the name and the weights mean, as `known` says."""
    from keras_cnn.deploy.opened import is_exported, opened

    if is_exported(name):
        return opened(name), console.framework(training=False)
    if found.load is None:
        console.note(
            f"note: {name} has random weights, so its answers mean nothing: a tag or directory brings trained ones."
        )
    shape = sized(found.config, size).input_shape
    kc = console.framework(training=False)
    return kc.build(name, weights=weights, input_shape=shape), kc


@dataclass(frozen=True)
class Learner:
    """A network for some data, and the data as the network sees it. told: what `build` was told of it."""

    network: Any
    data: Any
    told: Mapping[str, Any]

    @property
    def examples(self) -> tuple[Any, ...]:
        """What `kc.fine_tune` and `kc.train` take behind the network: `Data`, or the pairs of sequences."""
        from keras_cnn.data import Data

        return (self.data,) if isinstance(self.data, Data) else (self.data.train, self.data.val)


def pretrained(
    data: TrainingData,
    model: str,
    weights: str | None,
    size: int,
    seed: int,
    batch_size: int,
    precision: str = "float32",
) -> Learner:
    """A network with a head for the data's labels, and the data seen as the network's weights expect."""
    from keras_cnn.hub import resolve

    found = resolve(model, weights)
    return learner(data, sized(found.config, size), batch_size, seed, model, precision, weights=weights)


def learner(
    data: TrainingData, config: Config, batch_size: int, seed: int, model: str, precision: str = "float32", **told: Any
) -> Learner:
    """A network for the data, once this is decoded. config: the network's, as it is to see images; precision: that it
    computes in; told: to `build`."""
    try:
        loaded, head = datasets.load(data, config, batch_size, seed)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{console.quoted(data.data)} was still being read: nothing of it was learnt or written")
        raise
    shape = config.input_shape
    if config.backbone.SIDES == 1:
        shape = (shape[0] and loaded.input_shape[0], loaded.input_shape[1])
    told |= {"input_shape": shape, "preprocess": getattr(loaded, "preprocess", None), **head}
    kc = console.framework(seed)
    from keras_cnn.training.precision import building_in, fastest

    if precision == "auto" and (precision := fastest(config.backbone)) != "float32":
        console.note(f"note: learns in {precision}, which is faster here than float32 (--precision float32)")
    with building_in(precision):
        return Learner(kc.build(model, **told), loaded, told)


def sized(config: Config, size: int) -> Config:
    """The configuration at a size of square images; 0 for its own."""
    if size and config.backbone.SIDES == 1:
        raise BadSpec(f"--size {size}: {config.name} reads sequences, which are as long as the data's.")
    return config.at((size, size, config.channels)) if size else config


def finetune(
    data: TrainingData,
    model: str,
    out: str,
    options: FineTuneOptions,
    *,
    weights: str | None = None,
    size: int = 0,
    precision: str = "auto",
    before: bool = False,
    as_json: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    chief: bool = True,
    log: str | None = None,
) -> dict[str, Any]:
    """Fine-tune, and score the best epoch; nothing of a worker that is not the chief."""
    if chief:
        state.check(out, resume, overwrite)
    learner = pretrained(data, model, weights, size, options.seed, options.batch_size, precision)
    net = learner.network
    import keras_cnn as kc
    from keras_cnn.training import evaluation

    first = next(iter(evaluation.evaluate(net, learner.data, split="val").metrics.values())) if before else None
    goes_on: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "chief": chief, "log": log}
    with of_a_run(out, data, **goes_on, as_json=as_json) as told:
        history = kc.fine_tune(net, *learner.examples, options=options, **told)
        if not chief:
            return {}
        found = history.baselines
        baselines = {"linear_probe": found.linear, "nearest_neighbours": found.knn} if found else {}
        return {**baselines, **score(out, learner.data, first)}


@contextlib.contextmanager
def distributed(how: str) -> Iterator[Place]:
    """`kc.distribute`, entered before anything is computed, as TensorFlow wants it; yields this process's place."""
    one_of("distribute", how, HOW)
    if how == "none":
        yield Place()
        return
    console.settings()
    with console.quiet():
        from keras_cnn.training.distribution import distribute
    with distribute(how) as place:
        yield place


@contextlib.contextmanager
def of_a_run(
    out: str, data: TrainingData, *, resume: bool, overwrite: bool, as_json: bool, chief: bool, log: str | None
) -> Iterator[dict[str, Any]]:
    """What `kc.train` and `kc.fine_tune` are told of a run in `out`, which the chief holds until it is scored."""
    with stoppable(out, resume), files.holding(out) if chief else contextlib.nullcontext():
        yield {
            "out": out,
            "resume": resume,
            "overwrite": overwrite,
            "log": log,
            "verbose": console.verbosity(as_json) if chief else 0,
            "provenance": {"command": command(), "data": commands.last_name(data.data)},
        }


@contextlib.contextmanager
def stoppable(out: str, resume: bool = True) -> Iterator[None]:
    """On Ctrl-C, note what `out` keeps, and how to go on. resume: whether the same command does."""
    try:
        yield
    except KeyboardInterrupt as stop:
        place = Path(out)
        if any((place / name).exists() for name in STATES):
            again = "the same command" if resume else "the same command with --resume"
            stop.add_note(f"{console.quoted(out)} keeps what is done: {again} goes on")
        elif (place / "model.safetensors").exists():
            stop.add_note(f"{console.quoted(out)} holds the best epoch so far")
        else:
            stop.add_note(f"nothing is kept in {console.quoted(out)}")
        raise


def made_by(verb: str, out: str) -> bool:
    """Whether the weights in a directory were made by this command."""
    try:
        command = json.loads((Path(out) / "config.json").read_text(encoding="utf-8"))["keras_cnn"]["provenance"][
            "command"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return command.startswith(f"keras-cnn {verb}")


def study(
    data: TrainingData,
    model: str,
    out: str,
    *,
    weights: str | None,
    size: int,
    precision: str,
    batch_size: int,
    sizes: Sequence[int],
    seeds: Sequence[int],
    epochs: int,
    as_json: bool,
) -> dict[str, Any]:
    """Learn the data from scratch and from pretrained weights, at several sizes."""
    learner = pretrained(data, model, weights, size, 0, batch_size, precision)
    import keras_cnn as kc
    from keras_cnn import tasks
    from keras_cnn.training import study
    from keras_cnn.training.precision import building_in

    config = kc.config_of(learner.network)
    if config.backbone.SIDES == 1:
        raise BadSpec(f"--study is of images, and {model} reads sequences.")

    def build(trained: bool) -> Any:
        with building_in(learner.network.dtype_policy.name):
            return kc.build(model, **learner.told) if trained else kc.build(config.with_(provenance={}))

    told = {"sizes": sizes, "seeds": seeds, "epochs": epochs, "verbose": console.verbosity(as_json)}
    rows = kc.study(build, learner.data, out, **told)
    task = tasks.of(learner.network)
    summary = study.summarise(rows, task.best)
    found = {"methods": summary, "gains": study.gains(summary, task.best)}
    parts = {part: [line._asdict() for line in lines] for part, lines in found.items()}
    return {"task": task.name, "figure": task.judged_by, **parts}


def score(out: str, loaded: Any, before: float | None = None) -> dict[str, Any]:
    """What `kc.report` says of a run, and what the command tells of it."""
    import keras_cnn as kc
    from keras_cnn import tasks
    from keras_cnn.checkpoints import directory

    found, task = kc.report(out, loaded), tasks.TASKS[directory.read(out).config.head.task]
    values, phases = (found.history.get(key, []) for key in (task.monitor, "phase"))
    frozen = [value for value, phase in zip(values, phases, strict=False) if phase == "head"]
    return {
        "before": before,
        "head_only": task.best(frozen) if frozen else None,
        **found.metrics,
        "task": task.name,
        "figure": task.judged_by,
        "pictures": found.pictures,
        "report": found.page.name,
        "images": loaded.sizes,
        "skipped": len(getattr(loaded, "skipped", ())),  # of sequences none can be
        "out": out,
    }


def command() -> str:
    # typer brings a click of its own
    from typer.main import get_current_context  # pyright: ignore[reportPrivateImportUsage]

    return commands.command(get_current_context())
