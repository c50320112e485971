"""What a network costs, and pictures of how it does."""

from keras_cnn.insight.costs import profile

__all__ = ["profile"]
