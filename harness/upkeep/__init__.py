"""What an operator does by hand: back up, publish evidence."""
