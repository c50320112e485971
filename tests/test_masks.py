"""Masks: their layouts and legends, the geometry that they share with their images, and how they move with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from images import encode, noise, zipped
from PIL import Image

import keras_cnn as kc
from keras_cnn import data
from keras_cnn.data import augment, crops
from keras_cnn.data.augment import AUGMENTS, Level
from keras_cnn.errors import BadData, BadImage, BadSpec
from keras_cnn.models.config import Preprocess

SMALL = Preprocess(size=(16, 20), crop=1.0, interpolation="nearest")
COUNT = 10
NAMES = "road\ncar\nvoid\ntree\n"
COLOURS = {0: (128, 64, 128), 1: (0, 0, 142), 2: (0, 0, 0), 3: (107, 142, 35)}


def drawn(seed, height=24, width=30):
    """A mask of blocks of 0..3, and an image whose red tells the mask's value, so that pixels can be compared."""
    blocks = np.random.default_rng(seed).integers(0, 4, (4, 5))
    mask = np.kron(blocks, np.ones((height // 4, width // 5), int)).astype(np.uint8)
    image = noise(height, width, seed=seed)
    image[..., 0] = 60 * mask
    return image, mask


def write(root, place="{kind}/{i:03}.png", count=COUNT, encode_mask=encode, names=NAMES):
    """Images and masks by a pattern of places; returns the folder."""
    for i in range(count):
        image, mask = drawn(i)
        for kind, blob in (("images", encode(image)), ("masks", encode_mask(mask[..., None]))):
            path = root / place.format(kind=kind, i=i, split="train" if i < 7 else "val")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob)
    if names is not None:
        (root / "classes.txt").write_text(names)
    return root


def classes(red):
    """The class of a pixel by its image's red: void, the third, is ignored, and tree moves up."""
    return np.array([0, 1, 255, 2], np.uint8)[np.rint(red / 60).astype(int)]


def agree(images, masks):
    np.testing.assert_array_equal(classes(np.asarray(images)[..., 0]), masks)


# --- layouts ---------------------------------------------------------------------------------------------------------

PLACES = {
    "one folder": "{kind}/{i:03}.png",
    "splits above": "{split}/{kind}/{i:03}.png",
    "splits below": "{kind}/{split}/{i:03}.png",
    "around": "set/deep/{split}/{kind}/{i:03}.png",
    "towns": "{kind}/{split}/town/{i:03}.png",
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("place", PLACES)
def test_images_find_their_masks(tmp_path, place, form):
    root = write(tmp_path / "set", PLACES[place])
    (root / "readme.md").write_text("x")
    given = zipped(root, tmp_path / "set.zip", top="x") if form == "zip" else root
    loaded = data.load_data(given, SMALL)
    assert (loaded.task, loaded.class_names) == ("segmentation", ("road", "car", "tree"))
    assert loaded.sizes == ({"train": 8, "val": 2} if place == "one folder" else {"train": 7, "val": 3})
    for split in loaded.sizes:
        part = loaded.arrays(split)
        assert part.labels.dtype == np.uint8 and part.labels.shape == (loaded.sizes[split], 16, 20)
        agree(part.images, part.labels)
        assert set(np.unique(part.labels)) == {0, 1, 2, 255}
        assert loaded.counts[split] == {
            name: int(sum((mask == i).any() for mask in part.labels)) for i, name in enumerate(loaded.class_names)
        }
    assert "'void' is ignored" in loaded.summary and "with masks of 3 classes (road" in loaded.summary
    assert [name.rsplit("/")[-1] for name in loaded.ignored] == ["readme.md"]


def palette(mask):
    image = Image.fromarray(mask[..., 0]).convert("P")
    image.putpalette([200, 3, 3, 90, 90, 90, 1, 2, 3, 90, 90, 90])  # colours that mean nothing, two of them the same
    return encode(image)


def coloured(mask):
    return encode(np.array([COLOURS[i] for i in range(4)], np.uint8)[mask[..., 0]])


def palette_of_colours(mask):
    image = Image.fromarray(mask[..., 0]).convert("P")
    image.putpalette([value for colour in COLOURS.values() for value in colour])
    return encode(image)


OF_COLOURS = "".join(f"{name} {' '.join(map(str, COLOURS[i]))}\n" for i, name in enumerate(NAMES.split()))
FILES = {
    "gray": (encode, NAMES),
    "three equal channels": (lambda mask: encode(np.repeat(mask, 3, -1)), NAMES),
    "palette, by index": (palette, NAMES),
    "sixteen bits": (lambda mask: encode(Image.fromarray(mask[..., 0].astype(np.uint16))), NAMES),
    "colours": (coloured, OF_COLOURS),
    "colours with commas": (coloured, OF_COLOURS.replace(" ", ", ")),
    "palette, by colour": (palette_of_colours, OF_COLOURS),
    "gray, though there are colours": (encode, OF_COLOURS),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_gives_the_same_classes(tmp_path, kind):
    encode_mask, names = FILES[kind]
    part = data.load_data(write(tmp_path, encode_mask=encode_mask, names=names), SMALL).arrays()
    agree(part.images, part.labels)


def test_without_names_classes_are_the_values_that_occur(tmp_path):
    loaded = data.load_data(write(tmp_path / "a", names=None), SMALL)
    assert loaded.class_names == ("0", "1", "2", "3") and "no classes.txt" in loaded.summary
    np.testing.assert_array_equal(np.rint(loaded.arrays().images[..., 0] / 60), loaded.arrays().labels)
    apart = data.load_data(
        write(tmp_path / "b", encode_mask=lambda m: encode(np.where(m, 7 * m, 255)), names=None), SMALL
    )
    assert apart.class_names == ("7", "14", "21")  # 255 is nothing
    assert set(np.unique(apart.arrays().labels)) == {0, 1, 2, 255}
    two = data.load_data(
        write(tmp_path / "c", encode_mask=lambda m: encode(np.uint8(255) * (m > 1)), names=None), SMALL
    )
    assert two.class_names == ("background", "object")
    assert set(np.unique(two.arrays().labels)) == {0, 1}


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "VOID", "ignore", "ignored", "unknown"])
def test_classes_that_do_not_count_go_by_several_names(tmp_path, name):
    loaded = data.load_data(write(tmp_path, names=NAMES.replace("void", name)), SMALL)
    assert loaded.class_names == ("road", "car", "tree") and f"{name!r} is ignored" in loaded.summary


def test_a_table_may_name_masks(tmp_path):
    root = write(tmp_path)
    rows = [f"images/{i:03}.png,masks/{i:03}.png" for i in range(COUNT)]
    (root / "t.csv").write_text("\n".join(["image,mask", *rows]))
    loaded = data.load_data(root / "t.csv", SMALL)
    assert (loaded.task, loaded.class_names) == ("segmentation", ("0", "1", "2", "3"))
    np.testing.assert_array_equal(np.rint(loaded.arrays().images[..., 0] / 60), loaded.arrays().labels)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_lone_images_and_masks_are_listed(tmp_path):
    root = write(tmp_path)
    (root / "masks/003.png").unlink()
    with pytest.raises(BadData, match=r"1 images have no mask of the same name: \S*images/003\.png; add"):
        data.load_data(root, SMALL)
    for i in range(12):
        (root / f"masks/x{i}.png").write_bytes(b"")
    (root / "images/003.png").unlink()
    with pytest.raises(BadData, match=r"12 masks have no image of the same name: .* and 2 more"):
        data.load_data(root, SMALL)


WRONG = {
    "size": (lambda mask: encode(mask[:-1]), NAMES, r"masks/00\d\.png: the mask is 30x23, its image 30x24"),
    "value": (lambda mask: encode(mask + 3), NAMES, r"masks/00\d\.png: the value \d has no class \(3 are named: road"),
    "colour": (coloured, OF_COLOURS.replace("142 35", "142 36"), "the colour 107 142 35 has no class"),
    "colours without names": (coloured, NAMES, "the mask holds colours, and no class has one"),
    "JPEG": (lambda mask: encode(mask, "JPEG"), NAMES, "a JPEG does not keep the values of a mask"),
    "one class": (encode, "road\nvoid\n", "the masks have 1 classes that count"),
    "some colours": (encode, "road 1 2 3\ncar\n", "'car' has no colour, others have one"),
    "large colours": (encode, "road 1 2 3\ncar 1 2 256\n", "a colour has the value 256"),
    "same colours": (encode, "road 1 2 3\ncar 1 2 3\n", "two classes have the same colour"),
    "same names": (encode, "road\nroad\ncar\n", "'road' is the name of two classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_masks_that_cannot_be_understood_are_named(tmp_path, case):
    encode_mask, names, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        data.load_data(write(tmp_path, encode_mask=encode_mask, names=names), SMALL, skip_bad=True)


def test_splits_that_are_unclear(tmp_path):
    root = write(tmp_path, "{split}/{kind}/{i:03}.png")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        (root / kind / "lone.png").write_bytes(encode(noise()))
    with pytest.raises(BadData, match=r"1 are in no split, others are: \S*images/lone\.png"):
        data.load_data(root, SMALL)
    with pytest.raises(BadData, match="it has folders of images and of masks, which can be segmentation"):
        data.load_data(write(tmp_path / "other"), SMALL, task="regression")


def test_unreadable_masks_are_left_out_when_asked(tmp_path):
    root = write(tmp_path)
    (root / "masks/004.png").write_bytes(b"x")
    with pytest.raises(BadImage, match=r"masks/004\.png"):
        data.load_data(root, SMALL)
    held, streamed = (data.load_data(root, SMALL, skip_bad=True, cache_bytes=room) for room in (1 << 30, 0))
    assert sum(held.sizes.values()) == COUNT - 1
    for loaded in (held, streamed):
        rows = [(image, mask) for split in loaded.sizes for _, image, mask in loaded.each(split)]
        assert sum(image is None for image, _ in rows) == sum(mask is None for _, mask in rows) == 1
        for image, mask in rows:
            if image is not None:
                agree(image, mask)


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize(("size", "crop"), [((16, 20), 0.875), ((20, 20), 0.8), ((31, 17), 1.0), ((40, 50), 0.9)])
def test_masks_are_cut_exactly_as_their_images(tmp_path, mode, size, crop):
    preprocess = Preprocess(size=size, crop=crop, mode=mode, interpolation="nearest")
    part = data.load_data(write(tmp_path), preprocess, val_split=0).arrays()
    agree(part.images, part.labels)
    smooth = dataclasses.replace(preprocess, interpolation="bicubic")
    np.testing.assert_array_equal(data.load_data(tmp_path, smooth, val_split=0).arrays().labels, part.labels)


# --- arrays ----------------------------------------------------------------------------------------------------------


def as_arrays():
    pairs = [drawn(i, 16, 20) for i in range(COUNT)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_arrays_of_masks(dtype):
    images, masks = as_arrays()
    loaded = data.load_data((images, masks.astype(dtype)), SMALL, class_names=NAMES.split())
    assert (loaded.task, loaded.class_names, loaded.sizes) == (
        "segmentation",
        ("road", "car", "tree"),
        {"train": 8, "val": 2},
    )
    for split in loaded.sizes:
        agree(loaded.arrays(split).images, loaded.arrays(split).labels)
        for _, image, mask in loaded.each(split):
            agree(image, mask)
    again = data.arrays(loaded.splits.train, SMALL)  # from its sources, as any file
    np.testing.assert_array_equal(again.labels, loaded.arrays().labels)
    bare = data.load_data({"image": images, "mask": masks[..., None]}, SMALL)
    assert bare.class_names == ("0", "1", "2", "3")
    other = data.load_data((images, (masks + 1) % 4), SMALL)
    assert other.splits.content != bare.splits.content


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda m: m[:, 1:], {}, r"the masks have the shape \(10, 15, 20\), the images are 16x20"),
        (lambda m: m / 2, {}, "not whole numbers from 0 to 255"),
        (lambda m: m.astype(int) - 1, {}, "not whole numbers from 0 to 255"),
        (lambda m: m, {"class_names": ["a", "b", "c"]}, r"masks\[0\]: the value 3 has no class"),
        (lambda m: m, {"task": "classification"}, "as masks, which can be segmentation"),
    ],
)
def test_arrays_of_masks_that_do_not_fit(change, options, sentence):
    images, masks = as_arrays()
    with pytest.raises(BadData, match=sentence):
        data.load_data((images, change(masks)), SMALL, **options)


# --- augmentation ----------------------------------------------------------------------------------------------------


def passes(batches):
    parts = zip(*((x.numpy(), y.numpy()) for x, y in batches), strict=True)
    return tuple(np.concatenate(part) for part in parts)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("level", [None, "shift", "light"])
def test_masks_move_with_their_images(tmp_path, level, cache_bytes):
    pytest.importorskip("tensorflow")
    loaded = data.load_data(write(tmp_path), SMALL, augment=level, batch_size=4, cache_bytes=cache_bytes)
    assert [spec.shape.as_list() for spec in loaded.train.element_spec] == [[None, 16, 20, 3], [None, 16, 20]]
    images, masks = passes(loaded.train)
    assert masks.dtype == np.uint8
    agree(images, masks)
    plain = {image.tobytes() for image in passes(loaded.plain)[0]}
    moved = [image.tobytes() not in plain for image in images]
    assert sum(moved) > 4 if level else not any(moved)
    agree(*passes(loaded.val))
    again = data.load_data(tmp_path, SMALL, augment=level, batch_size=4, cache_bytes=1 << 30)
    np.testing.assert_array_equal(passes(again.train)[1], masks)
    assert loaded.subset(1).sizes["train"] == 3


@pytest.mark.parametrize("room", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_random_parts_of_photos_are_those_of_their_masks(tmp_path, mode, room):
    pytest.importorskip("tensorflow")
    # Halves of black and white, large beside what is seen: where an image is clearly one of them, so is its mask.
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(8):
        edge = 40 + 5 * i
        white = np.zeros((90, 120, 1), np.uint8)
        white[:, edge:] = 1
        (tmp_path / f"images/{i}.png").write_bytes(encode(np.repeat(255 * white, 3, -1)))
        (tmp_path / f"masks/{i}.png").write_bytes(encode(white))
    preprocess = Preprocess(size=(24, 32), crop=1.0, mode=mode, interpolation="bilinear")
    loaded = data.load_data(tmp_path, preprocess, augment="crop", cache_bytes=room, val_split=0)
    assert loaded.canvas == (48, 64)
    images, masks = passes(loaded.train)
    agreeing = (images[..., 0] > 127) == (masks == 1)
    assert agreeing.mean() > 0.985  # all but the pixels of the edge itself, a column of 32 at most for half of them
    wrong = ~agreeing
    assert not (wrong & (images[..., 0] % 255 == 0)).any()  # pixels that are wholly black or white are right
    assert set(np.unique(masks)) == {0, 1}


def test_parts_of_masks_are_the_nearest_pixels():
    tf = pytest.importorskip("tensorflow")
    masks = np.random.default_rng(0).integers(0, 255, (3, 30, 40), "uint8")
    whole = np.array([[0, 0, 1, 1]] * 3, np.float32)
    np.testing.assert_array_equal(crops.cut_masks(tf.constant(masks), tf.constant(whole), (30, 40)), masks)
    parts = np.array([[0.2, 0.1, 0.5, 0.45], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]], np.float32)  # whole pixels
    found = crops.cut_masks(tf.constant(masks), tf.constant(parts), (12, 8)).numpy()
    for mask, (top, left, height, width), one in zip(masks, parts, found, strict=True):
        box = (left * 40, top * 30, (left + width) * 40, (top + height) * 30)
        expected = Image.fromarray(mask).resize((8, 12), Image.Resampling.NEAREST, box)
        np.testing.assert_array_equal(one, np.asarray(expected))


@pytest.mark.parametrize("level", ["medium", "heavy"])
def test_operations_of_randaugment_move_masks_and_bring_in_nothing(level):
    tf = pytest.importorskip("tensorflow")
    rows, columns = np.meshgrid(np.arange(40), np.arange(48), indexing="ij")
    mask = ((rows // 10 + columns // 12) % 3).astype(np.uint8)
    masks = np.repeat(mask[None], 48, 0)
    images = np.repeat((100 * mask)[None, ..., None], 3, -1).repeat(48, 0)
    change = augment.augmenter(AUGMENTS[level], channels=3, classes=3, seed=1, task="segmentation")
    seen, moved = change(tf.constant(images), tf.constant(masks), tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    seen, moved = seen.numpy(), moved.numpy()
    assert seen.dtype == moved.dtype == np.uint8 and moved.shape == masks.shape
    assert set(np.unique(moved)) == {0, 1, 2, 255}
    assert (moved == 255).any((1, 2)).sum() > 12 and (moved != 255).mean() > 0.6


@pytest.mark.parametrize("name", augment.WARPS)
def test_each_warp_takes_masks_to_where_it_takes_images(name, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setattr(augment, "WARPS", {name: augment.WARPS[name]})
    monkeypatch.setattr(augment, "TONES", {})
    mask = np.zeros((40, 40), np.uint8)
    mask[8:30, 12:26] = 1
    masks = np.repeat(mask[None], 32, 0)
    images = 255 * np.repeat(masks[..., None], 3, -1)
    change = augment.augmenter(Level(operations=1, magnitude=1.0), channels=3, classes=2, seed=0, task="segmentation")
    zero = tf.constant(0, tf.int64)
    seen, moved = (part.numpy() for part in change(tf.constant(images), tf.constant(masks), zero, zero))
    inside = moved != 255
    wrong = ((seen[..., 0] > 127) != (moved == 1)) & inside
    assert (
        not np.array_equal(moved, masks) and wrong.sum((1, 2)).max() <= 4
    )  # of 1,600: pixels on the edge, at one half
    assert not (wrong & np.isin(seen[..., 0], (0, 255))).any()


# --- real masks ------------------------------------------------------------------------------------------------------


def test_camvid(shared):
    path = shared / "data/camvid.zip"
    loaded = data.load_data(path, Preprocess(size=(45, 60), crop=1.0))
    assert loaded.sizes == {"train": 367, "val": 101} and loaded.task == "segmentation"
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    assert list(loaded.class_names) == names and not loaded.splits.chiral
    masks = loaded.arrays("val").labels
    assert set(np.unique(masks)) <= {*range(11), 255} and 0 < (masks == 255).mean() < 0.1
    road = (masks == names.index("road")).mean((1, 2))
    assert 0.1 < np.median(road) < 0.5  # a camera that looks out of a car
    assert "'unlabelled' is ignored; images of 240x180 pixels are seen at 60x45" in loaded.summary


def test_the_public_name():
    assert kc.Table("a.csv", labels=["x"]) == kc.Table("a.csv", labels=("x",))
    for wrong in ({"labels": 3}, {"labels": [3]}, {"image": 3}, {"separator": ""}):
        with pytest.raises(BadSpec, match=next(iter(wrong))):
            kc.Table("a.csv", **wrong)
