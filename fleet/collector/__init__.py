"""From the stream into PostgreSQL."""
