"""Training hooks: atomic checkpoints, checks for finite losses, averages over processes, training curves."""
