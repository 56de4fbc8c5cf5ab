"""What an operator does by hand: all engines at once, back up, publish evidence."""
