"""What a MongoDB user may not do: the request that needs it fails at once, for good, and says which right to grant."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from export_pipeline.catalog.narrowing import Narrowing
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.mongo.connection import NotAuthorizedError, connect
from export_pipeline.mongo.embedded import embedded_mongo
from export_pipeline.mongo.snapshot import choose_moment
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.settings import Settings

Client = MongoClient[dict[str, Any]]

PASSWORD = "hunter2"
SECRET = "secret-uid"
CATALOG = """
version: 1
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid}
- {name: crashes, plugin: crashes, collection: "app_crashes{app_id}", user_key: uid}
- {name: notes, plugin: notes, collection: "notes{app_id}", user_key: uid, database: private}
"""
WITH_IDENTITY = CATALOG + 'identity: {collection: "people{app_id}", uid: uid}\n'

FIND_USERS = ("find", "countly", "app_usersx")
FIND_CRASHES = ("find", "countly", "app_crashesx")
FIND_NOTES = ("find", "private", "notesx")
FIND_PEOPLE = ("find", "countly", "peoplex")
LIST = (("listCollections", "countly", ""), ("listCollections", "private", ""))
ALL = (FIND_USERS, FIND_CRASHES, FIND_NOTES, FIND_PEOPLE, *LIST)


@dataclass(frozen=True)
class LockedServer:
    """A server that asks who comes."""

    uri: str
    admin: Client

    @contextmanager
    def user(self, *rights: tuple[str, str, str]) -> Iterator[str]:
        """Make a user of a role of its own; yields its connection string."""
        self.admin.admin.command("createRole", "exports", privileges=privileges(rights), roles=[])
        self.admin.admin.command("createUser", "reader", pwd=PASSWORD, roles=["exports"])
        try:
            yield uri_of(self.uri, "reader")
        finally:
            self.admin.admin.command("dropUser", "reader")
            self.admin.admin.command("dropRole", "exports")

    def grant_only(self, *rights: tuple[str, str, str]) -> None:
        """Change what the user may do, as an operator would meanwhile."""
        self.admin.admin.command("updateRole", "exports", privileges=privileges(rights))


def privileges(rights: Sequence[tuple[str, str, str]]) -> list[Mapping[str, Any]]:
    return [
        {"resource": {"db": database, "collection": collection}, "actions": [action]}
        for action, database, collection in rights
    ]


def uri_of(uri: str, user: str, password: str = PASSWORD) -> str:
    return uri.replace("//", f"//{user}:{password}@")


@pytest.fixture(scope="module")
def server() -> Iterator[LockedServer]:
    """A server with logins and some documents."""
    with embedded_mongo(logins=True) as uri:
        with Client(uri) as nobody:
            nobody.admin.command("createUser", "admin", pwd=PASSWORD, roles=["root"])
        with Client(uri_of(uri, "admin")) as admin:
            for database, name in (("countly", "app_usersx"), ("countly", "app_crashesx"), ("private", "notesx")):
                admin[database][name].insert_many([{"uid": SECRET} for _ in range(3)])
            admin["countly"]["peoplex"].insert_one({"uid": SECRET})
            yield LockedServer(uri, admin)


@contextmanager
def installed(uri: str, folder: Path, catalog: str = CATALOG) -> Iterator[Exporter]:
    (folder / "catalog.yaml").write_text(catalog)
    with Exporter(Settings(home=folder / "home", mongo_uri=uri, catalog=folder / "catalog.yaml")) as exporter:
        yield exporter


def claimed(exporter: Exporter, *requests: NewRequest) -> tuple[str, list[str]]:
    """A batch as the sensor makes it, whose requests are tried again where that may help."""
    ids = [exporter.submit(new).id for new in requests]
    batch = Batch(new_id(), tuple(ids))
    assert exporter.requests.claim(batch) == ids
    return batch.id, ids


def packaged(exporter: Exporter, batch_id: str) -> list[Outcome]:
    plan = exporter.plan(batch_id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    return list(exporter.package(plan))


def failed_for_good(request: Request) -> str:
    """The reason of a request that failed at once, and that nobody tries again."""
    assert (request.status, request.error_code, request.retries) == ("failed", "not_authorized", 0)
    assert SECRET not in str(request.error_message)
    assert PASSWORD not in str(request.error_message)
    return str(request.error_message)


def test_a_user_with_the_rights_that_we_ask_for_gets_an_export(server: LockedServer, tmp_path: Path) -> None:
    with server.user(*ALL) as uri, installed(uri, tmp_path) as exporter:
        batch_id, _ = claimed(exporter, NewRequest("x", [SECRET]))
        (outcome,) = packaged(exporter, batch_id)
    assert outcome.error is None
    assert outcome.manifest is not None
    assert outcome.manifest.totals.documents_written == 9


def test_a_missing_right_fails_at_once_those_who_need_the_collection_and_nobody_else(
    server: LockedServer, tmp_path: Path
) -> None:
    with server.user(FIND_USERS, FIND_CRASHES, *LIST) as uri, installed(uri, tmp_path) as exporter:
        batch_id, (needs_all, as_well) = claimed(exporter, NewRequest("x", [SECRET]), NewRequest("x", ["somebody"]))
        outcomes = packaged(exporter, batch_id)
        others, (needs_less,) = claimed(
            exporter, NewRequest("x", [SECRET], narrowing=Narrowing(exclude_collections=("notes",)))
        )
        packaged(exporter, others)
        assert [type(outcome.error) for outcome in outcomes] == [NotAuthorizedError] * 2
        for request_id in (needs_all, as_well):
            assert failed_for_good(exporter.requests.get(request_id)) == (
                "notes: notesx: not authorized; the user of EXPORT_PIPELINE_MONGO_URI needs the right 'find' on "
                "private.notesx (the role 'read' on the database private has it)"
            )
        assert exporter.requests.get(needs_less).status == "completed"
        assert [path.parent.name for path in exporter.settings.home.rglob("export.json")] == [needs_less]


def test_once_the_right_is_granted_a_retry_by_hand_completes_the_requests_together(
    server: LockedServer, tmp_path: Path
) -> None:
    with server.user(FIND_USERS, *LIST) as uri, installed(uri, tmp_path) as exporter:
        batch_id, ids = claimed(exporter, NewRequest("x", [SECRET]), NewRequest("x", ["somebody"]))
        packaged(exporter, batch_id)
        server.grant_only(*ALL)
        for request_id in ids:
            exporter.requests.retry(request_id, "me")
            assert exporter.requests.get(request_id).company is None
        exporter.requests.claim(again := Batch(new_id(), tuple(ids)))
        assert [outcome.error for outcome in packaged(exporter, again.id)] == [None, None]


@pytest.mark.parametrize(
    ("rights", "catalog", "reason"),
    [
        ((), CATALOG, "the right 'listCollections' on the database"),
        ((FIND_USERS, LIST[0]), CATALOG, "the right 'listCollections' on the database private "),
        (LIST, CATALOG, "the right 'find' on "),
        ((FIND_USERS, FIND_CRASHES, FIND_NOTES, *LIST), WITH_IDENTITY, "the right 'find' on countly.peoplex "),
    ],
    ids=["nothing", "one database", "no collection", "no people"],
)
def test_what_keeps_a_batch_from_being_planned_fails_all_of_it_at_once(
    server: LockedServer, tmp_path: Path, rights: Sequence[tuple[str, str, str]], catalog: str, reason: str
) -> None:
    with server.user(*rights) as uri, installed(uri, tmp_path, catalog) as exporter:
        batch_id, ids = claimed(exporter, NewRequest("x", [SECRET]), NewRequest("x", ["somebody"]))
        with pytest.raises(NotAuthorizedError):
            exporter.plan(batch_id)
        for request_id in ids:
            assert reason in failed_for_good(exporter.requests.get(request_id))


def test_a_right_that_is_taken_away_meanwhile_fails_the_request(server: LockedServer, tmp_path: Path) -> None:
    with server.user(*ALL) as uri, installed(uri, tmp_path) as exporter:
        batch_id, (request_id,) = claimed(exporter, NewRequest("x", [SECRET]))
        plan = exporter.plan(batch_id)
        server.grant_only(FIND_USERS, FIND_NOTES, *LIST)
        for entry in exporter.catalog.entries:
            exporter.read_slice(plan, entry.name)
        list(exporter.package(plan))
        assert "needs the right 'find' on countly.app_crashesx " in failed_for_good(exporter.requests.get(request_id))


@pytest.mark.parametrize("user", ["reader", "somebody"])
def test_a_login_that_is_refused_fails_the_request_at_once(server: LockedServer, tmp_path: Path, user: str) -> None:
    with server.user(*ALL), installed(uri_of(server.uri, user, "no" + PASSWORD), tmp_path) as exporter:
        batch_id, (request_id,) = claimed(exporter, NewRequest("x", [SECRET]))
        with pytest.raises(NotAuthorizedError):
            exporter.plan(batch_id)
        assert "refused the user name or password" in failed_for_good(exporter.requests.get(request_id))
        exporter.requests.retry(request_id, "me")
        exporter.requests.claim(again := Batch(new_id(), (request_id,)))
        with pytest.raises(NotAuthorizedError):  # by now the driver takes the server for one that is away
            exporter.plan(again.id)
        assert "refused the user name or password" in failed_for_good(exporter.requests.get(request_id))


def test_who_does_not_log_in_is_told_so(server: LockedServer) -> None:
    with (
        connect(server.uri) as client,
        pytest.raises(NotAuthorizedError, match="the user of EXPORT_PIPELINE_MONGO_URI"),
    ):
        choose_moment(client, [("countly", "app_usersx")])
