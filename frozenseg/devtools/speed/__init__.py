"""Time and memory of the stages of prediction and training, for `frozenseg benchmark`."""
