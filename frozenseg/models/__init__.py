"""The two model families, FrozenSeg and Fusioner, and the parts that they train."""
