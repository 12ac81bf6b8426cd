"""Export models as graphs of one input size that run without Python, checked against the model."""
