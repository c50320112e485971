"""What `fine_tune` and `train` may be told, as data: a field is an option, wherever it is given.

From a field follow the keyword of the function, with its docstring; the option of the command line; the key of a TOML
file; and what the directory of a run keeps and compares.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from keras_cnn.errors import BadSpec, MissingPackage, UnknownOption
from keras_cnn.models import fields

if TYPE_CHECKING:
    from keras_cnn.tasks import Task

SCHEDULES = ("two-phase", "gradual", "all", "head")
BATCHNORM = ("frozen", "train", "recalibrate")
# Optimisers, each with a learning rate and a weight decay that train from scratch, for batches of 128.
OPTIMIZERS = {
    "sgd": (0.2, 5e-3),
    "adamw": (2e-3, 0.05),
    "lamb": (5e-3, 0.02),
    "lion": (3e-4, 0.2),
    "muon": (2e-3, 0.05),
    "rmsprop": (5e-3, 1e-5),
}
ANNEALING = ("cosine", "linear", "exponential", "constant")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
LOGS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # who is told of a run, and what that needs
MOST = 0.9999  # of shares that may not be the whole

Log = str | Iterable[str] | None
Function = TypeVar("Function", bound=Callable[..., Any])


def option(
    default: Any, told: str, least: float = -math.inf, most: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field. told: what it means, for help and docstring. least, most: of a number; choices: of a text."""
    about = {"told": told, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked options; errors name the one that cannot be meant, and the mend."""

    def __post_init__(self) -> None:
        fields.conform(self)
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), **field.metadata)

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | str | os.PathLike[str] | None, caller: str, **more: Any) -> Self:
        """Options of a TOML file, of a mapping or of themselves, with some more, which win.

        Raises UnknownOption, as the function `caller` would; BadSpec for a file that cannot be read.
        """
        if isinstance(given, Options):
            given, place = dataclasses.asdict(given), caller
        elif isinstance(given, Mapping) or given is None:
            given, place = given or {}, caller
        else:
            given, place = read_toml(Path(given)), str(given)
        known = [field.name for field in dataclasses.fields(cls)]
        for name in {**given, **more}:
            if name not in known:
                raise UnknownOption(f"{place} has no option {name!r}: {fields.instead(caller, name, known)}")
        return cls(**{**given, **more})


def _check(name: str, value: Any, told: str, least: float, most: float, choices: tuple[str, ...]) -> None:
    if value is None:
        return
    if choices:
        fields.one_of(name, value, choices)
    if isinstance(value, int | float) and not least <= value <= most:
        at_most = f", at most {most:g}" if most < math.inf else ""
        raise BadSpec(f"{name}={value!r}: give {least:g} or more{at_most}.")


def read_toml(path: Path) -> dict[str, Any]:
    """What a file of options says; BadSpec where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSpec(f"{path}: the file of options cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise BadSpec(f"{path} is no TOML file ({error}): write lines such as epochs = 10.") from None


def logs_of(log: Log, out: Any) -> tuple[str, ...]:
    """The names of LOGS in a list of them, or in a text with commas.

    Raises BadSpec for one that is not known, or without a directory to write to; MissingPackage.
    """
    names = tuple(dict.fromkeys(log.replace(" ", "").split(",") if isinstance(log, str) else log or ()))
    for name in names:
        fields.one_of("log", name, tuple(LOGS))
        if importlib.util.find_spec(LOGS[name]) is None:
            raise MissingPackage(f"log={name!r} needs {LOGS[name]}: pip install {LOGS[name]}.")
    if "tensorboard" in names and out is None:
        raise BadSpec("log='tensorboard' writes into the directory of the run: give out.")
    return names


def takes(kind: type[Options]) -> Callable[[Function], Function]:
    """Decorates a function whose last parameter is `**more`: its signature and docstring get the fields of `kind`."""

    def decorate(function: Function) -> Function:
        *own, _ = inspect.signature(function).parameters.values()
        more = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in dataclasses.fields(kind)
        ]
        vars(function)["__signature__"] = inspect.Signature([*own, *more])
        lines = [f"    {f.name}: {f.metadata['told']}. Default: {f.default!r}." for f in dataclasses.fields(kind)]
        function.__doc__ = "\n".join([function.__doc__ or "", "    Options:", *lines, "    "])
        return function

    return decorate


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """What a step learns by, and how it is compiled; the defaults are the task's and Keras'."""

    loss: str | None = option(None, "a loss of the network's task, such as focal, dice, squared; its first by default")
    label_smoothing: float | None = option(
        None, "share of each target that is spread over all classes; by default 0.1 for one class an image", 0, MOST
    )
    jit_compile: bool | None = option(None, "compile a step by XLA; by default where Keras does, which is on a GPU")

    def for_task(self, task: Task, model: Any) -> Self:
        """The same with the task's defaults; BadSpec for a loss that it, or the network's head, cannot learn by, or for
        what it has no use for."""
        task.losses(model, self.loss)
        if self.label_smoothing and task.label_smoothing is None:
            raise BadSpec(f"label_smoothing is for classes, which {task.name} has none of: leave it out.")
        smoothing = task.label_smoothing if self.label_smoothing is None else self.label_smoothing
        return dataclasses.replace(self, label_smoothing=smoothing)


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions(StepOptions):
    """Options of `fine_tune`."""

    schedule: str = option("two-phase", "what learns when: two-phase, gradual, all or head", choices=SCHEDULES)
    head_epochs: int = option(5, "epochs of the head alone", 0)
    epochs: int = option(15, "epochs of what follows", 0)
    head_learning_rate: float = option(1e-2, "peak learning rate of the head alone", 0)
    learning_rate: float | None = option(
        None, "peak learning rate of what follows; by default 1e-3, and 5e-4 where batch norm stays frozen", 0
    )
    layer_decay: float = option(1.0, "learning rate of a stage as a share of that of the stage above it", 0)
    warmup: float = option(0.2, "share of a phase's steps in which the learning rate rises", 0, 1)
    above: str | None = option(None, "only stages above this one ever learn")
    bn: str | None = option(
        None, "batch norm of what learns: frozen, with few images the default, train or recalibrate", choices=BATCHNORM
    )
    probe: bool = option(True, "measure the features first, and never end worse")
    views: int = option(0, "augmented views that the head alone sees, in turn; 0 for the images themselves", 0)
    weight_decay: float = option(0.05, "pull of the weights towards zero, but of biases and norms", 0)
    l2sp: float = option(0.0, "pull of the backbone towards its pretrained weights, in place of weight decay", 0)
    ema: float = option(0.0, "momentum of a running mean of the weights, which is what is kept; 0 for none", 0, MOST)
    patience: int | None = option(None, "epochs without a new best after which a phase ends", 1)
    class_weight: Any = option(None, "weight of the loss by class, or 'balanced': inversely to their images")  # noqa: RUF009
    batch_size: int = option(32, "images a step", 1)
    seed: int = option(0, "a number from which the order of training images follows")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(StepOptions):
    """Options of `train`."""

    epochs: int = option(10, "passes over the training images", 1)
    optimizer: str = option("sgd", f"which optimiser: {', '.join(OPTIMIZERS)}", choices=tuple(OPTIMIZERS))
    learning_rate: float | None = option(
        None, "peak learning rate; by default one for the optimiser and batches of 128: scale it with the batch", 0
    )
    warmup: float = option(0.2, "share of the steps in which the learning rate rises", 0, 1)
    annealing: str = option(
        "cosine",
        "how it falls then, to zero: cosine or linear; or by decay_rate: exponential; constant",
        choices=ANNEALING,
    )
    decay_rate: float = option(0.1, "factor by which exponential annealing lowers the rate at once", 0, 1)
    decay_epochs: float = option(30.0, "epochs between two such steps", 1e-3)
    momentum: float = option(0.9, "of SGD (Nesterov's), RMSprop and Muon", 0, MOST)
    epsilon: float = option(1e-7, "what is added to the root of the mean square of gradients; not of SGD and Lion", 0)
    weight_decay: float | None = option(
        None, "pull of the weights towards zero, but of biases and norms; by default one for the optimiser", 0
    )
    clipnorm: float = option(0.0, "the most that the norm of all gradients together may be; 0 for no limit", 0)
    accumulate: int = option(1, "batches whose gradients make one step", 1)
    ema: float = option(0.0, "momentum of a running mean of the weights, which is what is kept; 0 for none", 0, MOST)
    teacher_weight: float = option(0.5, "share of the loss that is the distance from a teacher's answers", 0, 1)
    initial_scale: float = option(
        1.0, "side of the first epochs' training images as a share of the network's, up to which they grow", 0.1, 1
    )
    batch_size: int = option(128, "images a step", 1)
    seed: int = option(0, "a number from which the order of training images follows")

    def for_task(self, task: Task, model: Any) -> Self:
        """The same with the defaults of the task and of the optimiser."""
        rate, decay = OPTIMIZERS[self.optimizer]
        rate = rate if self.learning_rate is None else self.learning_rate
        decay = decay if self.weight_decay is None else self.weight_decay
        return dataclasses.replace(super().for_task(task, model), learning_rate=rate, weight_decay=decay)
