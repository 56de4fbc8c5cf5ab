"""Fixtures of the proofs; the plugin in harness/ brings machine, shell and journal."""

pytest_plugins = ["proofs.fixtures.engine_unit", "proofs.fixtures.soak_run"]
