"""Packing: shards of every task that train and score as the data that they were made of; foreign ones; faults told."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from images import encode, folder, noise
from PIL import Image
from test_masks import write as write_masks

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.data import index
from keras_cnn.errors import BadData, BadImage, BadSpec, CannotWrite, RunExists
from keras_cnn.models.config import Preprocess

SMALL = Preprocess(size=(16, 20), crop=1.0)
COUNTS = {"train/a": 7, "train/b": 6, "val/a": 2, "val/b": 3}
SHARD = 6000  # bytes: three or four of these images


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", COUNTS)


def table(root: Path, rows) -> Path:
    """A table of images of noise: rows of (label columns)."""
    root.mkdir()
    with (root / "table.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, ["file", *rows[0]])
        out.writeheader()
        for i, row in enumerate(rows):
            (root / f"{i}.png").write_bytes(encode(noise(seed=i)))
            out.writerow({"file": f"{i}.png", **row})
    return root / "table.csv"


def made(kind: str, root: Path):
    """A data set of each task."""
    if kind == "segmentation":
        return write_masks(root)
    if kind == "classification":
        return folder(root, COUNTS)
    if kind == "multilabel":
        return table(root, [{"tags": ("sea|sun", "sun", "sea", "sky|sea")[i % 4]} for i in range(12)])
    return table(root, [{"age": 0.1 * i, "height": -2 * i} for i in range(12)])


def rows(split: data.Split):
    """(label, image bytes) by key."""
    return {s.key: (np.asarray(label).tolist(), s.read()) for s, label in zip(split.sources, split.labels, strict=True)}


# --- the same data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "segmentation"])
def test_packed_data_is_the_same_data(kind, tmp_path):
    source = made(kind, tmp_path / "data")
    packed = kc.pack(source, tmp_path / "packed", shard_bytes=SHARD)
    before, now = index(source), index(tmp_path / "packed")
    assert (now.task, now.class_names) == (before.task, before.class_names) and now.task == kind
    for (name, some), (other, same) in zip(before.items(), now.items(), strict=True):
        assert name == other and rows(some) == rows(same)
    if before.task == "segmentation":
        by_key = {
            s.key: split.legend.read(m)
            for split in (before.train,)
            for s, m in zip(split.sources, split.masks, strict=True)
        }
        for source, mask in zip(now.train.sources, now.train.masks, strict=True):
            np.testing.assert_array_equal(now.train.legend.read(mask), by_key[source.key])
    assert packed.shards > 1 and sum(packed.images.values()) == sum(len(split.sources) for _, split in now.items())


def test_evaluation_sees_the_same_pixels(photos, tmp_path):
    kc.pack(photos, tmp_path / "packed", shard_bytes=SHARD)
    some, same = (data.load_data(place, SMALL).arrays("val") for place in (photos, tmp_path / "packed"))
    np.testing.assert_array_equal(some.images, same.images)
    np.testing.assert_array_equal(some.labels, same.labels)


def test_training_images_lie_mixed_and_are_given_as_they_lie(tmp_path):
    kc.pack(folder(tmp_path / "photos", {"a": 40, "b": 40}), tmp_path / "packed", shard_bytes=4 * SHARD)
    split = index(tmp_path / "packed", val_split=0.25).train
    assert 10 < split.labels[:30].sum() < 20  # of 30, 15 are expected; all alike were they sorted
    places = [source.place for source in split.sources]
    assert places == sorted(places)
    val = index(tmp_path / "packed", val_split=0.25).val
    assert len({Path(source.name).parts[-3] for source in val.sources}) > 2  # shards


def test_a_run_learns_from_packed_data_and_knows_it_again(tmp_path, run):
    photos = folder(tmp_path / "photos", {"a": 6, "b": 6})
    code, out, _ = run("pack", photos, tmp_path / "packed", "--json")
    assert code == 0 and json.loads(out)["images"] == {"train": 12}
    told = ("--model", "resnet20", "--size", "16", "--epochs", "1", "--head-epochs", "0", "--out", tmp_path / "run")
    code, _, err = run("fine-tune", tmp_path / "packed", *told)
    assert code == 0, err
    code, out, _ = run("evaluate", tmp_path / "packed", "--model", tmp_path / "run", "--json")
    assert code == 0 and json.loads(out)
    from keras_cnn.data.training_set import training_set

    first = training_set(data.load_data(tmp_path / "packed", SMALL)).fingerprint
    kc.pack(folder(tmp_path / "more", {"a": 6, "b": 6}, size=(13, 13)), tmp_path / "packed", overwrite=True)
    assert training_set(data.load_data(tmp_path / "packed", SMALL)).fingerprint != first


# --- what is written -------------------------------------------------------------------------------------------------


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "segmentation"])
def test_records_are_as_webdataset_reads_them(kind, tmp_path):
    """Files of a record share their name up to the first dot, and follow each other."""
    kc.pack(made(kind, tmp_path / "data"), tmp_path / "packed")
    found = members(tmp_path / "packed" / "train-000000.tar")
    names = list(found)
    ending = {"classification": "cls", "segmentation": "seg.png"}.get(kind, "json")
    assert {name.partition(".")[2] for name in names} == {"png", ending}
    assert [name.partition(".")[0] for name in names[::2]] == [name.partition(".")[0] for name in names[1::2]]
    label = found[names[1]]
    if kind == "classification":
        assert int(label) in (0, 1)
    elif kind == "segmentation":
        assert set(np.unique(Image.open(io.BytesIO(label)))) <= {0, 1, 2, 255}
    else:
        assert set(json.loads(label)) == ({"labels"} if kind == "multilabel" else {"age", "height"})


def test_larger_images_are_shrunk_to_their_short_side_and_others_kept(tmp_path):
    root = folder(tmp_path / "photos", {"a": 1, "b": 2})
    turned = Image.fromarray(noise(120, 80))
    exif = turned.getexif()
    exif[0x0112] = 6
    originals = {
        "photo.jpg": encode(Image.fromarray(noise(400, 300)), "JPEG"),
        "turned.jpg": encode(turned, "JPEG", exif=exif),
        "small.jpg": encode(Image.fromarray(noise(30, 40)), "JPEG"),
        "cmyk.jpg": encode(Image.fromarray(noise(90, 60)).convert("CMYK"), "JPEG"),
        "palette.png": encode(Image.fromarray(noise(90, 60)).convert("P")),
        "clear.png": encode(Image.fromarray(noise(90, 60, 4))),
        "deep.png": encode(Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(90, 60))),
    }
    for name, blob in originals.items():
        (root / "a" / name).write_bytes(blob)
    kc.pack(root, tmp_path / "packed", size=40)
    found = {source.key: source.read() for source in index(tmp_path / "packed", val_split=0).train.sources}
    sizes = {name: Image.open(io.BytesIO(found[f"a/{name}"])).size for name in originals}
    assert sizes["photo.jpg"] == (40, 53) and sizes["turned.jpg"] == (60, 40)  # upright, without a turn to make
    assert found["a/small.jpg"] == originals["small.jpg"] and found["a/deep.png"] == originals["deep.png"]
    assert sizes["cmyk.jpg"] == sizes["palette.png"] == sizes["clear.png"] == (40, 60)
    for name in ("cmyk.jpg", "palette.png"):  # still what they showed
        shown, before = (kc.load_image(b, Preprocess(size=(10, 10))) for b in (found[f"a/{name}"], originals[name]))
        assert np.abs(shown.astype(int) - before).mean() < 8


def test_masks_are_shrunk_with_their_images(tmp_path):
    root = write_masks(tmp_path / "masks")
    kc.pack(root, tmp_path / "packed", size=12)
    split = index(tmp_path / "packed", val_split=0).train
    for source, mask in zip(split.sources, split.masks, strict=True):
        image = Image.open(io.BytesIO(source.read()))
        assert image.size == (15, 12)
        drawn = split.legend.read(mask, (12, 15))
        assert set(np.unique(drawn)) <= {0, 1, 2, 255}


# --- stopped, refused, replaced --------------------------------------------------------------------------------------


def test_what_is_there_is_refused_or_replaced(photos, tmp_path):
    kc.pack(photos, tmp_path / "packed")
    with pytest.raises(RunExists, match="overwrite"):
        kc.pack(photos, tmp_path / "packed")
    kc.pack(photos, tmp_path / "packed", size=8, overwrite=True)
    assert json.loads((tmp_path / "packed" / "index.json").read_text())["size"] == 8
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):  # other people's files never go
        with pytest.raises(RunExists, match=r"notes\.txt"):
            kc.pack(photos, tmp_path / "mine", overwrite=overwrite)
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_a_bad_image_stops_it_and_the_same_call_goes_on(photos, tmp_path):
    whole = kc.pack(photos, tmp_path / "whole", shard_bytes=SHARD)
    last = index(tmp_path / "whole").train.sources[-1].key
    good = (photos / last).read_bytes()
    (photos / last).write_bytes(good[:100])
    with pytest.raises(BadImage, match=Path(last).name):
        kc.pack(photos, tmp_path / "packed", shard_bytes=SHARD)
    assert not (tmp_path / "packed" / "index.json").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "packed").glob("*.tar")}
    assert done
    with pytest.raises(RunExists, match="size was None and is 9"):
        kc.pack(photos, tmp_path / "packed", shard_bytes=SHARD, size=9)
    with pytest.raises(BadData):  # half of it is no data set
        index(tmp_path / "packed")
    (photos / last).write_bytes(good)
    assert kc.pack(photos, tmp_path / "packed", shard_bytes=SHARD).images == whole.images
    for name, time in done.items():
        assert (tmp_path / "packed" / name).stat().st_mtime_ns == time
    assert (tmp_path / "packed" / "index.json").read_bytes() == (tmp_path / "whole" / "index.json").read_bytes()


def test_unreadable_images_are_left_out_when_asked_and_counted(photos, tmp_path, run):
    for name in ("train/a/000.png", "val/b/001.png"):
        (photos / name).write_bytes(b"nothing")
    code, _, err = run("pack", photos, tmp_path / "packed")
    assert code == 2 and "--skip-bad" in err and not (tmp_path / "packed" / "index.json").exists()
    code, out, err = run("pack", photos, tmp_path / "packed", "--skip-bad")
    assert code == 0 and "unreadable images left out: 2" in out, err
    loaded = data.load_data(tmp_path / "packed", SMALL)
    assert loaded.sizes == {"train": 12, "val": 4} and "2 unreadable ones were left out" in loaded.summary


def test_killed_it_goes_on_to_the_same_bytes(photos, tmp_path):
    kc.pack(photos, tmp_path / "whole", shard_bytes=SHARD)
    code = (
        "import os, sys, keras_cnn as kc; from keras_cnn import files\n"
        "write, done = files.write_text, []\n"
        "def stop(path, text):\n"
        "    write(path, text); done.append(path)\n"
        "    if len(done) == 3: os.kill(os.getpid(), 9)\n"
        "files.write_text = stop\n"
        f"kc.pack(sys.argv[1], sys.argv[2], shard_bytes={SHARD})"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(photos), str(tmp_path / "packed")], capture_output=True)
    assert killed.returncode == -9 and not (tmp_path / "packed" / "index.json").exists()
    kc.pack(photos, tmp_path / "packed", shard_bytes=SHARD)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "packed" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "packed").iterdir())) == len(list((tmp_path / "whole").iterdir()))


def test_a_full_disk_is_told_and_what_is_done_is_kept(tmp_path, small_disk):
    photos = folder(tmp_path / "photos", {"a": 40, "b": 40}, size=(20, 20))  # 100 KB in all
    with pytest.raises(CannotWrite, match=r"full; [1-9]\d* shards are done"):
        kc.pack(photos, small_disk / "packed", shard_bytes=2 * SHARD)
    assert not (small_disk / "packed" / "index.json").exists()


@pytest.mark.parametrize("wrong", [{"size": 0}, {"shard_bytes": 0}, {"task": "sorting"}])
def test_values_that_make_no_sense_are_refused(photos, tmp_path, wrong):
    with pytest.raises(BadSpec):
        kc.pack(photos, tmp_path / "packed", **wrong)
    assert not (tmp_path / "packed").exists()


# --- damage ----------------------------------------------------------------------------------------------------------


def test_damaged_shards_are_named_and_counted(photos, tmp_path):
    packed = tmp_path / "packed"
    made = kc.pack(photos, packed, shard_bytes=SHARD)
    shards = sorted(packed.glob("train-*.tar"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:3000])
    with pytest.raises(BadData, match=rf"2 of {made.shards} shards .*000000.tar \(missing\).*000001.tar \(3,000 of"):
        data.load_data(packed, SMALL)
    loaded = data.load_data(packed, SMALL, skip_bad=True)
    assert "images are left out" in loaded.summary and loaded.sizes["train"] < made.images["train"]


def test_a_changed_byte_is_never_read_silently(photos, tmp_path):
    kc.pack(photos, tmp_path / "packed")
    source = index(tmp_path / "packed").train.sources[0]
    path, start, size, _ = source.open.args
    with open(path, "r+b") as file:
        file.seek(start + size - 20)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(BadImage, match=f"{source.key}.*changed"):
        data.load_data(tmp_path / "packed", SMALL)
    assert len(data.load_data(tmp_path / "packed", SMALL, skip_bad=True).skipped) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"offsets": [512', '"offsets": [513', 1),
        lambda text: text.replace('"version": 1', '"version": 9'),
        lambda text: text.replace('"a"', '"c"', 1),
        lambda text: '{"format": "keras_cnn.packed"}',
        lambda text: '{"format": "keras_cnn.packed", "sha256": [], "version": 1}',
    ],
)
def test_a_damaged_index_is_refused(photos, tmp_path, damage):
    kc.pack(photos, tmp_path / "packed")
    path = tmp_path / "packed" / "index.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadData, match=r"index.json.*pack the data again"):
        index(tmp_path / "packed")


def forged(packed: Path, change) -> None:
    """An index that somebody changed together with its checksum."""
    from keras_cnn import files

    told = json.loads((packed / "index.json").read_text())
    del told["sha256"]
    change(told)
    text = json.dumps({"format": told["format"], "sha256": files.checksum(told)} | told)
    (packed / "index.json").write_text(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys", [1]),
        ("offsets", None),
        ("labels", {}),
        ("labels", [float("nan")] * 13),
        ("labels", [-1] + [0] * 12),
        ("labels", [0.5] + [0] * 12),
        ("labels", [0] * 12),
        ("masks", [[1, 2]]),
        ("bytes", []),
        ("lengths", [""] * 13),
        ("offsets", [0.5] * 13),
        ("checks", [None] * 13),
    ],
)
def test_a_forged_index_is_told_in_a_sentence(photos, tmp_path, field, value):
    kc.pack(photos, tmp_path / "packed")
    forged(tmp_path / "packed", lambda told: told["splits"]["train"][0].update({field: value}))
    with pytest.raises(BadData, match=r"index.json (is not as `pack` writes it|.*damaged).*pack the data again"):
        index(tmp_path / "packed")


@pytest.mark.parametrize("wrong", [{"task": "a/b"}, {"chiral": None}, {"notes": "none"}, {"class_names": ["a", ""]}])
def test_facts_of_a_forged_index_are_told_with_its_place(photos, tmp_path, wrong):
    kc.pack(photos, tmp_path / "packed")
    forged(tmp_path / "packed", lambda told: told.update(wrong))
    with pytest.raises(BadData, match=rf"packed/index.json is not as `pack` writes it: {next(iter(wrong))}"):
        index(tmp_path / "packed")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("multilabel", [-1]), ("multilabel", None), ("regression", [None, 1]), ("regression", [1e300, 1])],
)
def test_labels_of_a_forged_index_that_pack_never_writes_are_refused(kind, wrong, tmp_path):
    """A None became every class, and NaN; -1 the last class."""
    kc.pack(made(kind, tmp_path / "data"), tmp_path / "packed")
    forged(tmp_path / "packed", lambda told: told["splits"]["train"][0]["labels"].__setitem__(0, wrong))
    with pytest.raises(BadData, match=r"index.json is not as `pack` writes it"):
        index(tmp_path / "packed")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: text[40:],
        lambda text: text.replace("keras", "kera5", 1),
        lambda text: text.replace("{", "\0", 1),
    ],
)
def test_packed_data_whose_index_begins_otherwise_are_not_taken_for_those_of_others(photos, tmp_path, damage):
    """They would be divided otherwise, and not be held to their checksums."""
    kc.pack(photos, tmp_path / "packed")
    path = tmp_path / "packed" / "index.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadData, match=r"index.json is .*pack the data again"):
        index(tmp_path / "packed")


def test_an_index_of_others_beside_their_shards_is_theirs(tmp_path):
    tar(tmp_path / "a" / "train-000000.tar", shard(0, lambda i: {"cls": b"%d" % (i % 2)}))
    (tmp_path / "a" / "index.json").write_text('{"wids_version": 1, "shardlist": []}')
    assert index(tmp_path / "a").class_names == ("0", "1")


def test_records_without_an_image_are_listed(tmp_path):
    content = shard(0, lambda i: {"cls": b"%d" % (i % 2)}) | {"lone.cls": b"1"}
    assert index(tar(tmp_path / "t.tar", content)).ignored == (f"{tmp_path}/t.tar/lone",)


def test_a_forged_size_takes_no_memory(photos, tmp_path):
    kc.pack(photos, tmp_path / "packed")
    forged(tmp_path / "packed", lambda told: told["splits"]["train"][0]["lengths"].__setitem__(0, 10**15))
    with pytest.raises(BadImage, match=r"1,000,000,000,000,000 bytes are too many for an image, which may have"):
        data.load_data(tmp_path / "packed", SMALL)


def test_an_index_leads_to_no_other_folder(photos, tmp_path):
    kc.pack(photos, tmp_path / "packed")
    forged(tmp_path / "packed", lambda told: told["splits"]["train"][0].update(file="../secret.tar"))
    with pytest.raises(BadData, match="not to be trusted"):
        index(tmp_path / "packed")


# --- shards of others ------------------------------------------------------------------------------------------------


def tar(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, blob in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return path


def jpeg(seed: int) -> bytes:
    return encode(noise(seed=seed), "JPEG")


def shard(start: int, label) -> dict[str, bytes]:
    """Eight records; label: of the number of one, its files beside the image."""
    return {
        name: blob
        for i in range(start, start + 8)
        for name, blob in {f"n/{i:05}.jpg": jpeg(i), **{f"n/{i:05}.{k}": v for k, v in label(i).items()}}.items()
    }


def test_shards_of_webdataset_are_read_where_they_lie(tmp_path):
    for split, start in (("train", 0), ("train", 8), ("val", 16)):
        tar(tmp_path / f"set-{split}-{start:06}.tar", shard(start, lambda i: {"cls": b"%d" % (i % 3)}))
    (tmp_path / "classes.txt").write_text("cat\ndog\nfox\n")
    found = index(tmp_path)
    assert found.class_names == ("cat", "dog", "fox")
    assert {name: len(split.sources) for name, split in found.items()} == {"train": 16, "val": 8}
    assert found.train.labels.tolist() == [i % 3 for i in range(16)]
    assert [source.read() for source in found.val.sources] == [jpeg(i) for i in range(16, 24)]
    assert data.load_data(tmp_path, SMALL).sizes == {"train": 16, "val": 8}


def test_a_single_tar_and_labels_in_json_text_and_masks(tmp_path):
    words = index(tar(tmp_path / "words.tar", shard(0, lambda i: {"txt": b"ab"[i % 2 :][:1]})))
    assert words.class_names == ("a", "b")
    several = index(
        tar(
            tmp_path / "s.tar",
            shard(0, lambda i: {"json": json.dumps({"labels": ["x", "y"][: 1 + i % 2] if i else ["y"]}).encode()}),
        )
    )
    assert several.task == "multilabel" and several.class_names == ("x", "y")
    numbers = index(
        tar(tmp_path / "n.tar", shard(0, lambda i: {"json": json.dumps({"age": i / 7, "size": -i}).encode()}))
    )
    assert numbers.task == "regression" and numbers.class_names == ("age", "size")
    ages = index(data.Table(tmp_path / "n.tar", labels="age"))
    assert ages.class_names == ("age",)
    mask = encode(np.arange(192, dtype=np.uint8).reshape(12, 16, 1) % 2)
    masks = index(tar(tmp_path / "m.tar", shard(0, lambda i: {"seg.png": mask})))
    assert masks.task == "segmentation" and masks.class_names == ("0", "1")


def test_corrupt_and_empty_shards_are_named_and_counted(tmp_path):
    whole = tar(tmp_path / "train-0.tar", shard(0, lambda i: {"cls": b"%d" % (i % 2)}))
    tar(tmp_path / "train-1.tar", {})
    (tmp_path / "train-2.tar").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "train-3.tar").write_bytes(b"")
    (tmp_path / "train-4.tar").write_bytes(b"no tar" * 999)
    tar(tmp_path / "train-5.tar", {"a.jpg": jpeg(0), "a.cls": b"cat"})
    tar(tmp_path / "train-6.tar", {"readme.md": b"hello"})
    with pytest.raises(
        BadData, match=r"6 shards are damaged or empty.*train-1.*train-2.*train-3.*train-4.*train-5.*train-6"
    ):
        index(tmp_path)
    loaded = data.load_data(tmp_path, SMALL, skip_bad=True)
    assert sum(loaded.sizes.values()) == 8 and "6 shards are damaged or empty" in loaded.summary
    whole.unlink()
    with pytest.raises(BadData, match="6 shards"):
        index(tmp_path, skip_bad=True)


# --- headers that lie ------------------------------------------------------------------------------------------------


def lying(path: Path, at: int, place: int, content: bytes) -> Path:
    """A tar with bytes of the header at a place exchanged, and the header's checksum mended."""
    whole = bytearray(path.read_bytes())
    header = whole[at : at + 512]
    header[place : place + len(content)] = content
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole[at : at + 512] = header
    path.write_bytes(whole)
    return path


