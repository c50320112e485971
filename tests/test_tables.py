"""Tables of images, and what their columns of labels mean; arrays, TFDS and the Hub's layouts."""

from __future__ import annotations

import csv
import json
import sys
import types

import numpy as np
import pytest
from images import encode, folder, noise, zipped

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.data import tables
from keras_cnn.errors import BadData, BadSpec, DataWarning, MissingPackage, UnknownOption
from keras_cnn.models.config import Preprocess

pytestmark = pytest.mark.no_keras
SMALL = Preprocess(size=(8, 8), crop=1.0)
COUNT = 12


@pytest.fixture
def photos(tmp_path):
    """Twelve photos, 00.png to 11.png, and nothing else."""
    for i in range(COUNT):
        (tmp_path / f"{i:02}.png").write_bytes(encode(noise(10, 12, seed=i)))
    return tmp_path


def write(path, columns, delimiter=","):
    """A table of columns, those of files by default; returns its path."""
    columns = {"file": [f"{i:02}.png" for i in range(COUNT)], **columns}
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def by_name(loaded):
    """{the image's file: its label} over all splits, and its pixels are those of the file."""
    found = {}
    for split in loaded.sizes:
        for name, image, label in loaded.each(split):
            number = int(name.rsplit("/")[-1].removesuffix(".png"))
            np.testing.assert_array_equal(image, data.load_image(encode(noise(10, 12, seed=number)), SMALL))
            found[number] = label
    return [found[i] for i in sorted(found)]


NAMES = ["cat", "dog", "elk"] * 4
AGES = [20 + 1.5 * i for i in range(COUNT)]
TAGS = ["sun|sea", "sea", "sun", "", "sun|sea", "hut"] * 2
ONES = [i % 2 for i in range(COUNT)]
THIRDS = [int(i % 3 == 0) for i in range(COUNT)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_is_read_up_to_a_bound_in_a_zip_too(photos, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tables, "LARGEST", 1 << 20)
    (photos / f"metadata.{kind}").write_bytes(b" " * ((1 << 20) + 1))
    for place in (photos, zipped(photos, tmp_path.parent / f"{tmp_path.name}.zip")):
        with pytest.raises(BadData, match=rf"metadata\.{kind}.*the file has more than 1 MiB, too many for a table"):
            kc.load_data(place, SMALL)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "semicolon"])
def test_a_column_of_names_is_classes_in_every_format(photos, suffix):
    if suffix == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = photos / "t.parquet"
        files = [f"{i:02}.png" for i in range(COUNT)]
        parquet.write_table(arrow.table({"file": files, "kind": NAMES}), path)
    else:
        path = photos / ("t.tsv" if suffix == "tsv" else "t.csv")
        write(path, {"kind": NAMES}, {"tsv": "\t", "semicolon": ";"}.get(suffix, ","))
    loaded = data.load_data(path, SMALL)
    assert (loaded.task, loaded.class_names) == ("classification", ("cat", "dog", "elk"))
    assert loaded.sizes == {"train": 9, "val": 3} and loaded.arrays("train").labels.dtype == np.int32
    assert by_name(loaded) == [0, 1, 2] * 4
    assert "images by 'file', labels by 'kind'" in loaded.summary and "3 classes (cat 3" in loaded.summary


def test_numbers_are_predicted(photos):
    loaded = data.load_data(write(photos / "t.csv", {"age": AGES}), SMALL)
    assert (loaded.task, loaded.class_names, loaded.counts) == ("regression", ("age",), {})
    labels = loaded.arrays("train").labels
    assert labels.dtype == np.float32 and labels.shape == (10, 1)
    np.testing.assert_allclose(np.concatenate(by_name(loaded)), AGES)
    assert "to predict age; images by 'file'" in loaded.summary
    both = data.load_data(write(photos / "t.csv", {"age": AGES, "id": range(COUNT), "height": ONES}), SMALL)
    assert both.class_names == ("age", "height") and both.arrays("val").labels.shape == (2, 2)


