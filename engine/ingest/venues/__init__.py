"""What venues say and mean: streams, markets, messages."""
