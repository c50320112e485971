"""Where weights come from and go to."""

from keras_cnn.hub.directory import save_pretrained
from keras_cnn.hub.resolve import Source, resolve

__all__ = ["Source", "resolve", "save_pretrained"]