def test_few_whole_numbers_are_classes_unless_somebody_says_otherwise(photos):
    path = write(photos / "t.csv", {"stars": ["0", "1", "2"] * 4})
    loaded = data.load_data(path, SMALL)
    assert (loaded.task, loaded.class_names) == ("classification", ("0", "1", "2"))
    assert "the numbers of 'stars' are taken for classes; task='regression' predicts them" in loaded.summary
    forced = data.load_data(path, SMALL, task="regression")
    assert (forced.task, forced.class_names) == ("regression", ("stars",))
    for gaps in (["0", "2", "4"], ["1", "2", "3"], ["0", "1", "1.5"]):
        assert data.load_data(write(path, {"stars": gaps * 4}), SMALL).task == "regression"
    classes = data.load_data(write(path, {"stars": ["10", "9", "100"] * 4}), SMALL, task="classification")
    assert classes.class_names == ("9", "10", "100")
    assert data.load_data(write(path, {"code": ["001", "002", "003"] * 4}), SMALL).task == "classification"


@pytest.mark.parametrize("separator", ["|", ";", ", "])
def test_names_between_separators_are_many_labels(photos, separator):
    path = write(photos / "t.csv", {"tags": [text.replace("|", separator) for text in TAGS]})
    loaded = data.load_data(path, SMALL)
    assert (loaded.task, loaded.class_names) == ("multilabel", ("hut", "sea", "sun"))
    expected = [[int(name in text.split("|")) for name in loaded.class_names] for text in TAGS]
    assert np.array_equal(by_name(loaded), expected) and loaded.arrays("train").labels.dtype == np.uint8
    totals = {name: sum(counts[name] for counts in loaded.counts.values()) for name in loaded.class_names}
    assert totals == {"hut": 2, "sea": 6, "sun": 6}
    assert "of any of 3 classes" in loaded.summary and f"names between {separator.strip()!r}" in loaded.summary


def test_a_separator_is_not_guessed_where_it_only_belongs_to_names(photos):
    path = write(photos / "t.csv", {"kind": ["shark, white", "setter, Irish", "bow"] * 4})
    loaded = data.load_data(path, SMALL)
    assert (loaded.task, len(loaded.class_names)) == ("classification", 3)
    spaced = write(photos / "t.csv", {"kind": ["sun sea", "sea", "sun"] * 4})
    assert data.load_data(spaced, SMALL).task == "classification"
    given = data.load_data(kc.Table(spaced, separator=" "), SMALL)
    assert (given.task, given.class_names) == ("multilabel", ("sea", "sun"))


def test_columns_of_0_and_1(photos):
    path = write(photos / "t.csv", {"sun": ONES, "sea": THIRDS})
    many = data.load_data(path, SMALL)
    assert (many.task, many.class_names) == ("multilabel", ("sun", "sea"))
    assert np.array_equal(by_name(many), np.stack([ONES, THIRDS], 1))
    assert data.load_data(path, SMALL, task="regression").task == "regression"
    hot = write(photos / "t.csv", {"day": ONES, "night": [1 - one for one in ONES]})
    one = data.load_data(hot, SMALL)
    assert (one.task, by_name(one)) == ("classification", [1 - label for label in ONES])
    assert "each row has one 1" in one.summary
    assert data.load_data(hot, SMALL, task="multilabel").task == "multilabel"


def test_the_networks_head_says_what_is_meant(photos):
    path = write(photos / "t.csv", {"count": ["0", "1", "2"] * 4})
    usual = kc.build("resnet20", input_shape=(8, 8, 3))
    assert data.load_data(path, usual).task == "classification"
    numbers = kc.build("resnet20", input_shape=(8, 8, 3), task="regression", targets=("count",))
    assert data.load_data(path, numbers).task == "regression"
    images = np.stack([noise(8, 8, seed=i) for i in range(COUNT)])
    assert data.load_data((images, np.arange(COUNT) % 3), numbers).task == "regression"


