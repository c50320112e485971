"""One file a family: a backbone with its recipe, and `VARIANTS`, the published networks as data."""
