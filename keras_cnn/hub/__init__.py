"""Where weights come from and go to."""

from keras_cnn.hub.publishing import publish
from keras_cnn.hub.pulling import pull
from keras_cnn.hub.resolve import resolve

__all__ = ["publish", "pull", "resolve"]
