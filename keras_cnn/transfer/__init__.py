"""Transfer learning: freezing, heads, features that are kept, what they already say of other classes."""

from keras_cnn.transfer.batchnorm import recalibrate_batchnorm
from keras_cnn.transfer.freeze import freeze, stages, trainable_table, unfreeze
from keras_cnn.transfer.head import features, replace_head
from keras_cnn.transfer.probing import probe

__all__ = [
    "features",
    "freeze",
    "probe",
    "recalibrate_batchnorm",
    "replace_head",
    "stages",
    "trainable_table",
    "unfreeze",
]
