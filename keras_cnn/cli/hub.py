"""Commands that talk to a hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_cnn.cli import console, tables
from keras_cnn.cli.options import JSON


def pull(
    name: Annotated[str, typer.Argument(help="Tag, hf://owner/name[@revision], or weights directory.")],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Fetch weights and check them, for use offline."""
    from keras_cnn.hub.pulling import fetch

    _show_files(dataclasses.asdict(fetch(name)), ("source", "commit", "path"), as_json)


def publish(
    directory: Annotated[Path, typer.Argument(help="Weights directory.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made now, for yourself only.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of the commit, such as v1.")] = None,
    branch: Annotated[str, typer.Option(help="Branch; made if it is not there.")] = "main",
    message: Annotated[str | None, typer.Option(help="What changed.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, if config.json names none.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and tell; send nothing.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Upload a weights directory as one commit.

    HF_TOKEN is your token.
    """
    from keras_cnn.hub import publish as upload

    done = upload(
        directory,
        repository,
        private=private,
        tag=tag,
        branch=branch,
        message=message,
        license=license,
        dry_run=dry_run,
    )
    _show_files(dataclasses.asdict(done), ("repository", "branch", "commit", "tag", "url"), as_json)


def _show_files(facts: dict[str, Any], keys: tuple[str, ...], as_json: bool) -> None:
    """Facts about a revision, then its files."""
    if as_json:
        return console.print_json({**facts, **({"path": str(facts["path"])} if "path" in facts else {})})
    for key in keys:
        if facts[key]:
            console.show(f"{key}: {facts[key]}")
    console.show(tables.files(facts["files"]))
