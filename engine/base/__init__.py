"""What every room of the engine stands on: errors and exit codes, events, channels, metrics, logs, notices."""