def test_columns_roots_and_splits_by_name(photos, tmp_path):
    words = ["train"] * 8 + ["validation", "dev", "test", "Testing"]
    columns = {"name": [f"{i:02}.png" for i in range(COUNT)], "a": AGES, "b": ONES, "note": NAMES, "part": words}
    path = write(tmp_path / "deep.csv", columns)
    away = tmp_path / "tables"
    away.mkdir()
    path = path.rename(away / "deep.csv")
    for root in (photos, zipped(photos, tmp_path.with_suffix(".zip"))):
        table = kc.Table(path, image="name", labels=["a", "b"], root=root, split="part")
        loaded = data.load_data(table, SMALL)
        assert loaded.class_names == ("a", "b") and loaded.sizes == {"train": 8, "val": 2, "test": 2}
        np.testing.assert_allclose(by_name(loaded), np.stack([AGES, ONES], 1))
    usual = write(photos / "t.csv", {"label": NAMES, "other": AGES, "split": words})
    assert data.load_data(usual, SMALL).sizes == {"train": 8, "val": 2, "test": 2}
    with pytest.raises(BadSpec, match="no column 'aeg'; it has 'file', 'name', 'a'"):
        data.load_data(kc.Table(path, image="name", labels="aeg"), SMALL)
    unclear = write(photos / "t.csv", {"colour": NAMES, "age": AGES})
    with pytest.raises(BadSpec, match="which column has the labels is not clear"):
        data.load_data(unclear, SMALL)
    assert data.load_data(unclear, SMALL, task="regression").class_names == ("age",)


def test_the_split_follows_from_names_and_shows_every_class_on_both_sides(photos):
    rare = [""] * COUNT
    rare[3], rare[7] = "hut", "hut|sea"
    tags = [f"{one}|{two}" if one else two for one, two in zip(rare, ["sun|sea", "sun", "sea"] * 4, strict=True)]
    path = write(photos / "t.csv", {"tags": tags})
    for seed in range(5):
        loaded = data.load_data(path, SMALL, seed=seed)
        assert loaded.sizes == {"train": 10, "val": 2}
        assert all(counts["hut"] == 1 for counts in loaded.counts.values())
    lines = path.read_text().splitlines()
    names = [source.key for source in loaded.splits.val.sources]
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert [source.key for source in data.load_data(path, SMALL, seed=4).splits.val.sources] == names


# --- what is wrong with a table --------------------------------------------------------------------------------------


def changed(values, i, value):
    return [*values[:i], value, *values[i + 1 :]]


FILES = [f"{i:02}.png" for i in range(COUNT)]
WRONG = {
    "missing files": ({"file": [f"no{i}.png" for i in range(COUNT)], "a": AGES}, None, "12 of 12 files .* and 2 more"),
    "text": ({"age": changed(AGES, 4, "n/a")}, None, r"t\.csv, row 6: 'age' is 'n/a' where a number is needed"),
    "empty number": ({"age": changed(AGES, 4, "")}, None, "row 6: 'age' is empty where a number"),
    "NaN": ({"age": changed(AGES, 0, "nan")}, None, "row 2: 'age' is 'nan' where a number"),
    "names for numbers": ({"kind": NAMES}, "regression", "row 2: 'kind' is 'cat' where a number"),
    "constant": ({"age": [3.5] * COUNT}, None, "'age' is 3.5 for every training image"),
    "no positives": ({"a": ONES, "b": [0] * COUNT}, None, "no training image shows 'b'"),
    "no negatives": ({"a": ONES, "b": [1] * COUNT}, None, "every training image shows 'b'"),
    "one class": ({"kind": ["cat"] * COUNT}, None, r"only one class \('cat'\) found"),
    "no class": ({"kind": changed(NAMES, 2, "")}, None, "row 4: 'kind' is empty: give the image a class"),
    "twice": (
        {"file": changed(FILES, 5, "00.png"), "a": AGES},
        None,
        r"row 7: '00.png' is .* another row, too \(row 2\)",
    ),
    "no file": ({"file": changed(FILES, 5, ""), "a": AGES}, None, "row 7: 'file' is empty"),
    "odd split": ({"kind": NAMES, "split": ["train"] * 11 + ["trian"]}, None, "row 13: 'split' is 'trian': give train"),
    "no train": ({"kind": NAMES, "split": ["val"] * COUNT}, None, "has val but no train"),
    "not masks": ({"age": AGES}, "segmentation", "'age' holds numbers, which can be regression"),
    "text for masks": ({"kind": NAMES}, "segmentation", "'kind' holds names, which can be classification"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_learnt_is_named_with_its_row(photos, case):
    columns, task, sentence = WRONG[case]
    path = write(photos / "t.csv", columns)
    with pytest.raises(BadData, match=sentence) as caught:
        data.load_data(path, SMALL, task=task)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the table is empty"),
        ("file,a\n", "there are no rows"),
        ("file,a\n00.png,1\n\n01.png,2\n,\n", "row 5: the row is empty"),
        ("file,a\n00.png,1,2\n", "row 2: there are 3 cells for 2 columns"),
        ("a,a\n1,2\n", "two columns are called 'a'"),
        ("a,b\n1,2\n", "no column has paths of images"),
    ],
)
def test_tables_that_are_none(photos, text, sentence):
    (photos / "t.csv").write_text(text)
    with pytest.raises((BadData, BadSpec), match=sentence):
        data.load_data(photos / "t.csv", SMALL)


