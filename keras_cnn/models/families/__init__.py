"""One file a family: a Spec with its recipe, and `VARIANTS`, the published networks as data."""
