"""The Keras layers that Keras lacks; each is registered under `keras_cnn` and serialisable."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("keras_cnn")
class Preprocessing(keras.layers.Layer):
    """Turns raw 0..255 pixels into what the weights expect, and carries the network's record.

    Input and output (batch, height, width, channels), or (batch, time, channels); the output is float32,
    `(x / full - mean) / std`, whatever the dtype policy, because bfloat16 cannot hold normalised pixels to the digit.

    mean, std: one a channel, in units of 0..1.
    record: the JSON of `config.Config`: architecture, head, class names, evaluation crop, provenance. It lives
        here so that a plain saved `.keras` file still knows what it is.
    full: the value that becomes 1: 255 of pixels. Sequences have 1, mean 0 and std 1, which leaves them as they are.
    """

    def __init__(
        self, mean: Any, std: Any, record: dict[str, Any] | None = None, full: float = 255.0, **kwargs: Any
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self.mean, self.std, self.record, self.full = tuple(mean), tuple(std), record or {}, full
        self._scale = 1.0 / (full * np.asarray(self.std, "float64"))
        self._shift = -np.asarray(self.mean, "float64") / np.asarray(self.std, "float64")

    def call(self, x: Any) -> Any:
        scale, shift = (cast(Any, ops.convert_to_tensor(part, "float32")) for part in (self._scale, self._shift))
        return ops.cast(x, "float32") * scale + shift  # tensors, since torch has no gradients through NumPy

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"mean": self.mean, "std": self.std, "record": self.record, "full": self.full}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_cnn")
class Standardise(keras.layers.Layer):
    """Shifts and scales the last axis to mean 0 and spread 1, with statistics of the training data; float32.

    Input and output (batch, ..., channels). The weights `mean` and `std`, 0 and 1 until the data is known, do not
    learn; they are saved and published like all others.
    inverse: from mean 0 and spread 1 to the unit of the data, as the output of a regression.
    """

    def __init__(self, inverse: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "trainable": False})
        self.inverse = inverse

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1],)
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.std = self.add_weight(shape=shape, initializer="ones", trainable=False, name="std")

    def call(self, x: Any) -> Any:
        x = ops.cast(x, "float32")
        return x * self.std + self.mean if self.inverse else (x - self.mean) / self.std

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inverse": self.inverse}


@keras.saving.register_keras_serializable("keras_cnn")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' own (1502.03167), whose step of training is one operation of TensorFlow, and its gradient another.

    Keras 3 writes it in a dozen operations, which read and write the whole map each: on a CPU, where XLA does not join
    them, a training step takes up to half as long again. In all other cases Keras' own runs.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        learns = training and self.trainable
        plain = mask is None and not (self.synchronized or self.renorm) and self.axis in (-1, len(inputs.shape) - 1)
        if not (learns and plain and self.scale and self.center and _joins_nothing()):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        maps = inputs if len(inputs.shape) == 4 else tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1]))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=maps, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon
        )
        # What it gives is divided by the number of values less one; Keras keeps what divides by their number.
        count = tf.cast(tf.reduce_prod(tf.shape(maps)[:-1]), "float32")
        of_all: Any = (self.moving_mean, mean), (self.moving_variance, variance * (1 - 1 / count))
        for moving, now in of_all:
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs if maps is inputs else tf.ensure_shape(tf.reshape(outputs, tf.shape(inputs)), inputs.shape)


def _joins_nothing() -> bool:
    """Whether operations run one by one: by TensorFlow without GPUs, for which Keras has XLA join them."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


