"""The engine's own modules, judged in process."""
