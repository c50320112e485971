"""`publish`: a weights directory becomes a repository's next commit."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keras_cnn.checkpoints import card, commands, hashes, licences
from keras_cnn.checkpoints.directory import CARD, CONFIG, WEIGHTS, Folder, config_text, read
from keras_cnn.errors import BadSpec, Conflict, HubError, KerasCnnError, NoAccess, NotFound, UnsafeFile
from keras_cnn.hub import api, client, http
from keras_cnn.hub.resolve import parse
from keras_cnn.hub.tags import known
from keras_cnn.models.config import Config
from keras_cnn.models.fields import known_options


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
    timeout: float | None = None,
) -> Published:
    """Upload a weights directory, such as `save_pretrained` or `fine_tune` wrote, as one commit.

    repository: "owner/name"; made if it is not there, for `private` readers or for all. private: also refuses a
    repository that is there and public. tag: name of the commit, such as "v1". branch: made from main if it is not
    there. message: of the commit. license: of the weights, by the Hub's name of it, such as "apache-2.0", where
    config.json names none. dry_run: check, and tell what would be uploaded; nothing is sent, and no token is needed.
    token: by default HF_TOKEN, or what `hf auth login` stored; it is neither shown nor written. timeout: seconds
    without progress after which it is given up; by default KERAS_CNN_TIMEOUT, or a minute.

    The weights, config.json with the sha256 of every file, the model card and the figures beside them are one commit:
    others see all of it or nothing. Nothing on the hub is ever deleted: where it fails, an empty repository or branch
    that this call made stays, and the error says so. The same call again publishes what is missing and nothing twice.
    Raises BadSpec without a licence, NoAccess without the right, Conflict where someone else published in between, the
    tag is taken, or the repository is public against `private`, CorruptFile for a damaged directory, UnsafeFile for a
    card or a picture that is a link to another place, HubError.

    >>> import keras_cnn as kc
    >>> directory = kc.pull("resnet18_half.tiny_in200")  # or what fine_tune wrote
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
    files = _files(folder, config, repository)
    told = {name: _record(content) for name, content in files.items()}
    if dry_run:
        return Published(repository, branch, None, tag, None, told)
    message = message or f"Publish {config.name} with keras_cnn {version('keras-cnn')}"
    with client.patience(timeout), contextlib.ExitStack() as made:
        hub = _Hub(repository, token)
        refs = _refs(made, hub, private)
        tagged = _tagged(hub, tag, refs, files)
        parent = _head(made, hub, branch, refs, tagged)
        commit = tagged or _commit(hub, branch, parent, files, message)
        made.pop_all()
        if tag:
            _tag(hub, tag, commit)
    return Published(repository, branch, commit, tag, f"{client.endpoint()}/{repository}/tree/{tag or commit}", told)


def _valid(folder: Folder) -> Config:
    """The configuration of a directory of ours whose weights are whole; NaN in them is warned of."""
    if not folder.path.is_dir():
        raise KerasCnnError(f"{folder}: there is no such directory.")
    source = read(folder)
    if "keras_cnn" not in json.loads((folder.path / CONFIG).read_text(encoding="utf-8")) or source.load is None:
        raise KerasCnnError(
            f"{folder} is not of ours: build it, then kc.save_pretrained(model, DIRECTORY), then publish."
        )
    source.load()
    return source.config


def _licensed(config: Config, folder: Folder, license: str | None) -> Config:
    license = licences.checked(license) if license else config.provenance.get("license")
    if not license:
        raise BadSpec(
            f"{folder.path / CONFIG} names no licence, and without one nobody may use the weights: "
            "publish(..., license='apache-2.0'), or --license on the command line."
        )
    return config.with_(provenance={**config.provenance, "license": license})


def _public(config: Config, folder: Folder) -> Config:
    """The configuration without where things lay on this machine: on the hub that says nothing, or too much.

    Earlier releases noted a base by its tag alone, which no card can link to.
    """
    here = ("source", folder.path.resolve().name)  # read from a directory, a network is told to come from there
    facts = dict(fact for fact in config.provenance.items() if fact != here)
    if facts.get("base") in known():
        facts.setdefault("base_source", known()[facts["base"]].source)
    return config.with_(provenance=commands.public(facts))


