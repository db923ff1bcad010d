"""The commands, one file each, and the training loops and hooks."""
