"""Proof bundles: what they state of an installation, signed and verified."""
