"""What `evaluate` tells of a network: figures for images that are new to it and, apart, for those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_cnn.cli import console
from keras_cnn.terminal import progress

if TYPE_CHECKING:
    import numpy as np

    from keras_cnn.data.index import Split
    from keras_cnn.training.evaluation import Result

WORST = 10  # mistakes, and confused pairs, that are told


@dataclass
class Answers:
    """What a network made of some images, in order."""

    images: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    @property
    def result(self) -> Result:
        import numpy as np

        from keras_cnn.training.evaluation import Result

        return Result(np.array(self.labels), np.stack(self.rows))


def answers(
    net: Any, config: Any, split: Split, labels: np.ndarray, batch_size: int, skip_bad: bool, trained: set[str]
) -> tuple[Answers, Answers, list[str]]:
    """(answers for new images, answers for those that `trained` has the hashes of, names of unreadable ones).

    labels: the network's number for each class of the split.
    """
    from keras_cnn.data import seen
    from keras_cnn.data.stream import decoded
    from keras_cnn.training import evaluation

    channels = config.channels
    images = decoded(split.sources, config.preprocess, channels=channels, ahead=2 * batch_size, skip_bad=skip_bad)
    found = evaluation.classify(net, images, batch_size)
    new, known, skipped = Answers(), Answers(), []
    truth = labels[split.labels]
    for (source, image, row), label in zip(progress(found, "evaluating", len(truth)), truth, strict=True):
        if row is None:
            skipped.append(source.name)
            console.note(f"left out: {image}")
            continue
        of = known if trained and seen.of(image[None])[0] in trained else new
        of.images.append(source.name)
        of.labels.append(int(label))
        of.rows.append(row)
    return new, known, skipped


def figures(of: Answers) -> dict[str, Any]:
    """Counts and shares, and the interval of each accuracy; of no images, their number alone."""
    if not of.images:
        return {"images": 0}
    result = of.result
    intervals = {f"{key}_interval": list(interval) for key, interval in result.intervals.items()}
    return {"correct": result.correct, **result.metrics, **intervals}


def details(of: Answers, names: Sequence[str]) -> dict[str, Any]:
    """By class, the confusion matrix, the pairs that are confused most, and the worst mistakes."""
    if not of.images:
        return {}
    result = of.result
    classes = [{"class": name, **row} for name, row in zip(names, result.by_class(), strict=True)]
    taken: list[int] = result.predicted.tolist()
    return {
        "classes": [row for row in classes if row["images"] or row["precision"] is not None],
        "confusion": result.confusion().tolist(),
        "confused": [
            {"true": names[true], "predicted": names[predicted], "images": images}
            for true, predicted, images in result.confused()
        ],
        "worst": [
            {
                "image": of.images[i],
                "true": names[of.labels[i]],
                "predicted": names[taken[i]],
                "probability": float(of.rows[i][taken[i]]),
            }
            for i in result.mistakes()[:WORST].tolist()
        ],
    }


def draw(of: Answers, names: Sequence[str], path: Any) -> None:
    """The confusion matrix of the classes that occur."""
    import numpy as np

    from keras_cnn.insight import plots

    result = of.result
    occur: list[int] = np.unique(np.concatenate([result.labels, result.predicted])).tolist()
    plots.confusion_matrix(result.confusion()[np.ix_(occur, occur)], [names[i] for i in occur], path)
