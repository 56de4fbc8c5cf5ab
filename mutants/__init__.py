"""Generated mutants of engine, harness and units, and which proof catches each: `make mutants`."""
