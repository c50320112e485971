"""What a network has for nothing, or lacks: found in its graph, told by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_cnn.insight.lint_rules import RULES
from keras_cnn.insight.uses import uses
from keras_cnn.models.fields import known_options

if TYPE_CHECKING:
    import keras


@known_options
@dataclass(frozen=True)
class Finding:
    """One thing that a layer has for nothing, or lacks.

    layer: its name; in a nested model "model/layer". rule: a name of `lint_rules.RULES`. message: one sentence, with
    the mend. parameters: those that could be left out, the function being the same; None where that has no meaning.
    """

    layer: str
    rule: str
    message: str
    parameters: int | None = None


@known_options
def lint(model: keras.Model) -> list[Finding]:
    """What could be left out of a functional or built sequential Keras model, or is missing in it, by layer.

    Findings are advice: each is true of the model, and may yet be meant, as a published network's layers are. They come
    in the order of the graph. Nested models are entered; a layer with several uses is judged by all of them. Rules:

    linear-linear: a convolution or dense layer behind another with nothing between, so that both are one linear map.
        Silent where the first has fewer outputs than the first has inputs and the second outputs, or where one is
        depthwise and the other pointwise: both have a reason, fewer parameters.
    missing-activation: the same with a batch norm between, which is linear at prediction. The linear bottlenecks of
        MobileNetV2 (1801.04381, section 3.2) and EfficientNet are the exception above.
    affine-norm: a norm whose output goes to linear maps alone: these could hold its gamma, and mostly its beta.
    bias-before-norm: a bias whose every way leads into a batch or instance norm, which subtracts it again (1502.03167,
        section 3.2); through sums too, as in residual networks with pre-activation. Layer and group norm subtract a
        mean over channels, which leaves a bias there; so do zeros that are padded in between.
    untrained-norm: a batch norm that uses stored statistics, which are still mean 0 and variance 1.
    dropout-before-norm: the variance that a batch norm stores is that under dropout, and at prediction it is another
        (Li et al. 2018, 1801.05134).
    stride-of-one: a stride along an axis that has one position: images are too small, or strides too many.
    half-output: outputs in float16 or bfloat16, whose digits scores and losses need.
    lambda-layer: Python code in the model, which `keras.saving.load_model` refuses to read.
    no-xla: a layer that XLA cannot compile, so that Keras compiles none of the model.

    Raises BadSpec for a model without a graph, as a subclassed one is.

    >>> import keras
    >>> import keras_cnn as kc
    >>> layers = [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(4, name="b")]
    >>> [(found.layer, found.rule, found.parameters) for found in kc.lint(keras.Sequential(layers))]
    [('b', 'linear-linear', 176)]
    """
    found = [
        Finding(use.name, rule, *told)
        for use in uses(model)
        for rule, judge in RULES.items()
        if (told := judge(use)) is not None
    ]
    return list(dict.fromkeys(found))  # a layer with several uses is told of once
