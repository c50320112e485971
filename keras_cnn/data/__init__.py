"""Images and their labels from folders, zip files, tables, TFDS and arrays, seen just as the weights expect."""

from keras_cnn.data.batches import Data, load_data
from keras_cnn.data.decoding import Arrays, arrays
from keras_cnn.data.images import load_image, read_image, resize_and_crop
from keras_cnn.data.index import index
from keras_cnn.data.splits import Split, Splits
from keras_cnn.data.tables import Table

__all__ = [
    "Arrays",
    "Data",
    "Split",
    "Splits",
    "Table",
    "arrays",
    "index",
    "load_data",
    "load_image",
    "read_image",
    "resize_and_crop",
]
