"""Foreign checkpoints: read a file of any known format into our keys and layouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn.checkpoints import arrays
from keras_cnn.checkpoints.convert import cifar, keras_applications, legacy_h5, pytorch, smp, timm, torchvision
from keras_cnn.checkpoints.convert.rename import recognise, to_ours
from keras_cnn.errors import CorruptFile
from keras_cnn.models import naming, shapes
from keras_cnn.models.config import Config
from keras_cnn.models.heads import Head

if TYPE_CHECKING:
    import numpy as np

FORMATS = [timm.FORMAT, torchvision.FORMAT, cifar.FORMAT, keras_applications.FORMAT, smp.FORMAT]


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a `.safetensors`, `.pth`, `.th`, `.pt`, `.bin` or legacy `.h5` file."""
    path = Path(path)
    if not path.is_file():
        raise CorruptFile(f"{path}: there is no such file.")
    if not path.stat().st_size:
        raise CorruptFile(f"{path} is empty: fetch it again.")
    readers = {".safetensors": arrays.load, ".h5": legacy_h5.read_h5}
    readers |= dict.fromkeys((".pth", ".th", ".pt", ".bin"), pytorch.read)
    if path.suffix not in readers:
        raise CorruptFile(f"{path}: known weight files end in {', '.join(readers)}.")
    return readers[path.suffix](path)


def read(path: str | Path, config: Config) -> tuple[Config, dict[str, np.ndarray]]:
    """Read a checkpoint for an architecture: the configuration with the source's numerics, and our arrays.

    The number of classes is the file's. Raises WeightsMismatch with a -/+ report, CorruptFile, UnsafeFile.
    """
    return convert(read_state(path), config, source=Path(path).name)


def convert(state: dict[str, np.ndarray], config: Config, source: str) -> tuple[Config, dict[str, np.ndarray]]:
    """As `read`, from arrays."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    backbone, names = config.backbone, config.class_names
    # Most files hold a classifier, whichever head is wanted, and only a file with a decoder is read as a U-Net's.
    decoder = bool(config.head.suffix) and any(naming.of_decoder(key) or key.startswith(smp.DECODER) for key in state)
    head = Head(classes=1) if config.head.suffix and not decoder else config.head
    # An auxiliary classifier is read wherever the file has one: `build` decides whether it is wanted.
    whole = backbone.with_(aux=True) if hasattr(backbone, "aux") and not decoder else backbone
    wanted = shapes.variables(shapes.tally(config.with_(backbone=whole, head=head, class_names=())))
    # Only we name layers by their stage; `stem_conv/kernel` is also what keras.applications calls it.
    if naming.is_ours(wanted.keys() & state.keys()):
        arrays.check(_backbone(wanted), _backbone(state))
        values = state
    else:
        fmt = recognise(state, backbone, wanted, FORMATS)
        values = to_ours(state, backbone, wanted, fmt)
        backbone = backbone.with_(**fmt.numerics(backbone))
        if not config.provenance:  # a bare file: its format tells what it expects of an image
            pre = fmt.preprocess(backbone, state).at_size(config.input_shape[:2])
            config, names = config.with_(preprocess=pre), fmt.class_names
    arrays.check_floats(values)
    kernel = values.get(naming.LOGITS)
    classes = 0 if kernel is None or kernel.ndim != (4 if decoder else 2) else kernel.shape[-1]
    return config.with_(
        backbone=backbone,
        head=head.for_classes(classes) if decoder else _plain(config.head, classes),
        class_names=names if len(names) == classes else (),
        provenance=config.provenance or {"source": source},
    ), values


def _plain(head: Head, classes: int) -> Head:
    """The head of a file of arrays: a classifier alone, as an architecture has it; a forecast's has its steps."""
    if head.SIDES == 1:
        return dataclasses.replace(head, classes=classes // max(getattr(head, "horizon", 0), 1))
    return Head(classes=classes, dropout=head.dropout, pooling=head.pooling)


def _backbone(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not naming.on_top(k)}
