"""The training losses of both model families, matching included."""
