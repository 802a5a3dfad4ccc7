"""The requests table: its schema and migrations, and each change of a request's state as one transaction."""