def test_other_files_and_bytes_are_no_tables(photos):
    (photos / "t.csv").write_bytes(b"file,a\n\xff\xfe,1\n")
    with pytest.raises(BadData, match="not UTF-8"):
        data.load_data(photos / "t.csv", SMALL)
    with pytest.raises(BadData, match=r"gone\.csv: no such file"):
        data.load_data(photos / "gone.csv", SMALL)
    with pytest.raises(UnknownOption, match="task='binary' is no value here: write 'classification'"):
        data.load_data(photos / "t.csv", SMALL, task="binary")
    with pytest.raises(BadSpec, match="task='depth': choose one of 'classification'"):
        data.load_data(photos / "t.csv", SMALL, task="depth")
    with pytest.raises(BadData, match="each image is in one class, which can be classification"):
        data.load_data(folder(photos / "set", {"a": 2, "b": 2}), SMALL, task="regression")


def test_classes_without_positives_in_val_are_told_of(photos):
    words = ["train"] * 10 + ["val"] * 2
    path = write(photos / "t.csv", {"sun": ONES, "sea": [*THIRDS[:10], 0, 0], "split": words})
    with pytest.warns(DataWarning, match="no validation image shows 'sea'"):
        data.load_data(path, SMALL)


# --- batches, subsets, sides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_batches_have_the_rows_of_their_images(photos, task, cache_bytes):
    pytest.importorskip("tensorflow")
    columns = {"a": AGES, "b": THIRDS} if task == "regression" else {"a": ONES, "b": THIRDS}
    options = {"batch_size": 4, "cache_bytes": cache_bytes}
    loaded = data.load_data(write(photos / "t.csv", columns), SMALL, **options)
    expected = dict(zip([image.tobytes() for image in loaded.arrays().images], loaded.arrays().labels, strict=True))
    for batches in (loaded.train, loaded.plain):
        pairs = [(x.numpy(), y.numpy()) for x, y in batches]
        assert sum(len(x) for x, _ in pairs) == 10 and pairs[0][1].dtype == loaded.arrays().labels.dtype
        for images, labels in pairs:
            np.testing.assert_array_equal(labels, [expected[image.tobytes()] for image in images])
    heavy = data.load_data(photos / "t.csv", SMALL, augment="heavy", **options)
    labels = np.concatenate([y.numpy() for _, y in heavy.train])
    assert labels.dtype == np.float32
    if task == "regression":  # as they were, in another order
        assert {tuple(row) for row in labels} == {tuple(row) for row in loaded.arrays().labels}
    else:
        assert ((labels >= 0) & (labels <= 1)).all()
    few = loaded.subset(2)
    assert few.sizes == {"train": 4 if task == "multilabel" else 2, "val": 2} and few.task == task
    more = {source.key for source in loaded.subset(3).splits.train.sources}
    assert {source.key for source in few.splits.train.sources} <= more


