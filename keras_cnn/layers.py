"""The layers under the name that `.keras` files written before 0.2 have for them; they live in `models.layers`."""

from keras_cnn.models.layers import HeUniform, Pad, Preprocessing, StackedIdentities

__all__ = ["HeUniform", "Pad", "Preprocessing", "StackedIdentities"]
