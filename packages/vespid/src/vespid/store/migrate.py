"""The schema's steps: Alembic keeps the account, each step is two plain SQL files.

A step is `NNNN_name.py` with `revision`, `down_revision` and two one-line functions that call `run_sql`, beside
`NNNN_name.up.sql` and `NNNN_name.down.sql`. All steps of one call are one transaction. Two migrators of one database
wait for each other; roles belong to the whole cluster, so a step that makes one must put up with finding it made.
"""

import asyncio
import hashlib
from pathlib import Path

import psycopg
import structlog
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from vespid.store.pool import MIGRATIONS, DatabaseUnavailable

log = structlog.get_logger("vespid.store.migrate")

# Any number will do, so long as it is always this one.
_MIGRATOR_LOCK = 0x7665_7370_6964

_NOTHING = "base"


class MigrationFailed(Exception):
    """A step could not be carried out; the schema is as it was."""


async def migrate(url: str, target: str = "head") -> str:
    """Bring the database to a revision, up or down, and answer the one it is at (`base` for an empty one).

    `url` must name a login that owns the database and is a member of our two roles, or may make them; what an
    administrator has to do first is told by the error. Raises DatabaseUnavailable, MigrationFailed.
    """
    return await asyncio.to_thread(migrate_blocking, url, target)


def migrate_blocking(url: str, target: str = "head") -> str:
    """`migrate` for those who have no event loop."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"select pg_advisory_lock({_MIGRATOR_LOCK})")
            connection.commit()
            config = _config(connection)
            steps = ScriptDirectory.from_config(config)
            current = _revision_of(connection)
            _require_same_steps(connection, steps, current)
            _move(config, steps, current, target)
            reached = _revision_of(connection)
            _remember_steps(connection, steps, reached)
            return reached
    except (SQLAlchemyError, psycopg.Error, CommandError) as error:
        raise MigrationFailed(_told(getattr(error, "orig", None) or error)) from error
    finally:
        engine.dispose()


def run_sql(step: str, direction: str) -> None:
    """Run the SQL file beside a step's Python file: `run_sql(__file__, "up")`."""
    sql = Path(step).with_suffix(f".{direction}.sql").read_text("utf-8")
    driver_connection = op.get_bind().connection.driver_connection
    if not isinstance(driver_connection, psycopg.Connection):
        raise TypeError("migrations run through psycopg")
    # Without parameters psycopg sends the text as it is: several statements, and % and : mean themselves.
    driver_connection.execute(sql.encode())


def _connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    try:
        return psycopg.connect(url, connect_timeout=10, application_name="vespid-migrate")
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error}") from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _require_same_steps(connection: Connection, steps: ScriptDirectory, current: str) -> None:
    """Raises MigrationFailed where the steps that made this schema were not those that are here."""
    if current == _NOTHING:
        return
    if current not in {step.revision for step in steps.walk_revisions()}:
        # A newer version's: what becomes of it is told by the move.
        return
    made_by = connection.exec_driver_sql("select obj_description('alembic_version'::regclass)").scalar()
    connection.rollback()
    if made_by != _digest(steps, current):
        raise MigrationFailed(
            f"the schema at {current} was made by an unreleased version of Vespid, with other steps than these."
            " Nothing was changed. Use a new database, which for `vespid up` and the demo is a new data folder"
        )


def _remember_steps(connection: Connection, steps: ScriptDirectory, current: str) -> None:
    """Beside the revision stands what made it: a step that is changed after it was taken would never be noticed."""
    connection.exec_driver_sql(f"comment on table alembic_version is '{_digest(steps, current)}'")
    connection.commit()


def _digest(steps: ScriptDirectory, revision: str) -> str:
    """Of all steps up to a revision, as they are in the files."""
    taken = [] if revision == _NOTHING else list(steps.iterate_revisions(revision, _NOTHING))
    digest = hashlib.sha256()
    for step in reversed(taken):
        digest.update(Path(step.path).with_suffix(".up.sql").read_bytes())
    return f"steps {digest.hexdigest()}"


def _move(config: Config, steps: ScriptDirectory, current: str, target: str) -> None:
    if _is_behind(steps, target, current):
        log.info("migrating_down", current=current, target=target)
        command.downgrade(config, target)
    else:
        log.info("migrating_up", current=current, target=target)
        command.upgrade(config, target)


def _told(error: BaseException) -> str:
    # What our own checks say is whole; where in a function they said it helps nobody.
    told = error.diag.message_primary if isinstance(error, psycopg.errors.InsufficientPrivilege) else None
    return told or str(error)


def _is_behind(steps: ScriptDirectory, target: str, current: str) -> bool:
    if target == _NOTHING:
        return True
    if current == _NOTHING:
        return False
    passed = {step.revision for step in steps.iterate_revisions(current, _NOTHING)}
    return target in passed - {current}


def _revision_of(connection: Connection) -> str:
    revision = MigrationContext.configure(connection).get_current_revision()
    # Reading began a transaction; the next step wants to begin its own.
    connection.rollback()
    return revision or _NOTHING