@pytest.mark.parametrize("name", ["left_eye", "EyeRight", "x", "steering angle", "bbox_x1", "Yaw"])
def test_labels_that_speak_of_sides_are_never_mirrored(photos, name):
    loaded = data.load_data(write(photos / "t.csv", {name: AGES}), SMALL)
    assert loaded.splits.chiral and f"never mirrored, since {name!r} speaks of sides" in loaded.summary
    free = data.load_data(photos / "t.csv", SMALL, mirror=True)
    assert not free.splits.chiral and "mirrored" not in free.summary
    with pytest.warns(DataWarning, match="may be a place or an angle, and augment='light' moves images"):
        data.load_data(photos / "t.csv", SMALL, augment="light")


def test_other_names_are_mirrored_unless_somebody_says_otherwise(photos):
    path = write(photos / "t.csv", {"kind": ["bright", "lefthand", "fox"] * 4})
    assert not data.load_data(path, SMALL).splits.chiral
    pytest.importorskip("tensorflow")
    loaded = data.load_data(path, SMALL, augment="light", mirror=False)  # of 8 pixels, none is shifted
    originals = {image.tobytes() for image in loaded.arrays().images}
    assert loaded.splits.chiral and all(image.tobytes() in originals for x, _ in loaded.train for image in x.numpy())


# --- arrays ----------------------------------------------------------------------------------------------------------

IMAGES = np.stack([noise(8, 8, seed=i) for i in range(COUNT)])


@pytest.mark.parametrize(
    ("labels", "task", "found", "names"),
    [
        (np.arange(COUNT) % 2, None, "classification", ("0", "1")),
        (np.arange(COUNT) % 2, "regression", "regression", ("target",)),
        (np.array(AGES), None, "regression", ("target",)),
        (np.array(AGES)[:, None], None, "regression", ("target",)),
        (np.arange(COUNT) % 2.0, "classification", "classification", ("0", "1")),
        (np.array([AGES, ONES]).T, None, "regression", ("0", "1")),
        (np.array([ONES, THIRDS]).T, None, "multilabel", ("0", "1")),
        (np.array([ONES, THIRDS], bool).T, None, "multilabel", ("0", "1")),
        (np.eye(3)[np.arange(COUNT) % 3], None, "classification", ("0", "1", "2")),
        (np.eye(3)[np.arange(COUNT) % 3], "multilabel", "multilabel", ("0", "1", "2")),
    ],
)
def test_arrays_of_every_task(labels, task, found, names):
    loaded = data.load_data((IMAGES, labels), SMALL, task=task)
    assert (loaded.task, loaded.class_names) == (found, names)
    pixels = {image.tobytes(): i for i, image in enumerate(IMAGES)}
    for split in loaded.sizes:
        part = loaded.arrays(split)
        rows = [pixels[image.tobytes()] for image in part.images]
        truth = labels[rows].argmax(1) if found == "classification" and labels.ndim == 2 else labels[rows]
        np.testing.assert_allclose(part.labels.reshape(len(rows), -1), truth.reshape(len(rows), -1))
        kinds = {"classification": "int32", "multilabel": "uint8", "regression": "float32"}
        assert part.labels.dtype == kinds[found]


