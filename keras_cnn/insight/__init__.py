"""What a network costs and sees, convolutions as matrices, and pictures of how it does."""

from keras_cnn.insight.costs import profile
from keras_cnn.insight.linear_maps import (
    conv_matrix,
    kernel_gradient,
    transposed_as_convolution,
    transposed_output_shape,
)
from keras_cnn.insight.linting import Finding, lint
from keras_cnn.insight.receptive_fields import ReceptiveField, receptive_field

__all__ = [
    "Finding",
    "ReceptiveField",
    "conv_matrix",
    "kernel_gradient",
    "lint",
    "profile",
    "receptive_field",
    "transposed_as_convolution",
    "transposed_output_shape",
]
