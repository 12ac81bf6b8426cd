"""Training: the loop, losses of a step, optimiser, log, and processes that train together."""
