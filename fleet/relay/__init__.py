"""From the ledger of one engine into the stream."""
