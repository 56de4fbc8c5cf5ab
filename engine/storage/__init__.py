"""The database: its files, its schema, its batches."""
