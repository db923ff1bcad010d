"""The network, its sizes and its groups; :mod:`.ops` has kernels for CPUs."""
