"""Where a run is taken to be, and the carbon intensity that prices it; each value with its provenance."""
