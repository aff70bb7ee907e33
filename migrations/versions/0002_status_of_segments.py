"""How each process left a run, so that a run of several ends as the worst of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A column that is NULL in what older trackers write."""
    op.add_column("segments", sa.Column("status", sa.Text))
