"""What an operator may say: names, types, ranges, defaults, and where they are read."""
