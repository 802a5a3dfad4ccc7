"""Links: good as they were made, for as long as they were made for, and no more."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import Engine

from export_pipeline.access import links as links_module
from export_pipeline.access.links import LinkOverError, LinkStore, UnknownLinkError
from export_pipeline.access.signing import SignatureError, Signer
from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import NewRequest
from export_pipeline.requests.store import RequestStore

pytest_plugins = "export_pipeline_tests.postgres"

KEY = "k" * 32
DAY = timedelta(days=1)


@pytest.fixture
def store(engine: Engine) -> LinkStore:
    return LinkStore(engine, KEY)


@pytest.fixture
def request_id(engine: Engine) -> str:
    return RequestStore(engine).submit(NewRequest("mine", ["a"])).id


def make(store: LinkStore, request_id: str, *, one_time: bool = False) -> tuple[str, str]:
    link, text = store.create(request_id, expires_at=datetime.now(UTC) + DAY, one_time=one_time, created_by="ann")
    return link.id, text


def test_a_link_opens_its_request(store: LinkStore, request_id: str) -> None:
    link_id, text = make(store, request_id)
    for _ in range(2):
        link = store.open(text)
        store.use(link)
    assert (link.id, link.request_id) == (link_id, request_id)


def test_any_change_of_one_character_is_noticed(store: LinkStore, request_id: str) -> None:
    _, text = make(store, request_id)
    for position in range(len(text)):
        for other in ("A", "B"):
            changed = text[:position] + other + text[position + 1 :]
            # The last character of base 64 has bits that count for nothing.
            if changed != text and position != len(text) - 1:
                with pytest.raises(UnknownLinkError):
                    store.open(changed)


def test_what_was_signed_otherwise_is_no_link(engine: Engine, store: LinkStore, request_id: str) -> None:
    link_id, text = make(store, request_id)
    forged = [
        LinkStore(engine, "j" * 32)._signer.sign(link_id),
        Signer(KEY, "cursor").sign(link_id),
        str(URLSafeTimedSerializer(KEY).dumps(link_id)),
        text.split(".", 1)[0],
        link_id,
        "",
        "é",
        "x" * 100_000,
        Signer(KEY, "link").sign("\0"),
        Signer(KEY, "link").sign([link_id]),
    ]
    for wrong in forged:
        with pytest.raises(UnknownLinkError):
            store.open(wrong)


def test_a_link_ends(store: LinkStore, request_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = make(store, request_id)
    link = store.open(text)
    monkeypatch.setattr(links_module, "now", lambda: datetime.now(UTC) + DAY)
    with pytest.raises(LinkOverError, match="has expired"):
        store.open(text)
    with pytest.raises(LinkOverError):
        store.use(link)


def test_a_link_is_revoked(store: LinkStore, request_id: str) -> None:
    link_id, text = make(store, request_id)
    _, other = make(store, request_id)
    link = store.open(text)
    store.revoke(link_id)
    with pytest.raises(LinkOverError, match="has been revoked"):
        store.open(text)
    with pytest.raises(LinkOverError):
        store.use(link)
    store.use(store.open(other))
    store.revoke_all(request_id)
    with pytest.raises(LinkOverError, match="has been revoked"):
        store.open(other)


def test_of_many_downloads_at_once_by_a_one_time_link_one_is_made(store: LinkStore, request_id: str) -> None:
    _, text = make(store, request_id, one_time=True)
    link = store.open(text)

    def use(_: int) -> bool:
        try:
            store.use(link)
        except LinkOverError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use, range(16))) == 1
    with pytest.raises(LinkOverError, match="has been made"):
        store.open(text)


def test_a_link_that_has_ended_before_it_began_is_refused(store: LinkStore, request_id: str) -> None:
    with pytest.raises(BadInputError):
        store.create(request_id, expires_at=datetime.now(UTC), one_time=False, created_by="ann")


def test_a_cursor_is_signed_and_ages() -> None:
    signer = Signer(KEY, "cursor")
    text = signer.sign({"after": [1, "a"]})
    assert signer.read(text) == {"after": [1, "a"]}
    with pytest.raises(SignatureError, match="too old"):
        signer.read(text, timedelta(seconds=-1))
    with pytest.raises(SignatureError, match="not made here, or was changed"):
        signer.read(text[:-5] + "AAAAA")
