"""A fleet on one computer: hosts that are network namespaces, everything on them real (`make fleet-sim`)."""
