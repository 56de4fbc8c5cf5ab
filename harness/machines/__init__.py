"""Private, host and user machines, and the units that run on them."""
