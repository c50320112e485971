"""Transfer learning: heads, freezing, fine-tuning."""

from keras_cnn.transfer.batchnorm import recalibrate_batchnorm
from keras_cnn.transfer.expectations import study
from keras_cnn.transfer.finder import lr_find
from keras_cnn.transfer.finetune import fine_tune
from keras_cnn.transfer.freeze import freeze, stages, trainable_table, unfreeze
from keras_cnn.transfer.head import features, replace_head
from keras_cnn.transfer.probing import probe

__all__ = [
    "features",
    "fine_tune",
    "freeze",
    "lr_find",
    "probe",
    "recalibrate_batchnorm",
    "replace_head",
    "stages",
    "study",
    "trainable_table",
    "unfreeze",
]
