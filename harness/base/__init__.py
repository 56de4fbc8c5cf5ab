"""What every room of the harness stands on; imports nothing of ours from elsewhere."""
