"""The pytest plugin: claims, verdicts, sabotages, and whether evidence stands up."""
