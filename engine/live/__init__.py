"""The LIVE gate: what a proof bundle attests, and what really runs."""
