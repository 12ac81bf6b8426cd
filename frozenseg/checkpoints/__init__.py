"""Files of weights: published names, strict loading, frozen parts, checkpoints of a training."""
