"""What a network costs and sees, convolutions as matrices, and pictures of how it does."""

from keras_cnn.insight.costs import profile
from keras_cnn.insight.effective_fields import EffectiveField, effective_field
from keras_cnn.insight.linear_maps import (
    checkerboard,
    conv_matrix,
    kernel_gradient,
    transposed_as_convolution,
    transposed_output_shape,
)
from keras_cnn.insight.receptive_fields import ReceptiveField, receptive_field

__all__ = [
    "EffectiveField",
    "ReceptiveField",
    "checkerboard",
    "conv_matrix",
    "effective_field",
    "kernel_gradient",
    "profile",
    "receptive_field",
    "transposed_as_convolution",
    "transposed_output_shape",
]
