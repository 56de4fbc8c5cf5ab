"""Which resource is under pressure, and which unit causes it."""
