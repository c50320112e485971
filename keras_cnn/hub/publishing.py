"""`publish`: a weights directory becomes a repository's next commit."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from keras_cnn import __version__
from keras_cnn.checks import known_options
from keras_cnn.errors import BadSpec, Conflict, HubError, KerasCnnError, NoAccess, NotFound
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


@known_options
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

    repository: "owner/name"; made if it is not there, for `private` readers or for all. private: also refuses a
    repository that is there and public. tag: name of the commit, such as "v1". branch: made from main if it is not
    there. message: of the commit. license: of the weights, such as "apache-2.0", where config.json names none. dry_run:
    check, and tell what would be uploaded; nothing is sent, and no token is needed. token: by default HF_TOKEN, or what
    `hf auth login` stored; it is neither shown nor written.

    The weights, config.json with the sha256 of every file, the model card and the figures beside them are one commit:
    others see all of it or nothing. Where it fails, a repository or branch that this call made is removed again. The
    same call again, after a failure, publishes what is missing and nothing twice.
    Raises BadSpec without a licence, NoAccess without the right, Conflict where someone else published in between, the
    tag is taken, or the repository is public against `private`, CorruptFile for a damaged directory, HubError.

    >>> import keras_cnn as kc
    >>> directory = kc.pull("resnet18.tiny_in200")  # or what fine_tune wrote
    >>> sorted(kc.publish(directory, "me/tiny", tag="v1", dry_run=True).files)
    ['README.md', 'config.json', 'model.safetensors']
    """
    repository, revision = parse(f"hf://{repository.removeprefix('hf://')}")
    if revision:
        raise BadSpec(f"{repository}@{revision}: publish to owner/name; `branch` and `tag` name a revision.")
    for name in filter(None, (branch, tag)):
        parse(f"hf://{repository}@{name}")  # what no address can name is refused before anything is made
    folder = Folder(Path(directory))
    config = _public(_licensed(_valid(folder), folder, license), folder)
    with tempfile.TemporaryDirectory() as aside:
        files = _files(folder, config, repository, Path(aside))
        told = {name: hashes.record(path) for name, path in files.items()}
        if dry_run:
            return Published(repository, branch, None, tag, None, told)
        api = _api(token, repository)
        message = message or f"Publish {config.architecture} with keras_cnn {__version__}"
        with contextlib.ExitStack() as made:
            refs = _refs(made, api, repository, private)
            tagged = _tagged(api, repository, tag, refs, files)
            parent = _head(made, api, repository, branch, refs, tagged)
            commit = tagged or _commit(api, repository, branch, parent, files, message)
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
    return config.with_(provenance={**config.provenance, "license": license})


def _public(config: Config, folder: Folder) -> Config:
    """The configuration without where things lay on this machine: on the hub that says nothing, or too much."""
    here = ("source", folder.path.resolve().name)  # read from a directory, a network is told to come from there
    facts = dict(fact for fact in config.provenance.items() if fact != here)
    if command := facts.get("command"):
        facts["command"] = card.without_folders(str(command))
    return config.with_(provenance=facts)


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


def _refs(made: contextlib.ExitStack, api: Any, repository: str, private: bool) -> Any:
    """Branches and tags of the repository, which is made if it is not there; `made` removes it after a failure."""
    try:
        return _look(api, repository, private)
    except NotFound:
        if _new(partial(api.create_repo, repository, private=private), repository):
            made.enter_context(_or_removed(repository, repository, partial(_remove_repository, api, repository)))
    return _look(api, repository, private)  # again: someone else may have been faster, with a public one


def _look(api: Any, repository: str, private: bool) -> Any:
    info = client.persist(lambda: api.model_info(repository), repository)
    if private and not info.private:
        raise Conflict(
            f"{repository} is public already, and private=True (--private) would not change that: nothing was sent. "
            f"Make it private at {client.endpoint()}/{repository}/settings, or publish to a new name."
        )
    return client.persist(lambda: api.list_repo_refs(repository), repository)


def _head(
    made: contextlib.ExitStack, api: Any, repository: str, branch: str, refs: Any, tagged: str | None
) -> str | None:
    """The branch's last commit; the branch is made if it is not there, at `tagged` if that is what to publish."""
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    if branch in heads or branch == "main":
        return heads.get(branch)
    start = tagged or heads.get("main")
    if _new(partial(api.create_branch, repository, branch=branch, revision=start), repository, branch):
        remove = partial(_remove_branch, api, repository, branch, start)
        made.enter_context(_or_removed(f"branch {branch!r} of {repository}", repository, remove))
    return start


def _new(create: Callable[[], Any], repository: str, revision: str | None = None) -> bool:
    """Make something; False where it is there already, be it someone else's or that of a lost answer."""
    try:
        client.persist(create, repository, revision)
    except HubError as error:
        if _status(error) != 409:
            raise
        return False
    return True


@contextlib.contextmanager
def _or_removed(what: str, repository: str, remove: Callable[[], None]) -> Iterator[None]:
    """Remove what was made for a block that fails. The block's own error is told; a note, if that fails as well."""
    try:
        yield
    except BaseException as error:
        try:
            with contextlib.suppress(NotFound):  # removed by an attempt whose answer was lost
                client.persist(remove, repository)
        except Exception:
            error.add_note(f"What was made for it, {what}, is empty and still there: publish again, or delete it.")
        raise


def _remove_repository(api: Any, repository: str) -> None:
    """Delete a repository that is as empty as the hub makes it: someone else may have published there since."""
    refs = api.list_repo_refs(repository)
    commits = {ref.target_commit for ref in (*refs.branches, *refs.tags)}
    if len(commits) == 1 and set(api.list_repo_files(repository)) <= {".gitattributes"}:
        api.delete_repo(repository, missing_ok=True)


def _remove_branch(api: Any, repository: str, branch: str, start: str | None) -> None:
    """Delete a branch that is where it was made."""
    if (branch, start) in [(ref.name, ref.target_commit) for ref in api.list_repo_refs(repository).branches]:
        api.delete_branch(repository, branch=branch)


def _commit(api: Any, repository: str, branch: str, parent: str | None, files: Mapping[str, Path], message: str) -> str:
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


def _tagged(api: Any, repository: str, tag: str | None, refs: Any, files: Mapping[str, Path]) -> str | None:
    """The commit that the tag names already, if it is this very content; Conflict if it is another."""
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
