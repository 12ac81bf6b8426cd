"""How models are run: precision, compilation, CPU memory, fused layers, background threads."""
