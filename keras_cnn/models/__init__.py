"""What a network is: its numbers, the recipes of the families, and what is made of them: Keras layers, or counts."""
