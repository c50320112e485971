"""What a network costs and sees, convolutions as matrices, what speaks for an answer, and pictures of how it does."""

from keras_cnn.insight.costs import profile
from keras_cnn.insight.effective_fields import EffectiveField, effective_field
from keras_cnn.insight.linear_maps import (
    checkerboard,
    conv_matrix,
    kernel_gradient,
    transposed_as_convolution,
    transposed_output_shape,
)
from keras_cnn.insight.linting import Finding, lint
from keras_cnn.insight.maps import Neighbour, feature_maps, filters, maximising_input, nearest_images
from keras_cnn.insight.receptive_fields import ReceptiveField, receptive_field
from keras_cnn.insight.saliency import grad_cam, grad_cam_plus_plus, integrated_gradients, occlusion, score_cam

__all__ = [
    "EffectiveField",
    "Finding",
    "Neighbour",
    "ReceptiveField",
    "checkerboard",
    "conv_matrix",
    "effective_field",
    "feature_maps",
    "filters",
    "grad_cam",
    "grad_cam_plus_plus",
    "integrated_gradients",
    "kernel_gradient",
    "lint",
    "maximising_input",
    "nearest_images",
    "occlusion",
    "profile",
    "receptive_field",
    "score_cam",
    "transposed_as_convolution",
    "transposed_output_shape",
]
