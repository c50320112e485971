"""Fine-tuning: the phases of a schedule, on features that are computed once wherever the network is frozen below."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from keras_cnn import tasks
from keras_cnn.checkpoints import arrays
from keras_cnn.data.examples import Batches, Examples
from keras_cnn.data.training_set import TrainingSet, training_set
from keras_cnn.errors import BadData, BadImage, WeightsWarning
from keras_cnn.models.fields import known_options
from keras_cnn.models.layers import Standardise
from keras_cnn.models.naming import on_top
from keras_cnn.tasks import Task, labelled
from keras_cnn.training import distribution, logs, loop, state, targets
from keras_cnn.training.adapting import adapt
from keras_cnn.training.callbacks import Best, KeepState, LongHistory, Patience, Progress, Record, Seek, StopOnNaN, into
from keras_cnn.training.optimizers import StageOptimizers, check_ema
from keras_cnn.training.options import FineTuneOptions, Log, logs_of, takes
from keras_cnn.training.phases import Phase, check_plan, kept_frozen, plan, settled
from keras_cnn.transfer import probing, split
from keras_cnn.transfer.batchnorm import recalibrate_batchnorm
from keras_cnn.transfer.freeze import freeze, stages, unfreeze, untrained
from keras_cnn.transfer.precomputed import Features


class TuningHistory(LongHistory):
    """A Keras History over all phases. baselines: what the features gave before any training, if measured."""

    baselines: probing.Baselines | None = None


@known_options
@takes(FineTuneOptions)
def fine_tune(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    validation_data: Any = None,
    options: FineTuneOptions | Mapping[str, Any] | str | Path | None = None,
    cache: bool | str | Path = True,
    out: str | Path | None = None,
    half: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: list[Any] | None = None,
    log: Log = None,
    verbose: int | str = "auto",
    provenance: Mapping[str, Any] | None = None,
    **more: Any,
) -> TuningHistory:
    """Teach a pretrained network new classes.

    train: `Data`, which brings its validation images; or a pair of arrays, or a data set of batches (images, labels)
    with a length, each with such a `val`. Images and labels may also come as Keras has them:
    fine_tune(model, images, labels, validation_data=(images, labels)).

    While the whole backbone is frozen it is run once: the head learns on its features of `Data` or arrays, of images as
    at prediction, however the data is augmented (see `views`). Lower stages that are frozen are run once too where the
    data is not augmented.

    schedule: what learns when, one cycle of the rate a phase; each phase starts from the best epoch so far.
        "two-phase": the head, then all stages. "gradual": the head; then a stage more each epoch, from the top; then
        all (1801.06146, section 3.3). "all": all from the start. "head": the head alone.
        Only stages above `above` ever learn; by default those above the stages that are frozen when the call begins.
        A backbone that is frozen as a whole, as for a new head, does not count: there the schedule decides.
    learning_rate: once the backbone learns, each stage does by an AdamW of its own, `layer_decay` times as fast as the
        one above it; 0.7 where few images are like those that the features were learnt from. The gradient's norm, over
        all stages, is held to 1. By default 1e-3, and half of it where batch norm stays frozen.
    bn: of batch norm in stages that learn: "frozen" (gamma, beta and statistics stay), "train", or "recalibrate":
        train, then take the statistics of all training images. By default frozen where weights are pretrained and there
        are fewer than 500 training images, or 16 a batch, to take better statistics from; see `phases.settled`.
    probe: measure logistic regression and nearest neighbours on the features first; the network never ends worse than
        with the first of them as its head (where that is one dense layer), or than it was.
    l2sp: strength of 1802.01483, eq. 2. ema: mean weights are also what is validated.
    options: these and the others below, as a TOML file, a mapping or `FineTuneOptions`; what is given beside it
        wins. batch_size and seed are for arrays: Data has its own.
    cache: keep features on disk, in `files.cache_folder()` or a folder that is named.
    out: gets the best epoch as weights directory, at once when it is reached, `log.csv`, the hashes of the training
        images where they are `Data` or arrays (`seen.txt`); and, while the run lasts, its state. It is held for the
        whole run: RunInUse for another one. RunExists where a run or weights are there already, unless
    resume: go on from the state that is there, if any, with the same call; Data and arrays then end with the same
        weights as if nothing had happened, on one machine with deterministic operations (a data set of batches goes on
        in its own order). A run that is complete is not run again: the model gets its weights. Or unless
    overwrite: replace what is there. half: with kernels in float16.
    provenance: facts for config.json and the model card there, as of `save_pretrained`.
    callbacks, log: as of `train`; epochs are counted on from phase to phase, and while features are learnt on, the part
        above them is what callbacks see as their model.

    The model ends with the weights of its best epoch on the validation images, compiled for labels as data has them
    (`model.evaluate(data.val)`, `model.fit` go on), and with the flags of the last phase. Returns a Keras History over
    all phases; its `history["phase"]` has the name of each epoch's, its `baselines` what a linear probe and nearest
    neighbours gave before, as `probe` does (printed unless verbose=0).
    Warns with a WeightsWarning of random weights where the head is to learn first. Raises NotFinite when the loss is
    not a number, BadData where data and head disagree, BadSpec for bad options.
    """
    task = tasks.of(model)
    chosen = FineTuneOptions.of(options, "fine_tune", **more).for_task(task, model)
    chosen = dataclasses.replace(chosen, above=chosen.above or kept_frozen(model, chosen.schedule, verbose))
    here = distribution.place()
    if here.chief:
        state.check(out, resume, overwrite)
    wished = logs_of(log, out)
    check_plan(list(stages(model)), chosen)
    if chosen.schedule != "all" and untrained(model):
        text = (
            "has random weights, and a head on random features learns little: build a tag or directory, or `train` it."
        )
        warnings.warn(f"{model.name} {text}", WeightsWarning, stacklevel=4)
    train, val = labelled.accepted(model, train, val, validation_data)
    given = training_set(train, val, chosen.batch_size, chosen.seed, here.share, here.replicas)
    if chosen.patience is not None and given.val is None:
        raise BadData("patience needs validation images to judge an epoch by: give some, or leave patience out.")
    images = given.count if given.again else given.steps * given.batch_size
    chosen = settled(chosen, model, images, given.batch_size)
    phases = plan(list(stages(model)), chosen)
    weights = targets.class_weights(chosen.class_weight, given, model)
    adapt(model, given)
    check_ema(chosen.ema, given.steps * phases[-1].epochs)
    facts = dataclasses.asdict(chosen) | {"class_weight": weights and list(weights.values()), **given.facts}
    if out is not None:  # hashing takes a moment, and only what is on disk is compared
        facts |= {"network": arrays.fingerprint(model), "precision": model.dtype_policy.name, **given.fingerprint}
    goes_on: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    with (
        distribution.together(model),
        loop.statistics_over(model, chosen.ema),
        state.Run(out, facts, **goes_on, known=lambda: given.seen(model), here=here) as directory,
        logs.opened(wished, directory, model, given) as told,
    ):
        save = into(out if here.chief else None, model, half, provenance)
        run = _Run(
            model=model,
            task=task,
            given=given,
            phases=phases,
            options=chosen,
            class_weight=weights,
            place=cache,
            best=Best(model, task.monitor, task.mode, out, save),
            optimizers=StageOptimizers(chosen.weight_decay, chosen.ema, spare_backbone=chosen.l2sp > 0),
            callbacks=[*(callbacks or []), *told],
            verbose=verbose,
            directory=directory,
        )
        return run.recall(directory.end) if directory.end else run.complete()


@dataclass(kw_only=True)
class _Run:
    """One call of `fine_tune`: what its phases share."""

    model: Any
    task: Task
    given: TrainingSet
    phases: tuple[Phase, ...]
    options: FineTuneOptions
    class_weight: dict[int, float] | None
    place: bool | str | Path
    best: Best
    optimizers: StageOptimizers
    callbacks: list[Any]
    verbose: int | str
    directory: state.Run
    number: int = 0  # of the phase
    spare: tuple[float, list[np.ndarray]] | None = None  # figure on validation images and weights before any training

    def __post_init__(self) -> None:
        self.history = TuningHistory(self.model)
        self.features = Features(self.given)

    def complete(self) -> TuningHistory:
        before = self.directory.state
        with _pulled(self.model, self.options.l2sp):
            if self.options.probe:
                self._probe()
            for number in range(before[1]["phase"] if before else 0, len(self.phases)):
                self.number = number
                self._fit(self.phases[number], before)
                before = None
        if self.spare and self.best.beats(self.spare[0]):
            self.model.set_weights(self.spare[1])
            self.best.offer({self.task.monitor: self.spare[0]})
        elif self.directory.state:
            self.best.save_again()
        if self.options.bn == "recalibrate":
            self._recalibrate()
        baselines = self.history.baselines
        self.directory.finish({"history": self.history.rows, "baselines": baselines and dataclasses.asdict(baselines)})
        loop.hand_over(self.model)
        return self.history

    def recall(self, end: dict[str, Any]) -> TuningHistory:
        """A run that is complete: what it kept, and a model as it left it."""
        if self.verbose:
            print(f"{self.best.out} holds this run, and it is complete")
        loop.recall(self.model, self.best.out)
        self._choose(self.phases[-1])
        self._enter(self.phases[-1])
        loop.compile_(self.model, self._optimizer(self.phases[-1]))
        loop.hand_over(self.model)
        self.history.add(*end["history"])
        self.history.baselines = end["baselines"] and probing.Baselines.of(self.task, **end["baselines"])
        return self.history

    def _fit(self, phase: Phase, before: state.State | None) -> None:
        """Train for a phase, or for what is left of it after the state `before`, and go back to the best epoch."""
        self._choose(phase)
        learner, images, seek, val = self._parts(phase)
        at = self._go_on(*before) if before else self._enter(phase)
        optimizer = self._optimizer(phase)
        self._compile(learner, optimizer)
        if self.verbose and at[0] < phase.epochs:  # else the run was cut short after its last epoch
            print(f"phase {self.number + 1} of {len(self.phases)}: {phase}")
        keep = KeepState(self.directory, self._state, self.given.steps if self.given.again else None)
        loop.fit_from(
            learner,
            images,
            val,
            at=at,
            epochs=phase.epochs,
            before=len(self.history.epoch) - at[0],
            keep=keep,
            seek=seek,
            variables=self._variables(),
            batch_size=self.given.batch_size,
            task=self.task,
            class_weight=self.class_weight if self.task.weighs_images else None,
            callbacks=self._callbacks(phase, learner, val, keep, seek),
            verbose=self.verbose,
        )
        if phase is self.phases[-1]:  # so that no epoch is repeated where what follows is cut short
            self.directory.keep(lambda: self._state(phase.epochs), now=True)
        self.best.restore()
        if learner is not self.model:
            self._compile(self.model, optimizer)

    def _compile(self, learner: Any, optimizer: keras.optimizers.Optimizer) -> None:
        options = self.options
        told = {"loss": options.loss, "weights": self.class_weight, "jit_compile": options.jit_compile}
        loop.compile_(learner, optimizer, options.label_smoothing, self.task, **told)

    def _callbacks(
        self, phase: Phase, learner: Any, val: Any, keep: KeepState, seek: Seek
    ) -> list[keras.callbacks.Callback]:
        """In this order: mean weights are put in place before they are judged, and taken out before the state is kept;
        the log is written before the weights are."""
        patience = self.options.patience
        return [
            StopOnNaN(self.best.out),
            *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if self.options.ema else []),
            *loop.judges(self.task, learner, val),
            keep,
            Record(self.history, self.model, self.directory, phase=phase.name),
            self.best,
            *([Patience(self.best, patience)] if patience else []),
            seek,
            Progress(self.given.batch_size),
            *self.callbacks,
        ]

    def _optimizer(self, phase: Phase) -> keras.optimizers.Optimizer:
        return self.optimizers.of_phase(phase, phase.epochs * self.given.steps, self.options.warmup)

    def _choose(self, phase: Phase) -> None:
        """Set the flags of a phase."""
        frozen_ones = [name for name in stages(self.model) if name not in phase.rates and not on_top(name)]
        freeze(self.model)
        bn = "frozen" if self.options.bn == "frozen" else "train"
        unfreeze(self.model, frozen_ones[-1] if frozen_ones else None, bn=bn)

    def _parts(self, phase: Phase) -> tuple[Any, Callable[[int], Any], Seek, Any]:
        """(what learns, its training data from a batch on, what seeks in that, its validation data).

        On features where that comes to the same.
        """
        only_head = all(map(on_top, phase.rates))
        views = self.options.views if only_head else 0
        whole = self.task.data is None  # targets are made of the images, which features do not hold
        parts = split.divide(self.model) if (only_head or not self.given.augmented) and not whole else None
        found = self.features.of(parts[0], self.place, views) if parts else None
        if parts and not found and self.given.again and self.verbose:
            print("features of all images would fill the memory: the backbone is run in every epoch")
        done = sum(before.epochs for before in self.phases[: self.number])
        if not found or not parts:
            val = self.given.val_by(loop.at_validation(self.model, self.task, self.given.batch_size))
            return self.model, self.given.images, Seek(self.given.seek, done), val
        train, val = found

        def images(start: int) -> Examples:
            return Examples(train, self.given.batch_size, self.given.seed, start=start, full=self.given.full)

        shared = Examples([val], self.given.even) if val and self.given.full else val
        return parts[1], images, Seek(Examples.seek, done), shared

    def _probe(self) -> None:
        """Measure what the features give, and remember the head that they are best with, to be kept if none beats it.

        It is no start for the head: one that fits so tightly sends large gradients down, and the network ends worse.
        """
        # Nothing to measure on, or no features that the head alone stands on.
        if self.given.val is None or split.skips(self.model):
            return
        lower, head = split.backbone(self.model)
        dense = [layer for layer in head.layers if layer.weights and not isinstance(layer, Standardise)]
        found = self.features.of(lower, self.place) if len(lower.output.shape) == 2 else None
        if not found:
            return
        (train,), val = found
        outputs = self.model.outputs[0].shape[-1]
        linear, self.history.baselines = probing.measure(self.task, self.model, train, val, outputs)
        if not val or not linear or not self.history.baselines:
            return
        if self.verbose:
            print(self.history.baselines)
        self.spare = self.task.score(head, Batches(*val)), self.model.get_weights()
        if len(dense) == 1 and isinstance(dense[0], keras.layers.Dense):
            given = dense[0].get_weights()
            dense[0].set_weights(linear)
            figure = self.task.score(head, Batches(*val))
            if self.task.better(figure, self.spare[0]):
                self.spare = figure, self.model.get_weights()
            dense[0].set_weights(given)

    def _enter(self, phase: Phase) -> tuple[int, int]:
        self.optimizers.enter(self.model, phase)
        self.best.since = 0
        return 0, 0

    def _go_on(self, values: arrays.Arrays, facts: dict[str, Any]) -> tuple[int, int]:
        """Put everything back as it was; returns the epoch of the phase, and how many of its batches are done."""
        self.optimizers.build(self.model, facts["starts"])
        self.optimizers.starts, self.optimizers.scale = facts["starts"], facts["scale"]
        loop.put_back(self._variables(), values)
        self.best.go_on(values, facts)
        self.history.add(*facts["history"])
        return facts["epoch"], facts.get("step", 0)

    def _state(self, epoch: int) -> state.State:
        best, facts = self.best.state()
        return loop.values(self._variables()) | best, {
            **facts,
            "phase": self.number,
            "epoch": epoch,
            "starts": self.optimizers.starts,
            "scale": self.optimizers.scale,
            "history": self.history.rows,
        }

    def _variables(self) -> dict[str, Any]:
        network = {f"network/{i}": v for i, v in enumerate(self.model.variables)}
        return network | {f"optimizer/{key}": v for key, v in self.optimizers.variables.items()}

    def _recalibrate(self) -> None:
        """Exact statistics in the stages that learnt, for the best weights; these are kept, since they were asked for.

        Those of frozen stages stay: what stands on them was learnt with them.
        """
        learnt = {name for phase in self.phases for name in phase.rates if not on_top(name)}
        if not learnt:
            return
        with BadImage.surfacing():
            recalibrate_batchnorm(self.model, self.given.plain(), stages=learnt)
        self.best.value = -math.inf
        held_out = self.given.held_out()
        self.best.offer({} if held_out is None else {self.task.monitor: self.task.score(self.model, held_out)})


@keras.saving.register_keras_serializable("keras_cnn")
class PullTo(keras.regularizers.Regularizer):
    """`strength` times the squared distance of weights from `start` (L2-SP: 1802.01483, eq. 2)."""

    def __init__(self, start: Any, strength: float) -> None:
        self.start, self.strength = np.asarray(start), strength

    def __call__(self, x: Any) -> Any:
        return self.strength * cast(Any, ops.sum(ops.square(x - ops.cast(self.start, x.dtype))))

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start.tolist(), "strength": self.strength}


@contextlib.contextmanager
def _pulled(model: Any, strength: float) -> Iterator[None]:
    """Pull the backbone's weights to what they are now, for as long as this lasts."""
    backbone = [layer for layer in model.layers if not on_top(layer.name)]
    variables = [v for layer in backbone for v in layer.weights] if strength else []
    for variable in variables:
        variable.regularizer = PullTo(ops.convert_to_numpy(variable.value), strength)
    try:
        yield
    finally:
        for variable in variables:
            variable.regularizer = None