def _files(folder: Folder, config: Config, repository: str) -> dict[str, Path | bytes]:
    """What is uploaded, by name: weights and figures as they are, configuration and card written for the hub.

    All but the weights is read here, so that what was looked at is what is sent; no temporary file can be left over.
    """
    figures = [name for name in card.pictures() if name in folder.names]
    files: dict[str, Path | bytes] = {WEIGHTS: folder.path / WEIGHTS}  # whose hash the configuration names
    files |= {name: _own(folder, name) for name in figures}
    by_hand = _own(folder, CARD).decode() if CARD in folder.names else card.GENERATED
    if card.GENERATED in by_hand:
        by_hand = card.card(config, repository.split("/")[1], f"hf://{repository}", figures)
    files[CARD] = by_hand.encode()
    records = {name: _record(content) for name, content in sorted(files.items())}
    files[CONFIG] = config_text(config, records).encode()
    return files


def _own(folder: Folder, name: str) -> bytes:
    """A file's content, if it is the directory's own: through a link, someone could have a private file published.

    In the layout of a hub's cache all files are links, to their content beside the snapshots.
    """
    path, root = folder.path / name, folder.path.resolve()
    places = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    real = path.resolve()
    if path.is_symlink() and real.parent not in places:
        raise UnsafeFile(
            f"{path} is a link to {real}: nothing was sent. Put the file itself there, or remove the link."
        )
    return real.read_bytes()


def _record(content: Path | bytes) -> dict[str, str | int]:
    if isinstance(content, Path):
        return hashes.record(content)
    return {"sha256": sha256(content).hexdigest(), "size": len(content)}


class _Hub:
    """A repository on the hub, as one who may write there."""

    def __init__(self, name: str, token: str | None):
        from huggingface_hub import HfApi, get_token

        self.name, self.token = name, token or get_token()
        if not self.token:
            raise NoAccess(
                f"publishing to {name} needs a token that may write: make one at "
                f"{client.endpoint()}/settings/tokens, then set HF_TOKEN or run `hf auth login`."
            )
        self._api = HfApi(token=self.token, library_name="keras_cnn", library_version=version("keras-cnn"))

    @property
    def url(self) -> str:
        return f"{client.endpoint()}/{self.name}"

    def about(self, revision: str | None = None) -> api.About:
        return api.about(self.name, revision, self.token)

    def refs(self) -> api.Refs:
        return api.refs(self.name, self.token)

    def call(self, method: str, *given: Any, **options: Any) -> Any:
        """A method of the client's, bounded as all requests are."""
        http.hooked()
        return getattr(self._api, method)(self.name, *given, **options)

    def write(self, method: str, **options: Any) -> bool:
        """The same, repeated; False where what it makes is there already, be it someone else's or of a lost answer."""
        try:
            client.persist(lambda: self.call(method, **options), self.name, options.get("revision"))
        except HubError as error:
            if _status(error) != 409:
                raise
            return False
        return True


def _refs(made: contextlib.ExitStack, hub: _Hub, private: bool) -> api.Refs:
    """Branches and tags of the repository, which is made if it is not there."""
    try:
        return _look(hub, private)
    except NotFound:
        if hub.write("create_repo", private=private):
            made.enter_context(_told(f"The repository {hub.name}", f"{hub.url}/settings"))
    return _look(hub, private)  # again: someone else may have been faster, with a public one


def _look(hub: _Hub, private: bool) -> api.Refs:
    if private and not hub.about().private:
        raise Conflict(
            f"{hub.name} is public already, and private=True (--private) would not change that: nothing was sent. "
            f"Make it private at {hub.url}/settings, or publish to a new name."
        )
    return hub.refs()


def _head(made: contextlib.ExitStack, hub: _Hub, branch: str, refs: api.Refs, tagged: str | None) -> str | None:
    """The branch's last commit; the branch is made if it is not there, at `tagged` if that is what to publish."""
    if branch in refs.branches or branch == "main":
        return refs.branches.get(branch)
    start = tagged or refs.branches.get("main")
    if hub.write("create_branch", branch=branch, revision=start):
        made.enter_context(_told(f"The branch {branch!r} of {hub.name}", f"{hub.url}/tree/{branch}"))
    return start


