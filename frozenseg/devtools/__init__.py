"""Developer tools: speed measurements, comparisons with reference vectors, and fuzzing."""
