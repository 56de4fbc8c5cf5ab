"""Everything that runs, breaks, watches and judges an engine. It never imports the engine."""