SIZE, KIND = 124, 156  # places in a header


@pytest.mark.parametrize(
    ("place", "content", "says"),
    [
        (SIZE, b"77777777777\0", "unexpected end of data"),  # 8 GiB
        (SIZE, b"\x80" + bytes(5) + b"\1" + bytes(5), "unexpected end of data"),  # a TiB
        (SIZE, b"\x80" + b"\xff" * 11, "damaged, "),
        (SIZE, b"\xff" * 10 + b"\xfe\0", "claims -512 bytes"),  # the same header again, for ever
        (KIND, b"S", "is sparse"),
    ],
)
def test_headers_of_shards_are_not_believed(tmp_path, place, content, says):
    path = lying(tar(tmp_path / "t.tar", shard(0, lambda i: {"cls": b"%d" % (i % 2)})), 0, place, content)
    with pytest.raises(BadData, match=rf"1 shards are damaged or empty: .*t\.tar \(.*({says})"):
        index(path)


@pytest.mark.parametrize("kind", ["x", "g", "L"])
@pytest.mark.parametrize("size", [b"77777777777\0", b"\xff" * 10 + b"\xfe\0"])
def test_facts_beside_headers_are_bounded(tmp_path, kind, size):
    """tarfile reads as many bytes as they claim, at once; all of the file where these are less than none."""
    path = tar(tmp_path / "t.tar", {"long": b"20 comment=123456789\n", **shard(0, lambda i: {"cls": b"1"})})
    lying(lying(path, 0, KIND, kind.encode()), 0, SIZE, size)
    with pytest.raises(BadData, match=r"a header claims -?[\d,]+ bytes"):
        index(path)


