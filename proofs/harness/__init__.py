"""The harness's own modules."""
