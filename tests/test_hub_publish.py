"""A weights directory becomes a repository's commit: all of it or nothing, and known to be whole."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from repositories import LFS, NAMES, PREPROCESS, arrays, config, ours, theirs, write

import keras_cnn as kc
from keras_cnn.checkpoints import card, directory
from keras_cnn.cli import console
from keras_cnn.errors import (
    BadSpec,
    Conflict,
    CorruptFile,
    HubError,
    KerasCnnError,
    NoAccess,
    Offline,
    UnsafeFile,
    WeightsWarning,
)
from keras_cnn.hub import publishing, resolve

pytestmark = pytest.mark.no_keras

WEIGHTS = "model.safetensors"
PARTS = {"README.md", "config.json", WEIGHTS}
COMMIT = "/commit/"
CHANGES = "POST|PUT|DELETE"


@pytest.fixture(autouse=True)
def _token(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")


@pytest.fixture
def run(tmp_path) -> Path:
    return write(ours(), tmp_path / "run")


def published(hub, revision: str = "main") -> set[str]:
    return set(hub.files("me/net", revision)) - {".gitattributes"}


def test_one_commit_holds_all(hub, run):
    done = kc.publish(run, "me/net", tag="v1", message="first")
    repo = hub.repos["me/net"]
    assert published(hub) == PARTS == set(done.files)
    assert (repo.branches["main"], repo.tags) == (done.commit, {"v1": done.commit})
    assert [c.title for c in repo.commits.values()] == ["initial commit", "first"]
    assert done.url == f"{hub.endpoint}/me/net/tree/v1" and not repo.private
    files = hub.files("me/net")
    assert files[WEIGHTS] == (run / WEIGHTS).read_bytes()
    for name, facts in done.files.items():
        assert facts == {"sha256": sha256(files[name]).hexdigest(), "size": len(files[name])}


def test_the_configuration_is_ours_and_names_every_file(hub, run):
    (run / "curves.png").write_bytes(b"\x89PNG" + bytes(2000))
    kc.publish(run, "me/net")
    files = hub.files("me/net")
    values = json.loads(files["config.json"])
    assert list(values) == ["keras_cnn"]  # other libraries' keys would make them take the repository for theirs
    expected = {name: {"sha256": sha256(d).hexdigest(), "size": len(d)} for name, d in files.items()}
    assert values["keras_cnn"]["files"] == {n: expected[n] for n in (WEIGHTS, "README.md", "curves.png")}
    assert "source" not in values["keras_cnn"]["provenance"]  # where the directory lay


def test_round_trip_without_a_model(hub, run):
    kc.publish(run, "me/net")
    conf, values = resolve("hf://me/net").load()
    assert (conf.class_names, conf.preprocess) == (NAMES, PREPROCESS)
    expected = arrays(config())
    assert values.keys() == expected.keys()
    assert all(np.array_equal(values[key], expected[key]) for key in expected)


def test_private_branch_and_figures(hub, run):
    for name in card.pictures():
        (run / name).write_bytes(b"\x89PNG" + bytes(2000))
    done = kc.publish(run, "me/net", private=True, branch="try/this")
    assert hub.repos["me/net"].private
    assert published(hub) == set()
    assert published(hub, "try/this") == {*PARTS, *card.pictures()}
    assert hub.repos["me/net"].branches["try/this"] == done.commit
    assert "![Learning curves](curves.png)" in hub.files("me/net", "try/this")["README.md"].decode()


def test_publishing_again(hub, run):
    first = kc.publish(run, "me/net", tag="v1")
    assert kc.publish(run, "me/net", tag="v1") == first  # nothing changed: nothing is done
    assert len(hub.repos["me/net"].commits) == 2
    write(ours(factor=2.0), run)
    with pytest.raises(Conflict, match="has a tag 'v1' of another content"):
        kc.publish(run, "me/net", tag="v1")
    second = kc.publish(run, "me/net", tag="v2")
    assert hub.repos["me/net"].tags == {"v1": first.commit, "v2": second.commit}


def test_a_tag_of_this_content_is_where_a_new_branch_starts(hub, run):
    first = kc.publish(run, "me/net", tag="v1")
    hub.commit("me/net", {"notes": b"later"})
    assert kc.publish(run, "me/net", tag="v1", branch="stable").commit == first.commit
    assert hub.repos["me/net"].branches["stable"] == first.commit and len(hub.repos["me/net"].commits) == 3


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_card(hub, tmp_path):
    facts = {"command": "keras-cnn finetune animals", "base": f"hf://timm/resnet20.x@{'0' * 40}", "limits": "three"}
    kc.publish(write(ours(**facts), tmp_path / "run"), "me/net")
    text = hub.files("me/net")["README.md"].decode()
    read = ModelCard(text)
    assert read.data.library_name == "keras_cnn"
    assert read.data.license == "mit"
    assert read.data.base_model == "timm/resnet20.x"
    assert {"keras", "image-classification"} <= set(read.data.tags)
    assert read.data.pipeline_tag == "image-classification"
    assert read.data.eval_results is not None
    (result,) = read.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "validation")
    assert result.dataset_name == "three animals"
    for part in ('kc.build("hf://me/net")', "resnet20", "ant, bee, cow", "bilinear, crop 0.9", *facts.values()):
        assert part in text, part


@pytest.mark.parametrize(
    "data, ids",
    [
        ("tfds:tf_flowers", ["tf_flowers"]),
        ("tfds:Imagenette/160px-v2:1.*.*", ["imagenette"]),
        ("hf://datasets/me/Flowers@v1", ["me/Flowers"]),
        ("flowers", None),  # a folder
        ("digits", None),
        ("tfds:huggingface:me__flowers", None),
        ("the first 350 images of tfds:tf_flowers", None),
    ],
)
def test_data_that_the_hub_may_list(data, ids):
    read = ModelCard(card.card(config(data=data), "net")).data
    assert read.get("datasets") == ids
    assert read.eval_results is not None
    kind = read.eval_results[0].dataset_type
    assert kind == ids[0] if ids else kind not in ("tf_flowers", "huggingface")
    assert read.eval_results[0].dataset_name == data


def test_a_card_tells_no_folders():
    text = card.card(config(command="keras-cnn finetune /home/ann/photos --out=~/ann/run"), "net")
    assert "\n## Made by\n\n```\nkeras-cnn finetune photos --out=run\n```\n" in text and "/ann" not in text


def test_what_is_published_tells_no_folders(hub, tmp_path):
    command = "keras-cnn finetune /home/ann/photos --out /home/ann/run"
    kc.publish(write(ours(command=command), tmp_path / "run"), "me/net")
    assert not [name for name, data in hub.files("me/net").items() if b"ann/" in data]
    told = json.loads(hub.files("me/net")["config.json"])["keras_cnn"]["provenance"]["command"]
    assert told == "keras-cnn finetune photos --out run"


def test_a_card_that_a_person_wrote_is_kept(hub, run):
    (run / "README.md").write_text("# By hand\n")
    kc.publish(run, "me/net")
    assert hub.files("me/net")["README.md"] == b"# By hand\n"


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_dry_run_sends_nothing(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = kc.publish(run, "me/net", dry_run=True)
    assert (done.commit, done.url, set(done.files)) == (None, None, PARTS)
    assert hub.requests == []


def test_without_a_licence(hub, tmp_path):
    run = write(ours(license=None), tmp_path / "run")
    with pytest.raises(BadSpec, match=r"config\.json names no licence.*license='apache-2\.0'"):
        kc.publish(run, "me/net")
    assert hub.requests == []
    kc.publish(run, "me/net", license="apache-2.0")
    assert json.loads(hub.files("me/net")["config.json"])["keras_cnn"]["provenance"]["license"] == "apache-2.0"


def test_without_a_token(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        NoAccess, match=r"needs a token that may write: make one at .*/settings/tokens, then set HF_TOKEN"
    ):
        kc.publish(run, "me/net")
    assert hub.requests == []
    assert kc.publish(run, "me/net", token="hf_me").commit


def test_a_wrong_token_and_anothers_repository(hub, run):
    with pytest.raises(NoAccess, match="refused the token") as caught:
        kc.publish(run, "me/net", token="hf_wrong")
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(NoAccess, match=r"does not let you do this to you/net \(403\)"):
        kc.publish(run, "you/net")
    assert not hub.repos


def test_private_onto_public(hub, run):
    sha = hub.create("me/net")
    with pytest.raises(Conflict, match=r"me/net is public already.*: nothing was sent\. Make it private at .*settings"):
        kc.publish(run, "me/net", private=True, branch="mine")
    assert not hub.seen(CHANGES) and hub.repos["me/net"].branches == {"main": sha}
    hub.repos["me/net"].private = True
    kc.publish(run, "me/net", private=True)
    done = kc.publish(write(ours(factor=2.0), run), "me/net")  # the other way round, it stays private
    assert hub.repos["me/net"].private and hub.repos["me/net"].branches["main"] == done.commit


def test_private_onto_one_that_was_made_public_in_between(hub, run, monkeypatch):
    write = publishing._Hub.write
    monkeypatch.setattr(publishing._Hub, "write", lambda *given, **how: (hub.create("me/net"), write(*given, **how))[1])
    with pytest.raises(Conflict, match="me/net is public already"):
        kc.publish(run, "me/net", private=True)
    assert hub.files("me/net") == {} and not hub.seen("DELETE|PUT")


@pytest.mark.parametrize("names", [dict(tag="v 1"), dict(tag="v1^"), dict(branch="../main"), dict(branch="try@this")])
def test_bad_names_of_revisions(hub, run, names):
    with pytest.raises(KerasCnnError, match="hf://owner/name@revision"):
        kc.publish(run, "me/net", **names)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["net", "me/a/b", "../net", "me/..", "me/net@v1", "https://me/net"])
def test_bad_names(hub, run, name):
    with pytest.raises(KerasCnnError, match="owner/name"):
        kc.publish(run, name)
    assert hub.requests == []


def test_damaged_directories(hub, run, tmp_path):
    with pytest.raises(KerasCnnError, match="no such directory"):
        kc.publish(tmp_path / "none", "me/net")
    with pytest.raises(KerasCnnError, match="is not of ours: build it"):
        kc.publish(write(theirs("resnet20"), tmp_path / "timm"), "me/net", license="mit")
    (run / WEIGHTS).write_bytes(b"tampered")
    with pytest.raises(CorruptFile, match="its sha256 differs"):
        kc.publish(run, "me/net")
    assert hub.requests == []


def test_nan_is_warned_of(hub, tmp_path):
    values = arrays(config())
    values["stem_conv/kernel"][:] = np.inf
    with pytest.warns(WeightsWarning, match="stem_conv/kernel"):
        kc.publish(write(ours(values=values), tmp_path / "run"), "me/net", dry_run=True)


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        dict(kind=503, method="PUT", path=LFS),
        dict(kind="reset", method="PUT", path=LFS, after=0),
        dict(kind=503, method="POST", path=COMMIT),
        dict(kind="reset", method="POST", path=COMMIT, after=0),  # the commit is made, its answer is lost
        dict(kind=429, method="POST", path="/preupload/"),
        dict(kind=503, method="POST", path="/tag/"),
        dict(kind="reset", method="POST", path="/tag/", after=0),
        dict(kind=503, method="POST", path="/repos/create"),
        dict(kind="reset", method="POST", path="/repos/create", after=0),
        dict(kind=503, method="GET", path="/revision/main$"),
        dict(kind=503, method="GET", path="/refs$"),
    ],
    ids=lambda fault: f"{fault['kind']} {fault['path']}",
)
def test_faults_that_pass(hub, run, waits, fault):
    met = hub.faults.push(**fault)
    done = kc.publish(run, "me/net", tag="v1")
    assert met.times == 0
    assert published(hub) == PARTS and hub.repos["me/net"].tags == {"v1": done.commit}
    assert len(hub.repos["me/net"].commits) == 2  # nothing was published twice
    assert hub.repos["me/net"].branches["main"] == done.commit


failures = pytest.mark.parametrize(
    "fault, error, sentence",
    [
        (dict(kind=503, method="PUT", path=LFS), HubError, "503"),
        (dict(kind=503, method="POST", path=COMMIT), HubError, "503"),
        (dict(kind=403, method="POST", path=COMMIT, code=""), NoAccess, "403"),
        (dict(kind="reset", method="POST", path="/preupload/", after=0), Offline, "cannot be reached"),
        (dict(kind=412, method="POST", path=COMMIT), Conflict, r"someone else published to me/net at \S+ in between"),
    ],
)


@failures
def test_a_failed_upload_leaves_nothing_half_visible(hub, run, waits, fault, error, sentence):
    first = kc.publish(run, "me/net")
    write(ours(factor=2.0), run)
    hub.faults.push(**fault, times=None)
    with pytest.raises(error, match=sentence):
        kc.publish(run, "me/net", tag="v2")
    assert hub.repos["me/net"].branches["main"] == first.commit and not hub.repos["me/net"].tags
    hub.faults.clear()
    second = kc.publish(run, "me/net", tag="v2")
    assert hub.repos["me/net"].tags == {"v2": second.commit}
    assert hub.files("me/net")[WEIGHTS] == (run / WEIGHTS).read_bytes()


@failures
@pytest.mark.parametrize("branch", ["main", "try/this"])
def test_a_failed_first_upload_tells_what_it_made(hub, run, waits, branch, fault, error, sentence):
    """And deletes nothing: someone else may have published there since it was looked at."""
    hub.faults.push(**fault, times=None)
    with pytest.raises(error, match=sentence) as caught:
        kc.publish(run, "me/net", tag="v1", branch=branch)
    assert published(hub) == set() and not hub.seen("DELETE")
    made = ["The branch 'try/this' of me/net", "The repository me/net"][branch == "main" :]
    told = "was made for it and is still there, empty unless only the answer was lost: publish again, or delete it at"
    assert [note.partition(" http")[0] for note in caught.value.__notes__] == [f"{what} {told}" for what in made]
    assert all(note in (console.explain(caught.value) or "") for note in caught.value.__notes__)
    hub.faults.clear()
    done = kc.publish(run, "me/net", tag="v1", branch=branch)
    assert hub.repos["me/net"].branches[branch] == hub.repos["me/net"].tags["v1"] == done.commit


@pytest.mark.parametrize("branch", ["main", "old"])
def test_a_failed_upload_removes_nothing_that_was_there(hub, run, waits, branch):
    """Empty though it is."""
    sha = hub.create("me/net")
    hub.repos["me/net"].branches["old"] = sha
    hub.faults.push(503, "PUT", LFS, times=None)
    with pytest.raises(HubError, match="503"):
        kc.publish(run, "me/net", branch=branch)
    assert hub.repos["me/net"].branches == {"main": sha, "old": sha} and not hub.seen("DELETE")


@pytest.mark.parametrize("branch", ["main", "new"])
def test_what_can_be_checked_is_checked_first(hub, run, branch):
    first = hub.create("me/net", {WEIGHTS: b"theirs"})
    hub.tag("me/net", "v1")
    with pytest.raises(Conflict, match="has a tag 'v1' of another content"):
        kc.publish(run, "me/net", tag="v1", branch=branch)
    assert not hub.seen(CHANGES) and hub.repos["me/net"].branches == {"main": first}


def test_a_made_repository_stays_where_others_published_to_it(hub, run, monkeypatch):
    """At the last moment: after all that can be looked at has been."""

    def late(*given):
        hub.commit("me/net", {"theirs": b"!"}, branch=branch)
        return commit(*given)

    commit = publishing._commit
    monkeypatch.setattr(publishing, "_commit", late)
    for branch in ("main", "new"):
        with pytest.raises(Conflict, match=f"published to me/net at {branch} in between"):
            kc.publish(run, "me/net", branch=branch)
        assert hub.files("me/net", branch)["theirs"] == b"!"
    assert not hub.seen("DELETE")


def test_a_commit_that_arrived_stays(hub, run, monkeypatch):
    """Its answer was lost, and so was every later one."""
    commit = publishing._commit

    def lost(*given):
        commit(*given)
        raise Offline("the line is dead")

    monkeypatch.setattr(publishing, "_commit", lost)
    with pytest.raises(Offline, match=r"^the line is dead\n.*empty unless only the answer was lost"):
        kc.publish(run, "me/net")
    assert published(hub) == PARTS and not hub.seen("DELETE")


def test_an_interrupted_upload_says_what_is_there(hub, run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        kc.publish(run, "me/net")
    assert published(hub) == set()
    assert caught.value.__notes__[0].startswith("The repository me/net was made for it and is still there")


@pytest.mark.parametrize("name", ["README.md", *card.pictures()])
def test_a_link_to_a_private_file_is_refused(hub, run, tmp_path, name):
    secret = tmp_path / "id_rsa"
    secret.write_bytes(b"-----BEGIN PRIVATE KEY-----")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(secret)
    with pytest.raises(UnsafeFile, match=rf"{name} is a link to {secret}: nothing was sent"):
        kc.publish(run, "me/net")
    assert hub.requests == []


def test_what_was_pulled_may_be_published(hub, run, tmp_path):
    """A snapshot is made of links, to files beside it; one of them may lead on to another place."""
    (run / "README.md").write_text("# By hand\n")
    kc.publish(run, "me/net")
    there = kc.pull("hf://me/net")
    assert kc.publish(there, "me/copy").commit and hub.files("me/copy")["README.md"] == b"# By hand\n"
    blob = (there / "README.md").resolve()
    blob.unlink()
    (tmp_path / "secret").write_text("secret")
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFile, match="nothing was sent"):
        kc.publish(there, "me/copy")


def test_no_temporary_files(hub, run, tmp_path, monkeypatch):
    """A killed process leaves none: there are none."""
    monkeypatch.setattr("tempfile.mkdtemp", None)
    monkeypatch.setattr("tempfile.mkstemp", None)
    assert kc.publish(run, "me/net").commit


def test_someone_else_publishes_in_between(hub, run, monkeypatch):
    hub.create("me/net")
    tagged = publishing._tagged
    monkeypatch.setattr(
        publishing, "_tagged", lambda *given: (hub.commit("me/net", {"theirs": b"!"}), tagged(*given))[1]
    )
    with pytest.raises(Conflict, match=r"in between: look at .*/me/net, then publish again"):
        kc.publish(run, "me/net")
    assert set(hub.files("me/net")) == {"theirs"}
    monkeypatch.undo()


def test_a_tag_that_fails(hub, run, waits):
    hub.faults.push(503, "POST", "/tag/", times=None)
    with pytest.raises(HubError, match=r"published as commit \w{40}, but the tag 'v1' could not be set: publish again"):
        kc.publish(run, "me/net", tag="v1")
    assert published(hub) == PARTS
    hub.faults.clear()
    done = kc.publish(run, "me/net", tag="v1")
    assert hub.repos["me/net"].tags == {"v1": done.commit} and len(hub.repos["me/net"].commits) == 2


def test_the_token_is_neither_written_nor_logged(hub, run, home, caplog, capfd):
    caplog.set_level("DEBUG")
    done = kc.publish(run, "me/net", tag="v1")
    written = [path for root in (run, home) for path in root.rglob("*") if path.is_file()]
    assert written and not [path for path in written if b"hf_me" in path.read_bytes()]
    assert "hf_me" not in caplog.text + repr(done) + "".join(capfd.readouterr())
    assert not any(b"hf_me" in data for data in hub.files("me/net").values())


def test_the_snippet_of_a_card_names_the_directory(tmp_path):
    assert re.search(r'kc\.build\("path/to/net"\)', card.card(config(), "net"))
    assert directory.read(write(ours(), tmp_path / "net")).config.architecture == "resnet20"
