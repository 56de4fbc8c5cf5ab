"""From ticks to orders: strategy, risk, execution."""
