"""The network, its sizes and its groups of tokens. :mod:`.ops` contains kernels for CPUs."""
