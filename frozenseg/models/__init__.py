"""The two model families, FrozenSeg and Fusioner, and the modules that are trained."""
