"""Training: the loop, the losses of a step, the optimiser, the log, and distributed processes."""
