"""What can be seen of a running engine, and the one judgement of its health."""
