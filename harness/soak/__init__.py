"""The soak controller: observe, decide, act, put back, report."""
