"""`publish`: a weights directory becomes a repository's next commit."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cnn import __version__
from keras_cnn.errors import BadSpec, Conflict, HubError, KerasCnnError, NoAccess
from keras_cnn.hub import card, client, hashes
from keras_cnn.hub.directory import CARD, CONFIG, WEIGHTS, Folder, config_text, read
from keras_cnn.hub.resolve import parse
from keras_cnn.spec import Config


@dataclass(frozen=True)
class Published:
    """What was published: `files` has size in bytes and sha256 by name; commit and url are None after a dry run."""

    repository: str
    branch: str
    commit: str | None
    tag: str | None
    url: str | None
    files: dict[str, dict[str, str | int]]


def publish(
    directory: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    tag: str | None = None,
    branch: str = "main",
    message: str | None = None,
    license: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
) -> Published:
    """Upload a weights directory, such as `save_pretrained` or `fine_tune` wrote, as one commit.

    repository: "owner/name"; made if it is not there, for `private` readers or for all. tag: name of the commit, such
    as "v1". branch: made from main if it is not there. license: of the weights, such as "apache-2.0", where
    config.json names none. dry_run: check, and tell what would be uploaded; nothing is sent, and no token is needed.
    token: by default HF_TOKEN, or what `hf auth login` stored; it is neither shown nor written.

    The weights, config.json with the sha256 of every file, the model card and the figures beside them are one commit:
    others see all of it or nothing. The same call again, after a failure, publishes what is missing and nothing twice.
    Raises BadSpec without a licence, NoAccess without the right, Conflict where someone else published in between or
    the tag is taken, CorruptFile for a damaged directory, HubError.

    >>> import keras_cnn as kc
    >>> directory = kc.pull("resnet18.tiny_in200")  # or what fine_tune wrote
    >>> sorted(kc.publish(directory, "me/tiny", tag="v1", dry_run=True).files)
    ['README.md', 'config.json', 'model.safetensors']
    """
    repository, revision = parse(f"hf://{repository.removeprefix('hf://')}")
    if revision:
        raise BadSpec(f"{repository}@{revision}: publish to owner/name; `branch` and `tag` name a revision.")
    folder = Folder(Path(directory))
    config = _licensed(_valid(folder), folder, license)
    with tempfile.TemporaryDirectory() as aside:
        files = _files(folder, config, repository, Path(aside))
        told = {name: hashes.record(path) for name, path in files.items()}
        if dry_run:
            return Published(repository, branch, None, tag, None, told)
        api = _api(token, repository)
        parent = client.persist(lambda: _make(api, repository, branch, private), repository, branch)
        message = message or f"Publish {config.architecture} with keras_cnn {__version__}"
        commit = _tagged(api, repository, tag, files) or _commit(api, repository, branch, parent, files, message)
    if tag:
        _tag(api, repository, tag, commit)
    return Published(repository, branch, commit, tag, f"{client.endpoint()}/{repository}/tree/{tag or commit}", told)


def _valid(folder: Folder) -> Config:
    """The configuration of a directory of ours whose weights are whole; NaN in them is warned of."""
    if not folder.path.is_dir():
        raise KerasCnnError(f"{folder}: there is no such directory.")
    source = read(folder)
    if "keras_cnn" not in json.loads((folder.path / CONFIG).read_text()) or source.load is None:
        raise KerasCnnError(
            f"{folder} is not of ours: build it, then kc.save_pretrained(model, DIRECTORY), then publish."
        )
    source.load()
    return source.config


def _licensed(config: Config, folder: Folder, license: str | None) -> Config:
    license = license or config.provenance.get("license")
    if not license:
        raise BadSpec(
            f"{folder.path / CONFIG} names no licence, and without one nobody may use the weights: "
            "publish(..., license='apache-2.0'), or --license on the command line."
        )
    # Read from a directory, a network is told to come from there; on the hub that says nothing.
    here = ("source", folder.path.resolve().name)
    facts = dict(fact for fact in config.provenance.items() if fact != here)
    return config.with_(provenance={**facts, "license": license})


def _files(folder: Folder, config: Config, repository: str, aside: Path) -> dict[str, Path]:
    """What is uploaded, by name: weights and figures as they are, configuration and card written for the hub."""
    figures = [name for name in card.FIGURES if name in folder.names]
    files = {name: folder.path / name for name in (WEIGHTS, *figures)}
    there = folder.path / CARD
    if there.is_file() and card.GENERATED not in there.read_text():
        files[CARD] = there
    else:
        files[CARD] = aside / CARD
        files[CARD].write_text(card.card(config, repository.split("/")[1], f"hf://{repository}", figures))
    files[CONFIG] = aside / CONFIG
    records = {name: hashes.record(path) for name, path in sorted(files.items()) if name != CONFIG}
    files[CONFIG].write_text(config_text(config, records))
    return files


def _api(token: str | None, repository: str) -> Any:
    from huggingface_hub import HfApi, get_token

    token = token or get_token()
    if not token:
        raise NoAccess(
            f"publishing to {repository} needs a token that may write: make one at "
            f"{client.endpoint()}/settings/tokens, then set HF_TOKEN or run `hf auth login`."
        )
    return HfApi(token=token, library_name="keras_cnn", library_version=__version__)


def _make(api: Any, repository: str, branch: str, private: bool) -> str:
    """See that repository and branch are there; the branch's last commit."""
    api.create_repo(repository, private=private, exist_ok=True)
    if branch != "main":
        api.create_branch(repository, branch=branch, exist_ok=True)
    return api.model_info(repository, revision=branch).sha


