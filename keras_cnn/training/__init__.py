"""Training: from scratch, fine-tuning, the studies around them, and the state of a run on disk."""
