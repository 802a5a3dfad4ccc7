"""The requests table's database: connecting, migrating, and transactions that writers take one after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from export_pipeline.errors import BadInputError, ExportPipelineError

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_WAIT_SECONDS = 30
_KEPT_CONNECTIONS = 15
"""As many as there are callers at a time, as a rule: one that is opened for a single call costs more than the call."""

_MIGRATION_LOCK = 6_301_172_041  # any number, the same for all of us


class RequestsDatabaseError(ExportPipelineError):
    """The requests table's database cannot be opened or written."""

    code = "requests_database"


@contextmanager
def database_errors() -> Iterator[None]:
    """Raise SQLAlchemy's errors as ours, without the statement's parameters, which hold uids."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = type(getattr(error, "orig", None) or error).__name__
        raise RequestsDatabaseError(
            f"the requests table's database failed ({reason}); check EXPORT_PIPELINE_REQUESTS_URL, "
            "or the permissions and space of DAGSTER_HOME"
        ) from None


def open_database(url: str) -> Engine:
    """Return an engine for ``url`` whose schema is up to date.

    Raises BadInputError for a URL that is none, RequestsDatabaseError where the database cannot be opened.
    """
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=not url.startswith("sqlite"),
            pool_size=_KEPT_CONNECTIONS,
        )
    except (ArgumentError, ImportError, ValueError):
        # The message repeats the URL, and a URL may hold a password.
        raise BadInputError(
            "EXPORT_PIPELINE_REQUESTS_URL is not a SQLAlchemy URL with an installed driver; "
            "it looks like postgresql+psycopg://user:password@host/database"
        ) from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    with database_errors():
        _migrate(engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    path = engine.url.database
    if path and path != ":memory:":
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Path(path).touch(mode=0o600)  # it holds uids; SQLite gives its other files the same mode
        except OSError as error:
            raise RequestsDatabaseError(f"{Path(path).parent}: {(error.strerror or 'no access').lower()}") from None

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, see below
        connection.execute(f"PRAGMA busy_timeout = {_LOCK_WAIT_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A deferred transaction that reads first and writes later fails at once when another one wrote between.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":  # as readers have it
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if _version(connection) == _newest_version():
            return
    from alembic import command  # imported here: needed once in the life of a database
    from alembic.util import CommandError

    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        configuration = _alembic_configuration()
        configuration.attributes["connection"] = connection
        try:
            command.upgrade(configuration, "head")
        except CommandError:
            raise RequestsDatabaseError(
                "the requests table was made by a newer version of export-pipeline; install that one"
            ) from None


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@cache
def _newest_version() -> str:
    # The names sort by age: 0001_…, 0002_….
    newest = max(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    return newest.partition("_")[0]


def _alembic_configuration() -> Any:
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    return configuration
