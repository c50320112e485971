"""Images from folders, zip files, TFDS and scikit-learn's digits, seen just as the weights expect."""

from keras_cnn.data.batches import Data, load_data
from keras_cnn.data.decoding import Arrays, arrays
from keras_cnn.data.images import load_image, read_image, resize_and_crop
from keras_cnn.data.index import Split, Splits, index

__all__ = [
    "Arrays",
    "Data",
    "Split",
    "Splits",
    "arrays",
    "index",
    "load_data",
    "load_image",
    "read_image",
    "resize_and_crop",
]
