"""Augmentation of training batches in tf.data, by Keras' own layers and with randomness that follows from a key."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_cnn.errors import MissingPackage


@dataclass(frozen=True, kw_only=True)
class Level:
    """What happens to a training batch, in this order.

    shift: by up to a tenth of the size, in whole pixels, the border reflected. crop: instead, where whole photos are at
    hand, a random part of each. flip: half of the images are mirrored.
    operations, magnitude: RandAugment's N, and M as a share of the ranges of `WARPS` and `TONES`.
    erase: share of the images that lose a rectangle. mix: MixUp or CutMix, either for half of the batches, where labels
    are classes.
    """

    shift: bool = False
    crop: bool = False
    flip: bool = False
    operations: int = 0
    magnitude: float = 0.0
    erase: float = 0.0
    mix: bool = False


AUGMENTS = {
    None: Level(),
    "shift": Level(shift=True),
    "light": Level(shift=True, flip=True),
    "mix": Level(shift=True, flip=True, mix=True),
    "crop": Level(shift=True, crop=True, flip=True),
    "medium": Level(shift=True, crop=True, flip=True, operations=2, magnitude=0.5, erase=0.25),
    "heavy": Level(shift=True, crop=True, flip=True, operations=2, magnitude=1.0, erase=0.25, mix=True),
}

# The operations of RandAugment: layers of Keras, and their arguments at magnitude m. keras.layers.RandAugment itself
# (3.15) draws one pair for the whole batch, computes every operation for every image, turns and brightens in one
# direction only, and at a low factor posterises the most. Two operations are left out, as no magnitude makes them mild:
# Equalization, which blows up the noise of a photograph of one colour (and takes a batch for one image), and
# Solarization, whose lowest threshold cannot be set.
WARPS: dict[str, Callable[[float], dict[str, Any]]] = {
    "RandomShear": lambda m: {"x_factor": 0.3 * m, "y_factor": 0.3 * m},
    "RandomTranslation": lambda m: {"height_factor": 0.3 * m, "width_factor": 0.3 * m},
    "RandomRotation": lambda m: {"factor": 30 / 360 * m},
}
TONES: dict[str, Callable[[float], dict[str, Any]]] = {
    "RandomBrightness": lambda m: {"factor": 0.3 * m},
    "RandomColorDegeneration": lambda m: {"factor": 0.9 * m},
    "RandomContrast": lambda m: {"factor": (0.7 * m, 0.7 * m)},
    "RandomSharpness": lambda m: {"factor": (0.5 - 0.45 * m, 0.5 + 0.45 * m)},
    "RandomPosterization": lambda m: {"factor": (8 - round(4 * m), 8)},  # bits that stay
    "AutoContrast": lambda m: {},
}
GRAY = 128.0  # fills erased rectangles: nearly as good as noise in 1708.04896, and cheaper to draw
MIXED = ("classification", "multilabel")  # tasks whose labels have shares
MIXUP, CUTMIX = 0.2, 1.0  # alpha of the beta distributions, as in 2110.00476, table 2

# Of uint8 images, or of a pair (images, masks), and a seed generator, to the same.
Change = Callable[[Any, Any], Any]
OUTSIDE = 255.0  # of masks: what comes in from beyond their border does not count


def augmenter(
    level: Level,
    *,
    channels: int,
    classes: int,
    seed: int,
    chiral: bool = False,
    task: str = "classification",
    crop: Callable[..., Any] | None = None,
    resize: Callable[[Any, Any], Any] | None = None,
) -> Callable[..., Any]:
    """Graph function (images, labels, epoch, step, stretch) -> (images, labels), for a data set of tf.data to map.

    images: uint8 (batch, height, width, channels), before and after. labels: int32 (batch,); where the level mixes,
    they become float32 (batch, classes), the shares of the classes. epoch, step: int64 scalars, which with seed give
    all randomness: neither other draws nor parallel calls matter. channels: 1, 3 or 4; the fourth, alpha, is moved and
    mixed with the others, but keeps its values; one alone has no colour to lose. chiral: glyphs, which are not
    mirrored; where RandAugment moves one, the border's pixels go on and no reflection shows. task: of the labels.
    crop: where images are whole photos, makes of them, their masks, their stretch and a key (see `crops.cropper`) what
    the rest is done to. resize: gives images, last of all, the size of their epoch (see `growth.resizer`).

    RandAugment (1909.13719, section 3) draws N operations for each image anew; as Keras' layers do, each then draws its
    strength from the range that ends at M. Random Erasing: 1708.04896, "Our Approach". MixUp: 1710.09412, section 2.
    CutMix: 1905.04899, section 3; either mixes images in pairs, with a share drawn for each pair.
    """
    tf = tensorflow()
    changes: list[Change] = []
    if level.operations:
        changes += level.operations * [_rand_augment(level.magnitude, channels, "nearest" if chiral else "reflect")]
    if level.erase:
        changes.append(_erase(level.erase, channels))
    mix = _mix(classes) if level.mix and task in MIXED else None
    masked = task == "segmentation"

    @tf.autograph.experimental.do_not_convert
    def augment(images: Any, labels: Any, epoch: Any, step: Any, stretch: Any = None) -> tuple[Any, Any]:
        images, labels = changed(images, labels, epoch, step, stretch)
        return (resize(images, epoch) if resize else images), labels

    def changed(images: Any, labels: Any, epoch: Any, step: Any, stretch: Any) -> tuple[Any, Any]:
        key = key_of(seed, epoch, step)
        if crop:
            images, cut = crop(images, labels if masked else None, stretch, key_of_parts(key))
            labels = cut if masked else labels
        seen = (images, labels) if masked else images
        seen = move(seen, key, shift=level.shift and not crop, flip=level.flip and not chiral)
        if changes or mix:  # else Keras is not needed
            draws = _draws(key)
            for change in changes:
                seen = change(seen, draws)
            if mix:
                return mix(seen, labels, draws)
        return seen if masked else (seen, labels)

    return augment


def key_of(seed: int, epoch: Any, step: Any) -> Any:
    """What all randomness of a batch follows from, int64 (2,)."""
    tf = tensorflow()
    return tf.stack([tf.constant(seed, tf.int64), tf.bitwise.left_shift(epoch, 32) + step])


def key_of_parts(key: Any) -> Any:
    """That by which random parts of photos are drawn."""
    return tensorflow().random.experimental.stateless_fold_in(key, 0)  # `_draws` begins at 1


def move(seen: Any, key: Any, *, shift: bool, flip: bool) -> Any:
    """Whole-pixel flips and shifts, as a choice of rows, then of columns, for each image: exact, and always uint8.

    seen: images, or a pair (images, masks).
    """
    if not (shift or flip):
        return seen
    tf = tensorflow()
    images = _parts(seen)[0]
    height, width = images.shape[1:3]
    mirror, down, right = tf.unstack(tf.random.stateless_uniform([3, tf.shape(images)[0]], key))
    if not shift:  # whole rows turn in less than half of the time that their pixels take one by one
        places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), tf.cast(mirror < 0.5, tf.int32), 2)

        def turned(part: Any) -> Any:
            stay, turn = (tf.gather(part, some) for some in places)
            return tf.ensure_shape(tf.dynamic_stitch(places, [stay, tf.reverse(turn, [2])]), part.shape)

        return tf.nest.map_structure(turned, seen)

    def moved(size: int, chance: Any) -> Any:
        most = size // 10 if shift else 0
        by = tf.cast(chance * (2 * most + 1), tf.int32) - most
        places = tf.abs(tf.range(size) + by[:, None])
        return size - 1 - tf.abs(size - 1 - places)  # the border is reflected

    rows, columns = moved(height, down), moved(width, right)
    if flip:
        columns = tf.where(mirror[:, None] < 0.5, width - 1 - columns, columns)
    return tf.nest.map_structure(
        lambda part: tf.gather(tf.gather(part, rows, batch_dims=1), columns, axis=2, batch_dims=1), seen
    )


def _parts(seen: Any) -> tuple[Any, Any]:
    """(images, masks), the second None where there are none."""
    return seen if isinstance(seen, tuple) else (seen, None)


def _rand_augment(magnitude: float, channels: int, border: str) -> Change:
    """One operation for each image, all as likely."""
    warps = [_warp(name, at(magnitude), border) for name, at in WARPS.items()]
    tones = [_tone(_layer(name, **at(magnitude)), channels) for name, at in TONES.items()]
    operations = warps + tones
    return _one_of(operations, [1 / len(operations)] * len(operations))


def _erase(share: float, channels: int) -> Change:
    """A rectangle of some of the images turns gray; masks still say what was there."""
    erasing = _layer("RandomErasing", factor=(1.0, 1.0), fill_value=GRAY)
    return _one_of([lambda seen, draws: seen, _tone(erasing, channels)], [1 - share, share])


def _one_of(changes: list[Change], chances: list[float]) -> Change:
    """One of the changes for each image; each computes only the images that drew it."""
    tf = tensorflow()
    bounds = list(itertools.accumulate(chances))[:-1]

    def change(seen: Any, draws: Any) -> Any:
        count = tf.shape(_parts(seen)[0])[0]
        chance = tf.random.stateless_uniform([count], draws.next())
        chosen = tf.searchsorted(tf.constant(bounds, tf.float32), chance, side="right")
        places = tf.dynamic_partition(tf.range(count), chosen, len(changes))
        divided = [tf.dynamic_partition(part, chosen, len(changes)) for part in tf.nest.flatten(seen)]
        groups = [tf.nest.pack_sequence_as(seen, list(group)) for group in zip(*divided, strict=True)]
        changed = [one(group, draws) for one, group in zip(changes, groups, strict=True)]
        return tf.nest.map_structure(
            lambda part, *some: tf.ensure_shape(tf.dynamic_stitch(places, list(some)), part.shape), seen, *changed
        )

    return change


def _mix(classes: int) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """MixUp or CutMix of a batch with itself, in another order."""
    tf = tensorflow()
    mixup, cutmix = _layer("MixUp", alpha=MIXUP), _layer("CutMix", factor=(CUTMIX, CUTMIX))

    def mix(images: Any, labels: Any, draws: Any) -> tuple[Any, Any]:
        images = tf.cast(images, tf.float32)
        labels = tf.one_hot(labels, classes) if labels.shape.rank == 1 else tf.cast(labels, tf.float32)

        def by(layer: Any) -> tuple[Any, Any]:
            drawn = layer.get_random_transformation(images, seed=draws)
            return layer.transform_images(images, drawn), layer.transform_labels(labels, drawn)

        first = tf.random.stateless_uniform([], draws.next()) < 0.5
        mixed, shares = tf.cond(first, lambda: by(mixup), lambda: by(cutmix))
        return _pixels(mixed), shares

    return mix


def _layer(name: str, **arguments: Any) -> Any:
    """A layer of Keras that computes with TensorFlow, whatever backend and precision the network has."""
    import keras

    if name != "AutoContrast":  # nothing random about it
        arguments["seed"] = 0  # never used, but without it Keras draws one from Python's generator, as kernels do
    layer = getattr(keras.layers, name)(dtype="float32", data_format="channels_last", **arguments)
    layer.backend.set_backend("tensorflow")
    return layer


def _warp(name: str, arguments: dict[str, Any], border: str) -> Change:
    """A layer that moves pixels: those of masks by the same draws, but to the nearest one."""
    tf = tensorflow()
    layer = _layer(name, fill_mode=border, **arguments)
    of_masks = _layer(name, fill_mode="constant", fill_value=OUTSIDE, interpolation="nearest", **arguments)

    def change(seen: Any, draws: Any) -> Any:
        images, masks = _parts(seen)
        images = tf.cast(images, tf.float32)
        drawn = layer.get_random_transformation(images, seed=draws)
        changed = _pixels(layer.transform_images(images, drawn))
        if masks is None:
            return changed
        return changed, _pixels(of_masks.transform_images(tf.cast(masks[..., None], tf.float32), drawn))[..., 0]

    return change


def _tone(layer: Any, channels: int) -> Change:
    """A layer that changes the colours of images where they are; alpha stays as it is, and so do masks.

    Pixels are rounded after every operation, as image libraries do.
    """
    tf = tensorflow()

    def change(seen: Any, draws: Any) -> Any:
        images, masks = _parts(seen)
        colours = tf.cast(images[..., :3] if channels == 4 else images, tf.float32)
        changed = _pixels(layer.transform_images(colours, layer.get_random_transformation(colours, seed=draws)))
        changed = tf.concat([changed, images[..., 3:]], -1) if channels == 4 else changed
        return changed if masks is None else (changed, masks)

    return change


def _pixels(images: Any) -> Any:
    tf = tensorflow()
    return tf.saturate_cast(tf.round(images), tf.uint8)


def _draws(key: Any) -> Any:
    """A seed generator without state: its n-th seed follows from the key and n, counted while the graph is traced.

    Keras' own counts in a variable, which would make a batch depend on those before it, and on races between them.
    """
    import keras

    tf = tensorflow()

    class Draws(keras.random.SeedGenerator):
        def __init__(self) -> None:  # not that of SeedGenerator, which makes the variable
            self.count = 0

        def next(self, ordered: bool = True) -> Any:
            self.count += 1
            return tf.random.experimental.stateless_fold_in(key, self.count)

    return Draws()


def tensorflow() -> Any:
    """TensorFlow, imported where it is first needed; Any, as its types are incomplete."""
    try:
        import tensorflow
    except ImportError as error:
        raise MissingPackage("tf.data needs TensorFlow; pip install tensorflow, or use Data.arrays().") from error
    return tensorflow
