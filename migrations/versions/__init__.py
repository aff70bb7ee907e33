"""One file per schema version. Each has table definitions of its own, so that later changes of the code leave it be."""
