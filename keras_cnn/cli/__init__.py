"""`keras-cnn`: one thin command a verb; what they do is in the library.

Exit codes: 0 success; 2 bad usage or bad input, with one sentence; 1 a bug of ours, with a traceback; 130 Ctrl-C.
Frameworks are imported inside the commands that need them, so that `list` and `info` answer at once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from keras_cnn.checkpoints.commands import PROGRAM
from keras_cnn.cli import answers, console, deploying, hub, machine, networks, packing, training
from keras_cnn.cli.options import with_options_of_all
from keras_cnn.errors import LostWorker
from keras_cnn.models.hints import RENAMED

VERBS = {
    "list": networks.list_,
    "info": networks.info,
    "lint": networks.lint,
    "pack": packing.pack,
    "demo": training.demo,
    "fine-tune": training.fine_tune,
    "train": training.train,
    "lr-find": training.lr_find,
    "evaluate": answers.evaluate,
    "predict": answers.predict,
    "explain": answers.explain,
    "pull": hub.pull,
    "publish": hub.publish,
    "export": deploying.export,
    "quantize": deploying.quantize,
    "serve": deploying.serve,
    "benchmark": deploying.benchmark,
    "doctor": machine.doctor,
}
ALIASES = {"finetune": "fine-tune", "lrfind": "lr-find"}  # of earlier releases


class Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is told with what it has noted, an option of earlier releases with its new name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            new = RENAMED.get(getattr(error, "option_name", "").lstrip("-").replace("-", "_"), "")
            if new:
                vars(error)["possibilities"] = ["--" + new.replace("_", "-")]
            raise
        except KeyboardInterrupt as stop:
            console.note("; ".join(["stopped", *getattr(stop, "__notes__", ())]).removesuffix(".") + ".")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Convolutional networks for Keras 3.",
)
for name, verb in VERBS.items():
    app.command(name)(with_options_of_all(verb))
for alias, name in ALIASES.items():
    app.command(alias, hidden=True)(with_options_of_all(VERBS[name]))


def _version(value: bool) -> None:
    if value:
        print(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point of the command."""
    console.begin()
    try:
        app(prog_name=PROGRAM)
    except Exception as error:
        if not console.fail(error):
            raise
        sys.exit(75 if isinstance(error, LostWorker) else 2)  # EX_TEMPFAIL: schedulers try again
