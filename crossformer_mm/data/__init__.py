"""Datasets: the paths of a config's data, its classes, and checks of its files."""