@contextlib.contextmanager
def _told(what: str, where: str) -> Iterator[None]:
    """Add to the error of a block that fails what was made for it: others may use it already, so it is not deleted."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(
            f"{what} was made for it and is still there, empty unless only the answer was lost: publish again, or "
            f"delete it at {where}."
        )
        raise


def _commit(hub: _Hub, branch: str, parent: str | None, files: Mapping[str, Path | bytes], message: str) -> str:
    """Commit onto `parent`, and onto nothing else; the sha."""
    if (there := hub.about(branch)) and _holds(there, files):
        return there.commit
    with contextlib.ExitStack() as opened:
        adds = _additions(opened, files)
        for add in adds:  # one by one, since the client would send several from threads of its own
            send = partial(_sent, hub, "preupload_lfs_files", [add], revision=branch, free_memory=False)
            client.persist(send, hub.name, branch)
        commit = partial(_sent, hub, "create_commit", adds, commit_message=message, revision=branch)
        commit = partial(commit, parent_commit=parent)
        try:
            made = client.persist(commit, hub.name, branch).oid
        except HubError as error:
            if _status(error) != 412:
                raise
            there = hub.about(branch)
            if _holds(there, files):  # an earlier attempt had arrived, although its answer did not
                return there.commit
            raise Conflict(
                f"someone else published to {hub.name} at {branch} in between: look at {hub.url}, then publish again "
                "to put yours on top."
            ) from error
    if not api.COMMIT.fullmatch(str(made)):
        raise http.no_hub(hub.url, f"the commit {http.words(repr(made), 60)}")
    return made


def _additions(opened: contextlib.ExitStack, files: Mapping[str, Path | bytes]) -> list[Any]:
    """What the client is to send, as open files: a path it would send by a way of its own, which nothing can watch."""
    from huggingface_hub import CommitOperationAdd

    logging.getLogger("huggingface_hub._commit_api").addFilter(_no_news)
    sources = {
        name: opened.enter_context(one.open("rb")) if isinstance(one, Path) else io.BytesIO(one)
        for name, one in files.items()
    }
    return [CommitOperationAdd(name, source) for name, source in sources.items()]


def _sent(hub: _Hub, method: str, adds: list[Any], **options: Any) -> Any:
    for add in adds:
        add.path_or_fileobj.seek(0)  # an attempt that failed has read it
    return hub.call(method, adds, **options)


def _no_news(record: logging.LogRecord) -> bool:
    return "binary IO buffer" not in record.getMessage()  # told at each upload: it is what we want


def _status(error: BaseException) -> int | None:
    return getattr(error.__cause__, "status", None)


def _holds(there: api.About, files: Mapping[str, Path | bytes]) -> bool:
    """Whether a revision has exactly these contents of the files."""
    return all(name in there.files and _fits(one, there.files[name]) for name, one in files.items())


def _fits(content: Path | bytes, want: hashes.Print) -> bool:
    if isinstance(content, Path):
        return hashes.fits(content, (want,))
    digest = hashes.begin(hashes.Print(want.hash, len(content)))
    digest.update(content)
    return want.fits(digest.hexdigest(), len(content))


def _tagged(hub: _Hub, tag: str | None, refs: api.Refs, files: Mapping[str, Path | bytes]) -> str | None:
    """The commit that the tag names already, if it is this very content; Conflict if it is another."""
    commit = refs.tags.get(tag) if tag else None
    if commit and not _holds(hub.about(commit), files):
        raise Conflict(f"{hub.name} has a tag {tag!r} of another content: tags stay as they are; choose a new one.")
    return commit


def _tag(hub: _Hub, tag: str, commit: str) -> None:
    try:
        hub.write("create_tag", tag=tag, revision=commit)
        if hub.refs().tags.get(tag) != commit:
            raise HubError(f"{hub.url} answered, yet the tag is not there.")
    except HubError as error:
        raise HubError(
            f"{hub.name} is published as commit {commit}, but the tag {tag!r} could not be set: publish again to set "
            f"it; nothing is uploaded twice. ({error})"
        ) from error