def test_headers_within_headers_without_end(tmp_path):
    header = tarfile.TarInfo("long")
    header.type = tarfile.GNUTYPE_LONGNAME
    path = tmp_path / "t.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 2000)
    with pytest.raises(BadData, match="damaged, RecursionError"):
        index(path)


def test_images_of_shards_are_read_up_to_a_bound(tmp_path):
    """As those of folders and zips: a hole in the file stands for any size."""
    path = tar(tmp_path / "t.tar", shard(0, lambda i: {"cls": b"%d" % (i % 2)}))
    with tarfile.open(path) as archive:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in archive)
    header = tarfile.TarInfo("n/huge.jpg")
    header.size = 3 << 30
    label = tarfile.TarInfo("n/huge.cls")
    label.size = 1
    with open(path, "r+b") as file:
        file.seek(end)
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.seek(3 << 30, 1)
        file.write(label.tobuf(tarfile.GNU_FORMAT) + b"1".ljust(512, b"\0") + bytes(1024))
    with pytest.raises(BadImage, match=r"huge\.jpg: .*3,221,225,472 bytes are too many for an image"):
        data.load_data(path, SMALL, val_split=0)
    assert len(data.load_data(path, SMALL, val_split=0, skip_bad=True).skipped) == 1


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({"cls": b"10000000000"}, "is no cls"),
        ({"cls": b"-1"}, "is no cls"),
        ({"txt": b"x" * (1 << 20) + b"x"}, "has 1,048,577 bytes, too many for a label"),
        ({"json": b"[" * 100_000}, "is no json"),
    ],
)
def test_labels_of_shards_are_held_to_what_they_may_be(tmp_path, label, says):
    with pytest.raises(BadData, match=says):
        index(tar(tmp_path / "t.tar", shard(0, lambda i: label)))


def test_a_file_that_comes_twice_and_names_that_are_no_text(tmp_path):
    files = {"a.jpg": jpeg(0), "a.cls": b"0", "b.jpg": jpeg(1), "b.cls": b"1", "c.jpg": jpeg(2), "c.cls": b"1"}
    path = tar(tmp_path / "t.tar", files)
    first = path.read_bytes()
    path.write_bytes(first[: 512 + 512 * -(-len(files["a.jpg"]) // 512)] + first)
    with pytest.raises(BadData, match=r"'a\.jpg' is in it twice"):
        index(path)
    path.write_bytes(first)
    lying(path, 0, 0, b"\xe9.jpg")
    lying(path, 512 + 512 * -(-len(files["a.jpg"]) // 512), 0, b"\xe9.cls")
    assert any(source.name.endswith(r"\xe9.jpg") for source in index(path, val_split=0).train.sources)


def test_names_of_classes_that_are_not_utf8(tmp_path):
    tar(tmp_path / "t.tar", shard(0, lambda i: {"cls": b"%d" % (i % 2)}))
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\nbar\n")
    with pytest.raises(BadData, match=r"classes\.txt: not UTF-8"):
        index(tmp_path)