def test_dictionaries_of_arrays():
    labels = np.arange(COUNT) % 2
    whole = data.load_data({"image": IMAGES, "label": labels}, SMALL)
    assert whole.sizes == {"train": 10, "val": 2}
    parts = {"train": (IMAGES[:6], labels[:6]), "valid": {"image": IMAGES[6:9], "target": labels[6:9]}}
    loaded = data.load_data({**parts, "test": [IMAGES[9:], labels[9:]]}, SMALL, class_names=["no", "yes"])
    assert loaded.sizes == {"train": 6, "val": 3, "test": 3} and loaded.class_names == ("no", "yes")
    for split, part in (("train", slice(0, 6)), ("val", slice(6, 9)), ("test", slice(9, 12))):
        found = loaded.arrays(split)
        order = np.argsort(labels[part], kind="stable")
        np.testing.assert_array_equal(found.images, IMAGES[part][order])
        np.testing.assert_array_equal(found.labels, labels[part][order])


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ({"images": IMAGES}, {}, "give 'image', and one of 'label', 'mask' and 'target'"),
        ({"trian": (IMAGES, ONES)}, {}, "the key 'trian'"),
        ({"val": (IMAGES, ONES)}, {}, "has val but no train"),
        ({"val": (IMAGES, ONES), "dev": (IMAGES, ONES)}, {}, "two mean the same split"),
        ((IMAGES, np.array([1.0, np.nan] * 6)), {}, r"labels\[1\]: the value is nan"),
        ((IMAGES, np.full(COUNT, 2.5)), {}, "'target' is 2.5 for every training image"),
        ((IMAGES, np.array([ONES, [0] * COUNT]).T), {}, "no training image shows '1'"),
        ((IMAGES, np.array(AGES)), {"task": "classification"}, "not whole numbers from 0"),
        ((IMAGES, np.array([AGES, ONES]).T), {"task": "multilabel"}, "columns of numbers, which can be regression"),
        ((IMAGES, np.array(ONES)), {"task": "multilabel"}, "whole numbers from 0, which can be classification or reg"),
        ((IMAGES, np.array([AGES, ONES]).T), {"class_names": ["a"]}, "class_names has 1 names"),
        ((IMAGES, np.array(AGES)), {"class_names": ["a", "b"]}, "1 columns of labels, and class_names has 2"),
    ],
)
def test_arrays_that_contradict_themselves(given, options, sentence):
    with pytest.raises(BadData, match=sentence):
        data.load_data(given, SMALL, **options)


# --- the Hub's layouts -----------------------------------------------------------------------------------------------


def embedded(seed):
    return {"bytes": encode(noise(10, 12, seed=seed)), "path": f"{seed}.png"}


def features(**kinds):
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def test_an_image_folder_with_its_metadata(photos, tmp_path):
    for split, start in (("train", 0), ("test", 8)):
        (photos / split).mkdir()
        for i in range(start, start + 8 if split == "train" else COUNT):
            (photos / f"{i:02}.png").rename(photos / split / f"{i:02}.png")
        rows = range(start, 8 if split == "train" else COUNT)
        write(photos / split / "metadata.csv", {"file": rows})
        lines = ["file_name,age", *(f"{i:02}.png,{AGES[i]}" for i in rows)]
        (photos / split / "metadata.csv").write_text("\n".join(lines))
    for place in (photos, zipped(photos, tmp_path.with_suffix(".zip"), top="set")):
        loaded = data.load_data(place, SMALL, val_split=0.25)
        assert (loaded.task, loaded.class_names) == ("regression", ("age",))
        assert loaded.sizes == {"train": 6, "val": 2, "test": 4}
        np.testing.assert_allclose(np.concatenate(by_name(loaded)), AGES)
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(4):
        (flat / f"{i}.png").write_bytes(encode(noise()))
    (flat / "metadata.csv").write_text("file_name,label\n" + "\n".join(f"{i}.png,{'ab'[i % 2]}" for i in range(4)))
    (flat / "other.png").write_bytes(encode(noise()))
    loaded = data.load_data(flat, SMALL)
    assert loaded.class_names == ("a", "b") and loaded.sizes == {"train": 2, "val": 2}
    assert loaded.ignored == (str(flat / "other.png"),)


