"""Many engines on many hosts: ledgers into one replicated stream, and from there into one database."""
