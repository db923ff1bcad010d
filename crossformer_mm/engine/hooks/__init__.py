"""Training hooks: atomic checkpoints, finite losses, means over processes, curves."""
