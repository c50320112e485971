"""What a network costs and sees, convolutions as matrices, and pictures of how it does."""

from keras_cnn.insight.costs import profile
from keras_cnn.insight.linear_maps import (
    conv_matrix,
    kernel_gradient,
    transposed_as_convolution,
    transposed_output_shape,
)

__all__ = ["conv_matrix", "kernel_gradient", "profile", "transposed_as_convolution", "transposed_output_shape"]
