"""The embedded MongoDB: a real server, alone, for demos and tests.

It runs as a replica set of one (snapshot reads need a replica set) on a free port of 127.0.0.1, in a folder of
its own, and is gone, folder included, when its owner ends.
"""

import importlib.util
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from export_pipeline.errors import ExportPipelineError
from export_pipeline.guardian import Guarded

START_TIMEOUT = 60.0
_ALREADY_INITIALIZED = 23


class EmbeddedMongoError(ExportPipelineError):
    """The embedded server cannot be had here; the message says what to do instead."""

    code = "embedded_mongo"


def find_server() -> Path:
    """Return the path of the ``mongod`` that the ``demo`` extra installs.

    Raises EmbeddedMongoError where that wheel is not installed or does not exist.
    """
    package = importlib.util.find_spec("fiftyone")
    for folder in package.submodule_search_locations or () if package else ():
        server = Path(folder) / "db" / "bin" / "mongod"
        if server.exists():
            return server
    raise EmbeddedMongoError(
        "there is no embedded MongoDB here: it comes with the extra 'demo' "
        "(pip install 'export-pipeline[demo]') and only for Linux on x86-64. "
        "Elsewhere, set EXPORT_PIPELINE_MONGO_URI to a replica set of yours"
    )


@contextmanager
def embedded_mongo(
    *, replica_set: bool = True, parameters: dict[str, str] | None = None, logins: bool = False
) -> Iterator[str]:
    """Run a server while the block runs; yields its connection string.

    ``replica_set=False`` gives a standalone server, which cannot read at one point in time; ``parameters`` are
    MongoDB's server parameters (``--setParameter``). With ``logins`` the server asks who comes; the connection string
    names nobody, who may make the first user and nothing more.
    """
    server = find_server()
    folder = Path(tempfile.mkdtemp(prefix="export_pipeline_mongo_"))
    data = folder / "data"
    data.mkdir()
    port = free_port()
    command = [
        *(str(server), "--dbpath", str(data), "--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--unixSocketPrefix", str(folder), "--wiredTigerCacheSizeGB", "1"),
        *(("--replSet", "rs0") if replica_set else ()),
        *(word for item in (parameters or {}).items() for word in ("--setParameter", "=".join(item))),
    ]
    if logins:  # members of a replica set know each other by a key
        key = folder / "key"
        key.write_text(secrets.token_hex(32))
        key.chmod(0o600)
        command += ["--keyFile", str(key)]
    log = folder / "mongod.log"
    log.touch()
    # Open from the start: where the server cannot start, the folder is gone before its last words are read.
    with log.open(errors="replace") as words, Guarded(command, log=log, remove=folder) as process:
        uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        _wait_until_writable(uri, process, words, replica_set=replica_set)
        yield uri


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_writable(uri: str, process: Guarded, words: TextIO, *, replica_set: bool) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    with MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=500) as client:
        while time.monotonic() < deadline:
            if process.ended() is not None:
                raise EmbeddedMongoError(_why_not(words))
            try:
                hello = client.admin.command("hello")
                if hello["isWritablePrimary"]:
                    return
                if replica_set and not hello.get("setName"):
                    _initiate(client, uri)
            except PyMongoError:
                pass  # not listening yet
            time.sleep(0.05)
    raise EmbeddedMongoError(f"the embedded MongoDB did not become writable within {START_TIMEOUT:.0f} s")


def _initiate(client: "MongoClient[dict[str, object]]", uri: str) -> None:
    host = uri.removeprefix("mongodb://").partition("/")[0]
    configuration = {"_id": "rs0", "members": [{"_id": 0, "host": host}]}
    try:
        client.admin.command("replSetInitiate", configuration)
    except OperationFailure as error:
        if error.code != _ALREADY_INITIALIZED:
            raise


def _why_not(words: TextIO) -> str:
    """Say why the server ended, from the end of its log."""
    last_words = words.read().strip().splitlines()[-1:]
    advice = (
        "on Debian or Ubuntu, 'apt-get install libcurl4 libssl3' gives what it needs; "
        "or set EXPORT_PIPELINE_MONGO_URI to a server of yours"
    )
    return f"the embedded MongoDB did not start ({' '.join(last_words) or 'no log'}); {advice}"