def _commit(api: Any, repository: str, branch: str, parent: str, files: Mapping[str, Path], message: str) -> str:
    """Commit onto `parent`, and onto nothing else; the sha."""
    from huggingface_hub import CommitOperationAdd

    def attempt() -> str:
        # An earlier attempt may have arrived although its answer did not.
        if _holds(api, repository, branch, files):
            return api.model_info(repository, revision=branch).sha
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        info = api.create_commit(repository, operations, commit_message=message, revision=branch, parent_commit=parent)
        return info.oid

    try:
        return client.persist(attempt, repository, branch)
    except HubError as error:
        if _status(error) != 412:
            raise
        raise Conflict(
            f"someone else published to {repository} at {branch} in between: look at {client.endpoint()}/{repository}, "
            "then publish again to put yours on top."
        ) from error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error.__cause__, "response", None), "status_code", None)


def _holds(api: Any, repository: str, revision: str, files: Mapping[str, Path]) -> bool:
    """Whether a revision has exactly these contents of the files."""
    info = api.model_info(repository, revision=revision, files_metadata=True)
    theirs = {one.rfilename: f"sha256:{one.lfs.sha256}" if one.lfs else f"git:{one.blob_id}" for one in info.siblings}
    return all(name in theirs and hashes.fits(path, (hashes.Print(theirs[name]),)) for name, path in files.items())


def _tagged(api: Any, repository: str, tag: str | None, files: Mapping[str, Path]) -> str | None:
    """The commit that the tag names already, if it is this very content; Conflict if it is another."""
    if not tag:
        return None
    refs = client.persist(lambda: api.list_repo_refs(repository), repository)
    commit = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
    if commit and not client.persist(lambda: _holds(api, repository, commit, files), repository, tag):
        raise Conflict(f"{repository} has a tag {tag!r} of another content: tags stay as they are; choose a new one.")
    return commit


def _tag(api: Any, repository: str, tag: str, commit: str) -> None:
    try:
        client.persist(lambda: api.create_tag(repository, tag=tag, revision=commit, exist_ok=True), repository, tag)
    except HubError as error:
        raise HubError(
            f"{repository} is published as commit {commit}, but the tag {tag!r} could not be set: publish again to set "
            f"it; nothing is uploaded twice. ({error})"
        ) from error
