"""Where weights come from and go to."""

from keras_cnn.hub.directory import Source, config_of, save_pretrained
from keras_cnn.hub.resolve import resolve

__all__ = ["Source", "config_of", "resolve", "save_pretrained"]
