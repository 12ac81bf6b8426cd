"""The measurements of `frozenseg measure_gpu` on a GPU, one module for each section."""
