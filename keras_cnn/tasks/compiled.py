"""What the loss of a compiled network learns, be it of its task or one of Keras' that its user chose."""

from __future__ import annotations

from typing import Any

from keras_cnn import tasks


def as_compiled(model: Any, labels: Any, images: Any) -> Any:
    """The labels of a batch as the loss of a compiled model takes them, which may be one of Keras' on labels."""
    loss, name = _loss(model)
    if not name.startswith("categorical") and not _of_task(model, loss):
        return labels
    if isinstance(labels, tuple | list):
        return type(labels)(as_compiled(model, one, images) for one in labels)
    return tasks.of(model).targets(labels, model.outputs[0].shape[-1], images)


def learns_labels(model: Any) -> bool:
    """Whether labels are held to what the network's head can learn: the loss is its task's, or cross-entropy over
    classes. That of another loss is its user's affair."""
    loss, name = _loss(model)
    return _of_task(model, loss) or ("crossentropy" in name and "binary" not in name)


def _loss(model: Any) -> tuple[Any, str]:
    """(loss as `compile` was given it, of several the head's; its name)."""
    loss = next(iter(model.loss), None) if isinstance(model.loss, list | tuple) else model.loss
    return loss, loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")


def _of_task(model: Any, loss: Any) -> bool:
    """Whether a loss is of a kind that the network's task makes itself."""
    return type(loss) in {
        type(make(from_logits=True, label_smoothing=0.0, weights=None, scale=((0.0,), (1.0,))))
        for make in tasks.of(model).LOSSES.values()
    }
