"""Networks made ready for prediction."""

from keras_cnn.deploy.folding import fold

__all__ = ["fold"]