def test_metadata_may_be_lines_of_json(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(encode(noise(10, 12, seed=i)))
    table = tmp_path / "metadata.jsonl"
    rows = [{"file_name": f"{i}.png", "cat": i % 2 == 0, "dog": i > 0} for i in range(4)]
    table.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for place in (tmp_path, table):
        loaded = data.load_data(place, SMALL, val_split=0)
        assert (loaded.task, loaded.class_names) == ("multilabel", ("cat", "dog"))
        np.testing.assert_array_equal(by_name(loaded), [[1, 0], [0, 1], [1, 1], [0, 1]])
    for lines, told in (
        (["{"], "row 1: it is no JSON"),
        ([json.dumps(rows[0]), "[1]"], "row 2: give an object with columns"),
        ([json.dumps(rows[0]), json.dumps({"file_name": "1.png", "cat": 1})], "row 2: 'dog' is not in every row"),
        (["", ""], "the table is empty"),
    ):
        table.write_text("\n".join(lines))
        with pytest.raises(BadData, match=told):
            data.load_data(tmp_path, SMALL)


def test_parquet_files_with_images_in_them(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    of_class = {"label": {"names": ["z", "a"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    for file, rows in {"train-00000-of-00002": (0, 5), "train-00001-of-00002": (5, 8), "validation": (8, 12)}.items():
        table = arrow.table({"image": [embedded(i) for i in range(*rows)], "label": [i % 2 for i in range(*rows)]})
        parquet.write_table(table.replace_schema_metadata(features(**of_class)), tmp_path / "data" / f"{file}.parquet")
    loaded = data.load_data(tmp_path, SMALL)
    assert loaded.class_names == ("z", "a") and loaded.sizes == {"train": 8, "val": 4}
    expected = {data.load_image(encode(noise(10, 12, seed=i)), SMALL).tobytes(): i % 2 for i in range(COUNT)}
    for split in loaded.sizes:
        part = loaded.arrays(split)
        assert [expected[image.tobytes()] for image in part.images] == part.labels.tolist()
    stray = tmp_path / "data" / "more.parquet"
    stray.write_bytes((tmp_path / "data" / "validation.parquet").read_bytes())
    with pytest.raises(BadData, match=r"1 are in no split, others are: \S*more\.parquet"):
        data.load_data(tmp_path, SMALL)
    kinds = {"tags": {"feature": {"names": ["sun", "sea"], "_type": "ClassLabel"}, "_type": "List"}}
    tags = [[i % 2] if i % 3 else [0, 1] for i in range(COUNT)]
    table = arrow.table({"image": [embedded(i) for i in range(COUNT)], "tags": tags})
    parquet.write_table(table.replace_schema_metadata(features(**kinds)), tmp_path / "many.parquet")
    many = data.load_data(tmp_path / "many.parquet", SMALL)
    assert (many.task, many.class_names) == ("multilabel", ("sun", "sea"))
    bad = arrow.table({"image": [embedded(i) for i in range(COUNT)], "label": [*[i % 2 for i in range(11)], 2]})
    parquet.write_table(bad.replace_schema_metadata(features(**of_class)), tmp_path / "bad.parquet")
    with pytest.raises(BadData, match="row 12: 'label' is 2, and there are 2 classes"):
        data.load_data(tmp_path / "bad.parquet", SMALL)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BadData, match=r"bad\.parquet: the file is no Parquet, or damaged"):
        data.load_data(tmp_path / "bad.parquet", SMALL)


def test_a_missing_package_is_named(monkeypatch, photos):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackage, match="pip install datasets, or give the folder of a local copy"):
        data.load_data("hf://datasets/me/photos", SMALL)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (photos / "t.parquet").write_bytes(b"")
    with pytest.raises(MissingPackage, match="pip install pyarrow"):
        data.load_data(photos / "t.parquet", SMALL)


def test_a_data_set_of_the_hub_by_name(monkeypatch):
    """With the parts of `datasets` that are used, as its 4.0 has them."""

    class Image:
        def __init__(self, decode=True):
            self.decode = decode

    class Features(dict):
        def to_dict(self):
            return {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}

    class Rows(list):
        features = Features(image=Image(), label=object())

        def cast_column(self, column, feature):
            assert column == "image" and not feature.decode
            return self

    asked = []

    def load_dataset(name, revision=None):
        asked.append((name, revision))
        if name == "me/none":
            raise FileNotFoundError("no such data set")
        return {"train": Rows({"image": embedded(i), "label": i % 2} for i in range(COUNT))}

    package = types.SimpleNamespace(Image=Image, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    loaded = data.load_data("hf://datasets/me/photos@v1", SMALL)
    assert asked == [("me/photos", "v1")] and loaded.class_names == ("b", "a")
    assert loaded.sizes == {"train": 10, "val": 2}
    with pytest.raises(BadData, match="`datasets` cannot load it"):
        data.load_data("hf://datasets/me/none", SMALL)


# --- TFDS ------------------------------------------------------------------------------------------------------------


def prepared(home, name, features, rows):
    """A TensorFlow data set of these rows, as `download_and_prepare` leaves it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(9, 9, 3)), **features})
    place = home / name / "1.0.0"
    place.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(place / f"{name}-train.tfrecord-00000-of-00001")) as writer:
        for i, row in enumerate(rows):
            writer.write(features.serialize_example(features.encode_example({"image": noise(9, 9, seed=i), **row})))
    tfds.folder_dataset.write_metadata(
        data_dir=place,
        features=features,
        split_infos=[tfds.core.SplitInfo(name="train", shard_lengths=[len(rows)], num_bytes=0)],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tensorflow_datasets.core.utils.file_utils.constants.DATA_DIR", str(tmp_path))
    return tmp_path


def test_tfds_of_every_task(home):
    import tensorflow_datasets as tfds

    kinds = tfds.features
    many = [{"tags": [0, 1] if i % 2 else [i % 3 % 2], "id": f"{i}"} for i in range(COUNT)]
    prepared(home, "many", {"tags": kinds.Sequence(kinds.ClassLabel(names=["q", "p"])), "id": kinds.Text()}, many)
    loaded = data.load_data("tfds:many", SMALL)
    assert (loaded.task, loaded.class_names) == ("multilabel", ("q", "p"))
    rows = {name: label for split in loaded.sizes for name, _, label in loaded.each(split)}
    for i, row in enumerate(many):
        assert rows[f"tfds:many[train][{i}]"].tolist() == [int(label in row["tags"]) for label in (0, 1)]
    prepared(home, "numbers", {"age": kinds.Scalar(np.float32)}, [{"age": age} for age in AGES])
    loaded = data.load_data("tfds:numbers", SMALL)
    assert (loaded.task, loaded.class_names) == ("regression", ("age",))
    assert sorted(np.concatenate([s.labels for _, s in loaded.splits.items()]).ravel().tolist()) == AGES
    gaze = [{"gaze": [i, -i / 2]} for i in range(COUNT)]
    prepared(home, "places", {"gaze": kinds.Tensor(shape=(2,), dtype=np.float32)}, gaze)
    loaded = data.load_data("tfds:places", SMALL)
    assert (loaded.task, loaded.class_names) == ("regression", ("gaze 0", "gaze 1"))
    features = {"label": kinds.ClassLabel(names=["b", "a"]), "age": kinds.Scalar(np.int64)}
    prepared(home, "both", features, [{"label": i % 2, "age": i} for i in range(COUNT)])
    assert data.load_data("tfds:both", SMALL).class_names == ("b", "a")
    assert data.load_data("tfds:both", SMALL, task="regression").class_names == ("age",)
    assert data.load_data(kc.Table("tfds:both", labels="age"), SMALL).class_names == ("age",)


def test_tfds_with_masks(home):
    import tensorflow_datasets as tfds

    mask = np.zeros((9, 9, 1), np.uint8)
    mask[2:5] = 2
    mask[6] = 1
    features = {"label": tfds.features.ClassLabel(names=["b", "a"])}
    for name, masks in (
        ("named", tfds.features.LabeledImage(labels=["road", "car", "void"], shape=(9, 9, 1))),
        ("numbers", tfds.features.Image(shape=(9, 9, 1))),
    ):
        rows = [{"label": i % 2, "segmentation_mask": mask} for i in range(6)]
        prepared(home, name, {**features, "segmentation_mask": masks}, rows)
        assert data.load_data(f"tfds:{name}", SMALL).task == "classification"
        loaded = data.load_data(f"tfds:{name}", Preprocess(size=(9, 9), crop=1.0), task="segmentation")
        named = name == "named"
        assert loaded.class_names == (("road", "car") if named else ("0", "1", "2"))
        expected = np.where(mask == 2, 255, mask) if named else mask
        np.testing.assert_array_equal(loaded.arrays().labels[0], expected[..., 0])


def test_neither_ends_of_lines_nor_a_mark_of_byte_order_matter(photos):
    path = write(photos / "t.csv", {"kind": NAMES})
    expected = by_name(data.load_data(path, SMALL))
    text = path.read_text()
    for raw in (text.encode(), text.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + text.encode()):
        path.write_bytes(raw)
        assert by_name(data.load_data(path, SMALL)) == expected
