"""Run migrations on the connection that statsvc passes in, inside its transaction."""

from alembic import context

from statsvc.store.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,  # the caller commits the transaction
)
context.run_migrations()
