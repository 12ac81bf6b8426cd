"""Datasets: from files of images and annotations to samples, and the table of benchmarks."""
