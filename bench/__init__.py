"""What the engine costs: ratios against the least code that could do it, and against other people's (`make bench`)."""
