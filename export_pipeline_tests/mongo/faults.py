"""Faults that a real server makes on purpose (it runs with enableTestCommands), and the commands that it was sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent


@contextmanager
def failing(client: MongoClient[dict[str, Any]], *commands: str, **how: Any) -> Iterator[None]:
    """Let the server fail these commands of this project's clients: errorCode=…, closeConnection=…, namespace=…"""
    data = {"failCommands": commands, "appName": "export_pipeline", **how}
    with fail_point(client, "failCommand", data=data):
        yield


@contextmanager
def fail_point(client: MongoClient[dict[str, Any]], name: str, **how: Any) -> Iterator[None]:
    """Keep one of the server's fail points on."""
    client.admin.command({"configureFailPoint": name, "mode": "alwaysOn", **how})
    try:
        yield
    finally:
        client.admin.command({"configureFailPoint": name, "mode": "off"})


class Sent(CommandListener):
    """The reading commands that a client has sent."""

    def __init__(self) -> None:
        self.reads: list[Any] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate"):
            self.reads.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to be done."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to be done."""
