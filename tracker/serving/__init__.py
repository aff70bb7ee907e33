"""The local page of `tracker serve`: reads the database, writes nothing."""
