"""Models outside Python: the network as a graph of one input size, checked against the model."""
