"""Hooks of a training: atomic checkpoints, finite losses, agreement between processes, curves."""
