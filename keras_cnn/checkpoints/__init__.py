"""Arrays and models: the weights directory, its card, foreign formats."""
