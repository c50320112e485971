"""Networks for prediction only."""
