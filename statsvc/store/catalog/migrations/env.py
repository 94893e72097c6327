"""Run migrations on the connection that statsvc passes in, inside its transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,
    transactional_ddl=False,  # the caller commits the transaction
)
context.run_migrations()
