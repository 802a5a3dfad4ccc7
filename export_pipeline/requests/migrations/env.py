"""Alembic's entry point; ``database.open_database`` runs it with a connection whose transaction it owns."""

from alembic import context

from export_pipeline.requests.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
