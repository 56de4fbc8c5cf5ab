"""The repository itself: structure, documents, contract."""
