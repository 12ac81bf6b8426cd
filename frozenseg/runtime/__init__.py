"""How models run: precision, compilation, CPU memory, fused layers, background threads."""
