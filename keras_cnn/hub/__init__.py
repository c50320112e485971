"""Where weights come from and go to."""

from keras_cnn.hub.directory import Source, config_of, save_pretrained
from keras_cnn.hub.publishing import publish
from keras_cnn.hub.pulling import pull
from keras_cnn.hub.resolve import resolve

__all__ = ["Source", "config_of", "publish", "pull", "resolve", "save_pretrained"]
