"""The live page, its health check and its metrics."""
