"""The trading pipeline: ingest -> strategy -> risk + execution -> SQLite. See docs/architecture.md."""

__version__ = "0.1.0"
