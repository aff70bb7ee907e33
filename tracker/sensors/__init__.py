"""Sources of readings, one module each; each is the only importer of its library."""
