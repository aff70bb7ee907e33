"""The database: schema, opening, writing and reading. Callers see records only; nothing else imports SQLAlchemy."""
