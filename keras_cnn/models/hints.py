"""What people write who come from elsewhere, and what to write here: data for the errors of `fields.known_options`."""

from __future__ import annotations

_CLASSES = "write classes=, a number or the names"
_COMPILE = "write model.compile(...) as with any Keras model, or leave it to kc.fine_tune or kc.train"
_HEAD = "write classes=0 for pooled features, or head=kc.Head(...) for another head"
_CHANNELS = "write input_shape=(height, width, channels)"
_FEATURES = "write kc.features(model, ['stage2', 'stage4']) once the network is built"
_TAG = "name a tag, as in build('resnet50.a1_in1k'); kc.list_models(pretrained=True) has them all"
_METRICS = "what counts is the figure of the network's task; for others, use model.compile and model.evaluate"
_DATA = "write kc.load_data(..., {}=) where the data is loaded"
_BATCHES = "the steps of an epoch follow from the data: give a smaller data set"
_NUMBERS = "name the layers by stage, by share or by regular expression, as kc.freeze does"

# Options of `fine_tune` and `train` that had another name in earlier releases.
RENAMED = {
    "rate": "learning_rate",
    "head_rate": "head_learning_rate",
    "decay": "layer_decay",
    "smoothing": "label_smoothing",
    "cycle": "warmup",
}

