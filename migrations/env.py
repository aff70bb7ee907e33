"""How Alembic runs the migrations: over the connection, and in the transaction, of tracker.store.opening."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