class WeightStandardised(keras.layers.Layer):
    """What the convolutions below share; Keras' own keeps the kernel as it is learnt, and so does every file of it."""

    PLAIN: type  # Keras' layer, which computes the same with the standardised kernel
    OUTPUTS = 1  # last axes of a kernel whose entries are outputs
    CONVOLVE = staticmethod(ops.conv)

    def __init__(self, *args: Any, epsilon: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epsilon = epsilon

    def add_weight(self, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Statistics of a kernel in float16 would lose it: it is cast when it is standardised."""
        return super().add_weight(**options, autocast=options["name"] != "kernel")

    def standardised_kernel(self: Any) -> Any:
        """The kernel that inputs meet, of the kernel's shape; float32."""
        kernel: Any = ops.convert_to_tensor(self.kernel)
        axes = list(range(len(kernel.shape) - self.OUTPUTS))
        mean, variance = cast(Any, ops.moments(kernel, axes, keepdims=True))
        return (kernel - mean) * ops.rsqrt(variance + self.epsilon)

    def call(self: Any, inputs: Any) -> Any:
        x, padding = inputs, self.padding
        if padding == "causal":
            x, padding = ops.pad(x, self._compute_causal_padding()), "valid"
        options = {"strides": self.strides, "dilation_rate": self.dilation_rate, "data_format": self.data_format}
        x = self.CONVOLVE(x, ops.cast(self.standardised_kernel(), self.compute_dtype), padding=padding, **options)
        if self.use_bias:
            last = self.data_format == "channels_last"
            x += ops.reshape(self.bias, (-1,) if last else (-1, *[1] * self.rank))
        return x if self.activation is None else self.activation(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}

    def plain_config(self) -> dict[str, Any]:
        """Of the `PLAIN` layer that stands for this one."""
        return super().get_config()


@keras.saving.register_keras_serializable("keras_cnn")
class StandardisedConv2D(WeightStandardised, keras.layers.Conv2D):
    """Convolution whose kernel has mean 0 and variance 1 for each filter (Qiao et al. 2019, 1903.10520, section 3.1).

    The weight `kernel` learns as always; what inputs meet is (kernel - mean) / sqrt(variance + epsilon), with the mean
    and variance of each filter over height, width and input channels. Gradients pass through both. A norm should
    follow: the outputs are larger than the inputs by the root of the number of weights of a filter.
    epsilon: added to the variance; the default is that of BiT (timm's `resnetv2_50x1_bit`).
    All else is as in `keras.layers.Conv2D`.
    """

    PLAIN = keras.layers.Conv2D


@keras.saving.register_keras_serializable("keras_cnn")
class StandardisedConv1D(WeightStandardised, keras.layers.Conv1D):
    """`StandardisedConv2D` over time: (batch, time, channels); padding may be "causal"."""

    PLAIN = keras.layers.Conv1D


@keras.saving.register_keras_serializable("keras_cnn")
class StandardisedDepthwiseConv2D(WeightStandardised, keras.layers.DepthwiseConv2D):
    """`StandardisedConv2D` of each channel by itself: the mean and variance of a filter are over height and width."""

    PLAIN = keras.layers.DepthwiseConv2D
    OUTPUTS = 2  # a depthwise kernel is (height, width, channels, multiplier)
    CONVOLVE = staticmethod(ops.depthwise_conv)


@keras.saving.register_keras_serializable("keras_cnn")
def plain_silu(x: Any) -> Any:
    """x * sigmoid(x), for prediction: Keras' own carries a gradient, and that node keeps converters from what they do
    with two plain operations (OpenVINO transposes the maps before and behind each one)."""
    return x * ops.sigmoid(x)


@keras.saving.register_keras_serializable("keras_cnn")
class LastStep(keras.layers.Layer):
    """The last step of sequences: (batch, time, channels) to (batch, channels)."""

    def call(self, x: Any) -> Any:
        return x[:, -1]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], input_shape[-1])


@keras.saving.register_keras_serializable("keras_cnn")
class Pad(keras.layers.Layer):
    """Constant padding of height, width and channels.

    paddings: ((top, bottom), (left, right), (front, back)).
    value: "zero", or "lowest" for -inf, which a max-pool then never picks.
    """

    def __init__(self, paddings: Any, value: str = "zero", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paddings = tuple(tuple(int(n) for n in side) for side in paddings)
        self.value = value

    def call(self, x: Any) -> Any:
        fill = {"zero": 0.0, "lowest": float("-inf")}[self.value]
        return ops.pad(x, ((0, 0), *self.paddings), mode="constant", constant_values=fill)

    def compute_output_shape(self, input_shape: Any) -> Any:
        grow = lambda n, side: None if n is None else n + sum(side)  # noqa: E731
        return (input_shape[0], *(grow(n, side) for n, side in zip(input_shape[1:], self.paddings, strict=True)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "paddings": self.paddings, "value": self.value}


@keras.saving.register_keras_serializable("keras_cnn")
class Fit(keras.layers.Layer):
    """Gives a map another height and width: cropped at its end, or padded with zeros alike at both ends.

    Twice a map of ceil(n / 2) positions is one too long where n is odd, and its last position is the one that stands
    for nothing. Windows without padding lose as much at either end.
    Input (batch, height, width, channels); or a pair, that and a map of any channels that has the wanted size.
    size: (height, width); None where a pair is given, which serves images of any size.
    """

    def __init__(self, size: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size and tuple(size)

    def call(self, x: Any) -> Any:
        x, wanted = (x, (None, *self.size)) if self.size else (x[0], cast(Any, ops.shape(x[1])))
        _, height, width, *_ = wanted
        have: Any = ops.shape(x)
        short: list[Any] = [height - have[1], width - have[2]]
        if not all(isinstance(n, int) and n <= 0 for n in short):
            lost: list[Any] = [max(n, 0) if isinstance(n, int) else ops.maximum(n, 0) for n in short]
            x = ops.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in lost), (0, 0)])
        return x[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> Any:
        own, size = (input_shape, self.size) if self.size else (input_shape[0], input_shape[1][1:3])
        return (own[0], *size, own[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("keras_cnn")
class HeUniform(keras.initializers.Initializer):
    """Kernels of variance 2 / fan_out (He et al. 2015, 1502.01852, section 2.2), drawn uniformly.

    The variance is that of torchvision's and timm's normal kernels. NumPy draws them several times faster than
    TensorFlow, and drawing was the largest part of building a network.
    seed: as in Keras' initialisers, one instance always draws the same; by default from Python's `random`, which
        `keras.utils.set_random_seed` seeds.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.getrandbits(32) if seed is None else seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        limit = math.sqrt(6 / (math.prod(shape[:-2]) * shape[-1]))
        kernel = np.random.Generator(np.random.SFC64(self.seed)).random(shape, dtype="float32")
        kernel -= 0.5
        kernel *= 2 * limit
        return ops.convert_to_tensor(kernel, dtype=dtype or "float32")

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("keras_cnn")
class StackedIdentities(keras.initializers.Initializer):
    """A 1x1 kernel (1, 1, n * channels, channels) that adds up the n tensors whose concatenation it is given."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        channels = shape[-1]
        stack = np.tile(np.eye(channels), (shape[-2] // channels, 1))
        return ops.convert_to_tensor(stack.reshape(shape), dtype=dtype or "float32")
