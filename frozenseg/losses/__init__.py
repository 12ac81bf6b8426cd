"""The training losses of both model families, including the matching of queries and objects."""