# By function, and in the last place for all: words that are no options, and what stands for them.
HINTS: dict[str, dict[str, str]] = {
    "build": {
        "include_top": _HEAD,
        "pooling": "write head=kc.Head(classes=0, pooling='max'); 'avg' is what classes=0 gives",
        "input_tensor": "call the built network on the tensor: model(x)",
        "num_classes": _CLASSES,
        "nb_classes": _CLASSES,
        "class_names": _CLASSES,
        "pretrained": _TAG,
        "checkpoint_path": "write weights=FILE, or give the weights directory as the name",
        "pretrained_cfg": "write preprocess=kc.Preprocess(...), or give the weights directory as the name",
        "in_chans": _CHANNELS,
        "in_channels": _CHANNELS,
        "img_size": _CHANNELS,
        "input_size": _CHANNELS,
        "features_only": _FEATURES,
        "out_indices": _FEATURES,
        "global_pool": "write head=kc.Head(classes=..., pooling='max')",
        "dropout": "write drop_rate=",
        "dropout_rate": "write drop_rate=",
        "drop_connect_rate": "write drop_path_rate=",
        "act_layer": "write act=, the name of a Keras activation",
        "activation": "write act= for all layers, classifier_activation= for the output",
        "norm_layer": "write norm=, such as 'group:32'",
        "data_format": "images are (batch, height, width, channels), always",
        "trainable": "write freeze=, such as 'stage3' or 0.5",
        "size": "write input_shape=(size, size, 3)",
        "model_name": "give the name of the architecture first: build('resnet50')",
        "optimizer": _COMPILE,
        "loss": _COMPILE,
        "learning_rate": _COMPILE,
    },
    "fine_tune": {
        **{old: f"write {new}=" for old, new in RENAMED.items()},
        "cycle": "write warmup=, the share of a phase in which the rate rises: 0.2 for 'one-cycle', 0.05 for 'cosine'",
        "lr": "write learning_rate=, and head_learning_rate= for the head alone",
        "base_lr": "write learning_rate=, and head_learning_rate= for the head alone",
        "lr_decay": "write layer_decay=",
        "freeze": "write above=, the last stage that stays frozen; or schedule='head' for the head alone",
        "freeze_epochs": "write head_epochs=",
        "metrics": _METRICS,
        "optimizer": "each stage has an AdamW: learning_rate=, weight_decay= and ema= are its options",
        "early_stopping": "write patience=",
        "scheduler": "write schedule= for what learns when, warmup= for the course of the rate",
        "warmup_epochs": "write warmup=, a share of the steps of each phase",
        "augment": _DATA.format("augment"),
        "validation_split": _DATA.format("val_split"),
        "shuffle": "training images are in another order in each epoch, given by seed=",
        "output_dir": "write out=",
        "x": "give images and labels without a name: fine_tune(model, images, labels)",
        "y": "give images and labels without a name: fine_tune(model, images, labels)",
        "steps_per_epoch": _BATCHES,
    },
    "train": {
        **{old: f"write {RENAMED[old]}=" for old in ("rate", "smoothing")},
        "lr": "write learning_rate=",
        "metrics": _METRICS,
        "freeze": "write kc.freeze(model, ...) before",
        "recipe": "a recipe tells build and load_data too: write recipe = kc.Recipe.of(...), and options=recipe.train",
        "schedule": "that is of kc.fine_tune; annealing= is the course of the learning rate of train",
        "augment": _DATA.format("augment"),
        "validation_split": _DATA.format("val_split"),
        "shuffle": "data sets shuffle themselves, and arrays are shuffled",
        "output_dir": "write out=",
        "x": "give images and labels without a name: train(model, images, labels)",
        "y": "give images and labels without a name: train(model, images, labels)",
        "steps_per_epoch": _BATCHES,
    },
    "lr_find": {
        "start_lr": "write low=",
        "min_lr": "write low=",
        "end_lr": "write high=",
        "max_lr": "write high=",
        "num_it": "write steps=",
        "num_iter": "write steps=",
        "loss": "compile the model with it before",
        "optimizer": "compile the model with it before",
        "learning_rate": "write low= and high=, the ends of the range",
        "epochs": "write steps=, the number of batches",
    },
    "load_data": {
        "image_size": "the size is that of the network: kc.build(..., input_shape=(size, size, 3))",
        "size": "the size is that of the network: kc.build(..., input_shape=(size, size, 3))",
        "validation_split": "write val_split=",
        "label_mode": "write task=, where the data could be meant otherwise than it is understood",
        "flip": "write mirror=",
        "horizontal_flip": "write mirror=",
        "sep": "write kc.Table(..., separator=...) as the data",
        "root": "write kc.Table(..., root=...) as the data",
        "shuffle": "training images are in another order in each pass, given by seed=",
        "transform": "write augment=",
        "color_mode": "write channels=: 1, 3 or 4",
    },
    "save_pretrained": dict.fromkeys(
        ("metrics", "data", "command", "license", "limits", "source"), "write provenance={{'{0}': ...}}"
    ),
    "freeze": {
        "stage": "write upto=",
        "layers": _NUMBERS,
        "above": "write unfreeze(model, above=...)",
    },
    "unfreeze": {
        "stage": "write above=",
        "layers": _NUMBERS,
        "upto": "write freeze(model, upto=...)",
    },
    "features": {
        "out_indices": "give the names of stages: features(model, ['stage2', 'stage4'])",
        "layers": "give the names of stages: features(model, ['stage2', 'stage4'])",
        "pooling": "write kc.build(..., classes=0) for pooled features",
    },
    "replace_head": {
        "classes": "give the number, the names or a Head: replace_head(model, 5)",
        "num_classes": "give the number, the names or a Head: replace_head(model, 5)",
    },
    "list_models": {
        "filter": "give a wildcard: list_models('resnet*')",
        "module": "give a wildcard: list_models('resnet*')",
    },
    "Head": {
        "num_classes": "write classes=",
        "units": "write classes= for the classifier, hidden= for the layers before it",
        "drop_rate": "write dropout=",
        "dropout_rate": "write dropout=",
        "global_pool": "write pooling=",
        "classifier_activation": "write activation=",
    },
    "UNet": {
        "num_classes": "write classes=",
        "decoder_channels": "write decoder=, the channels of its stages from the deepest",
        "encoder_name": "name the backbone first: build('resnet50_unet') or build('resnet50', head=kc.UNet(...))",
        "encoder_weights": "write build('resnet50_unet', weights='resnet50.a1_in1k')",
        "interpolation": "write upsample=",
        "drop_rate": "write dropout=",
        "dropout_rate": "write dropout=",
        "classifier_activation": "write activation=",
    },
    "Preprocess": {
        "crop_pct": "write crop=",
        "input_size": "write size=(height, width)",
        "crop_mode": "write mode=",
        "variance": "write std=, its square root",
    },
}

# Values that are none here: (function, option, value).
VALUES: dict[tuple[str, str, str], str] = {
    ("build", "weights", "imagenet"): _TAG,
    ("build", "weights", "DEFAULT"): _TAG,
    ("load_data", "task", "binary"): "write 'classification': a network with a binary head takes two classes",
    ("build", "weights", "noisy-student"): "name a tag: kc.list_models('*.ns_*', pretrained=True) has them",
}
