"""Datasets: where a config's data lies, what its classes are, and whether the files are sound."""
