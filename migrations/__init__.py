"""Alembic's migrations; in the wheel this folder is the package tracker.migrations."""
