"""Charts, grids, animations, and what the chapters show."""
