"""What presses a computer, and which unit causes it."""
