"""The commands, one file each, and the hooks and loops that a training uses."""
