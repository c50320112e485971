"""`build`: the one place where names, data, graph and weights meet."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec, ReachWarning, WeightsMismatch
from keras_cnn.hub import resolve
from keras_cnn.hub.resolve import asked_head, tags
from keras_cnn.models import naming, registry
from keras_cnn.models.assemble import assemble, sizes
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import Config, Preprocess
from keras_cnn.models.fields import known_options, several
from keras_cnn.models.heads import Head
from keras_cnn.models.sequence_heads import SequenceHead, short_sighted
from keras_cnn.models.shapes import check_size, tally


@partial(known_options, further=registry.numbers)
def build(
    source: str | os.PathLike[str] | Config | Backbone,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    classes: int | Sequence[str] | None = None,
    task: str | None = None,
    targets: int | Sequence[str] | None = None,
    horizon: int | None = None,
    head: Head | None = None,
    freeze: str | float | None = None,
    norm: str | None = None,
    act: str | None = None,
    output_stride: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    merge: str | None = None,
    aux: bool | None = None,
    classifier_activation: str | None = "auto",
    preprocess: Preprocess | None = None,
    name: str | None = None,
    **numbers: Any,
) -> Any:
    """A flat functional Keras model: raw images, or sequences, in, class probabilities out.

    source: an architecture ("resnet50": random weights; "resnet50_unet" for a `UNet` on it), a tag
        ("resnet18.tiny_in200"), a weights directory (ours or timm's), a .keras file of a network of ours, a Config such
        as `compound_scale` gives, or a backbone.
    weights: a checkpoint for the architecture: .safetensors, .pth/.th, .h5 of keras.applications, or
        anything that source may be. A U-Net takes the weights of its backbone from those of a classifier.
    input_shape: (height, width, channels); height and width may be None. Default: that of the weights or architecture.
        With another number of channels a pretrained stem is adapted: one channel takes the sum of the RGB kernels,
        several repeat them, scaled by 3 / channels, so that activations keep their size. Of sequences it is
        (time, channels), and time may be None; their channels are what the weights have.
    classes: how many, or their names; 0 for pooled features. Other than the weights', they start a new head; a U-Net's
        decoder is kept.
    task: what the output means, as `Head` has it: "classification", "multilabel", "binary", "regression" or
        "embedding"; by default what the weights came with. Another than theirs starts a new head, too.
    targets: of a regression, how many numbers, or their names: task="regression" is then understood.
    horizon: of sequences, how many steps behind their end are forecast: targets of each; 0 for none.
    head: the whole head, where `classes`, `drop_rate` and `classifier_activation` are not enough: a `Head`, a `UNet`.
    freeze: what shall not learn, as `keras_cnn.freeze` takes it: the last frozen stage ("stage3"), a share of the
        backbone's parameters (0.5), or a regular expression for names of layers ("stage[12]_.*").
    norm: "batch", "layer", "instance", "group:N" or "none"; act: any Keras activation; merge: how a block's
        input joins its output: "add"; "concat", which starts as the sum, so that pretrained weights serve both; or
        "none", a plain network without shortcuts, to compare with.
    aux: Inception's auxiliary classifier: the model then has two outputs; `train` weighs its loss with 0.4, and
        `build(DIR, aux=False)` leaves it out for prediction.
    output_stride: 8, 16 or 32: dilation in place of the last strides, with the same weights. ResNets and EfficientNets
        have it. Where only windows of a fixed size see positions, every 2nd or 4th feature is the undilated network's,
        up to the borders. Squeeze-and-excitation and norms other than batch average over a denser map, and so differ;
        as do shortcuts of variant D at 8, and padding "same" in ResNets. EfficientNet-Lite with that padding has
        those features from position 1 (of stride 16) or 3 (of stride 8) on, where maps have even sides.
    drop_rate: dropout before the classifier; drop_path_rate: stochastic depth, growing linearly to this rate.
    classifier_activation: "softmax", "sigmoid", or None for logits; "auto" is that of the weights, else the task's.
    preprocess: what the network does to raw pixels, and the evaluation crop; by default what the weights came with. A
        new head that says something of every pixel sees images whole.
    numbers: fields of the backbone by their name, such as widths=, kernel=, dilations= and causal= of a `TCN`.

    Images are (batch, height, width, channels), uint8 or float, values 0..255; sequences (batch, time, channels), in
    any unit; class scores are float32 under every dtype policy.
    Warns with a ReachWarning where a network for whole sequences sees only a part of them.
    Raises UnknownModel, BadSpec, WeightsMismatch, CorruptFile, all subclasses of `errors.KerasCnnError`.

    >>> import keras_cnn as kc
    >>> kc.build("resnet20", classes=4).output_shape
    (None, 4)
    >>> kc.build("tcn", input_shape=(28, 8), classes=4, kernel=3, dilations=(1, 2, 4)).output_shape
    (None, 4)
    """
    if targets is not None:
        if classes is not None or task not in (None, "regression"):
            raise BadSpec("targets are for a regression, which has no classes: give them alone, or classes and a task.")
        classes, task = targets, "regression"
    names = None if classes is None or isinstance(classes, int) else several("classes", classes)
    names = names or (head and head.given_names) or None
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    if head is not None and count not in (None, head.names):
        raise BadSpec(f"{count} classes and head.classes={head.classes} disagree: give one of them.")
    if head is not None and task not in (None, head.task):
        raise BadSpec(f"task={task!r} and head.task={head.task!r} disagree: give one of them.")
    found, asked = resolve(source, weights), asked_head(source)
    config, values = found.load() if found.load else (found.config, None)
    tag = next((str(name) for name in (source, weights) if name in tags()), None)
    if preprocess:  # the size is the network's, unless it takes any
        preprocess = preprocess.for_channels(config.channels).at_size(config.input_shape[:-1])
        config = config.with_(preprocess=preprocess)
    as_given = preprocess is not None
    pretrained_head = config.head if values else None
    backbone = config.backbone.with_(
        norm=norm, act=act, output_stride=output_stride, drop_path_rate=drop_path_rate, merge=merge, aux=aux, **numbers
    )
    head = head or _head(_with_head(config, asked), count, task, drop_rate, classifier_activation)
    head = head if horizon is None else _forecast(head, horizon)
    if head.meaning.whole and not config.head.meaning.whole and not as_given:
        config = config.with_(preprocess=config.preprocess.whole())
    kept = config.class_names if len(config.class_names) == head.names else ()
    _check_channels(config, values, input_shape)
    _check_merge(config, backbone, values)
    config = config.at(input_shape or config.input_shape).with_(backbone=backbone, head=head, class_names=kept)
    keep_head = _same_arrays(config.head, pretrained_head) and names in (None, config.class_names)
    config = config.with_(class_names=names) if names else config
    if not keep_head:
        config = config.as_base(tag)
    check_size(config)
    if text := short_sighted(config):
        warnings.warn(f"{config.architecture}: {text}", ReachWarning, stacklevel=3)
    model = assemble(config, name)
    if freeze is not None:
        frozen = naming.lower(sizes(model, tally(config)), **naming.parse(freeze))
        for layer in model.layers:
            layer.trainable = layer.trainable and layer.name not in frozen
    if values is not None:
        _load(model, values, None if keep_head else of_new_head(head, pretrained_head))
    return model


def _check_channels(config: Config, values: Any, input_shape: tuple[int | None, ...] | None) -> None:
    """BadSpec where pretrained weights would see other channels of a sequence, of which none stands for another."""
    if values is not None and config.backbone.SIDES == 1 and input_shape and input_shape[-1] != config.channels:
        raise BadSpec(
            f"input_shape={input_shape}: these weights read {config.channels} channels, each with its own meaning: "
            "give sequences of those, or build the network without weights."
        )


def _check_merge(config: Config, backbone: Backbone, values: Any) -> None:
    """BadSpec where weights that were learnt with shortcuts, whose arrays may be the same, are to do without, or the
    reverse."""
    before, after = (getattr(one, "merge", None) for one in (config.backbone, backbone))
    if values is not None and before != after and "none" in (before, after):
        raise BadSpec(f"these weights were learnt with merge={before!r}: keep that, or build the network without them.")


def _head(config: Config, names: int | None, task: str | None, drop_rate: float | None, activation: str | None) -> Head:
    """The head of the weights with what is asked for changed; names: of classes or targets."""
    head = config.head if task is None else config.head.for_task(task)
    if names is not None and names % head.meaning.names:
        raise BadSpec(
            f"task={head.task!r} is for {head.meaning.names} classes, and there are {names}: give another task, as "
            "task='classification'."
        )
    head = head.for_classes(head.classes if names is None else head.meaning.outputs(names))
    dropout = head.dropout if drop_rate is None else drop_rate
    return dataclasses.replace(
        head, dropout=dropout, activation=head.activation if activation == "auto" else activation
    )


def _forecast(head: Head, horizon: int) -> SequenceHead:
    if not isinstance(head, SequenceHead):
        raise BadSpec(f"horizon={horizon}: a forecast is of sequences, and a {type(head).__name__} is of images.")
    return dataclasses.replace(head, horizon=horizon)


def _with_head(config: Config, head: Head | None) -> Config:
    """A configuration with another kind of head, where one is asked for."""
    other = head is not None and type(head) is not type(config.head)
    return config.with_(head=head, class_names=()) if other else config


FREE = ("dropout", "activation", "pooling", "hidden_activation")  # what says nothing of a head's arrays


def _same_arrays(head: Head, other: Head | None, but: tuple[str, ...] = FREE) -> bool:
    facts = lambda head: {k: v for k, v in head.to_dict().items() if k not in but}  # noqa: E731
    return other is not None and facts(head) == facts(other)


def of_new_head(head: Head, other: Head | None) -> Callable[[str], bool]:
    """Whether a layer, or a key, starts afresh with a head in the place of another one: what ends in the classes does,
    and a decoder where the other had none, or another one."""
    kept = _same_arrays(head, other, (*FREE, "classes", "task"))
    return lambda name: naming.of_classes(name) or (naming.of_decoder(name) and not kept)


def _load(model: Any, values: dict[str, np.ndarray], new: Callable[[str], bool] | None) -> None:
    """new: what is made anew, where the head is another one than the weights'."""
    anew = new or (lambda key: False)
    targets = arrays.variables(model)
    values = {k: v for k, v in values.items() if not anew(k)}
    if not any(map(naming.of_auxiliary, targets)):
        values = {k: v for k, v in values.items() if not naming.of_auxiliary(k)}
    # A new head starts afresh, an auxiliary classifier too where the weights have none; where sums became
    # concatenations, the fusing kernels start as the sums they replace.
    fresh = [k for k in targets if anew(k) or (naming.optional(k) and k not in values)]
    stem = naming.first_kernel(targets)
    if stem and stem in values and values[stem].shape[2] != targets[stem].shape[2]:
        values[stem] = adapt_stem(values[stem], targets[stem].shape[2])
    try:
        arrays.assign(model, values, skip=fresh)
    except WeightsMismatch as mismatch:
        raise WeightsMismatch(f"{model.name}: {mismatch}") from None


def adapt_stem(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A pretrained first kernel (height, width, in, out) for another number of input channels, as timm does."""
    given = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // given), 1))[:, :, :channels]
    return repeated * (given / channels)
