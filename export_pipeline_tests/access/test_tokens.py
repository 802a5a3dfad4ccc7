"""Tokens: told once, kept as hashes, revoked at once, and compared without telling how much of one was right."""

import hmac
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from export_pipeline.access import tokens as tokens_module
from export_pipeline.access.roles import Permission, Role, find_role, permissions_of
from export_pipeline.access.tokens import Token, TokenStore, UnknownTokenError, hash_of
from export_pipeline.errors import BadInputError
from export_pipeline.requests.schema import access_tokens

pytest_plugins = "export_pipeline_tests.postgres"

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def store(engine: Engine) -> TokenStore:
    return TokenStore(engine)


def make(store: TokenStore, app_id: str = "mine", **more: Any) -> tuple[Token, str]:
    return store.create(app_id, Role.MAINTAINER, **{"lives": DAY, "created_by": "ann", **more})


def test_a_token_is_found_by_its_text_and_by_nothing_else(store: TokenStore) -> None:
    token, text = make(store, label="the shop")
    assert store.find(text) == token
    assert text.startswith(f"ep_{token.id.replace('-', '')}_")
    _, other = make(store)
    mixed = text[: text.rindex("_")] + other[other.rindex("_") :]
    for wrong in (
        text[:-1],
        f"{text}x",
        text.upper(),
        mixed,
        token.id,
        hash_of(text),
        "",
        "ep_",
        "\0",
        "é",
        "x" * 10_000,
    ):
        assert store.find(wrong) is None, wrong


def test_only_its_hash_is_kept(engine: Engine, store: TokenStore) -> None:
    _, text = make(store)
    secret = text[text.index("_", 3) + 1 :]
    with engine.connect() as connection:
        (row,) = connection.execute(select(access_tokens)).mappings()
    assert row["secret_sha256"] == hash_of(text)
    assert not any(secret in str(value) for value in row.values())


def test_no_two_secrets_are_alike(store: TokenStore) -> None:
    secrets = {make(store)[1][36:] for _ in range(20)}
    assert len(secrets) == 20
    assert min(len(secret) for secret in secrets) == 43  # 256 bits, in base 64


def test_hashes_are_compared_in_constant_time(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return False

    _, text = make(store)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert store.find(text) is None  # the comparison has the last word
    assert compared == [(hash_of(text), hash_of(text))]


def test_it_serves_until_it_expires_or_is_revoked(store: TokenStore) -> None:
    token, text = make(store)
    assert token.expires_at is not None
    assert [token.state(token.expires_at + shift) for shift in (-DAY / 2, timedelta(0), DAY)] == [
        "valid",
        "expired",
        "expired",
    ]
    assert make(store, lives=None)[0].state(NOW + 10_000 * DAY) == "valid"
    store.revoke(token.id)
    found = store.find(text)
    assert found is not None
    assert found.state(token.created_at) == "revoked"
    store.revoke(token.id)
    assert store.get(token.id).revoked_at == found.revoked_at


def test_its_last_use_is_noted_once_a_minute(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = make(store)
    monkeypatch.setattr(tokens_module, "now", lambda: NOW)
    store.note_use(token)
    token = store.get(token.id)
    assert token.last_used_at == NOW
    for seconds, noted in ((59, NOW), (61, NOW + timedelta(seconds=61))):
        monkeypatch.setattr(tokens_module, "now", lambda seconds=seconds: NOW + timedelta(seconds=seconds))
        store.note_use(token)
        assert store.get(token.id).last_used_at == noted


def test_pages_are_the_newest_first_and_of_one_app(store: TokenStore) -> None:
    made = [make(store, app)[0].id for app in ("mine", "theirs", "mine", "*")]
    assert [token.id for token in store.page()] == made[::-1]
    assert [token.id for token in store.page(app_id="mine")] == [made[2], made[0]]
    assert [token.id for token in store.page(before=made[2], limit=1)] == [made[1]]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"app_id": "a b"}, "app id"),
        ({"app_id": "**"}, "app id"),
        ({"label": "x" * 201}, "label"),
        ({"label": "a\nb"}, "label"),
        ({"lives": timedelta(0)}, "expires"),
        ({"lives": timedelta(days=3651)}, "expires"),
    ],
)
def test_what_is_not_allowed_is_refused(store: TokenStore, wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        make(store, **wrong)
    assert store.page() == []


@pytest.mark.parametrize("unknown", ["", "x", "\0", "\ud800", "0" * 36])
def test_an_unknown_id(store: TokenStore, unknown: str) -> None:
    with pytest.raises(UnknownTokenError):
        store.revoke(unknown)


def test_each_role_may_do_more_than_the_last() -> None:
    allowed = [permissions_of(role) for role in Role]
    assert all(less < more for less, more in itertools.pairwise(allowed))
    assert allowed[-1] == set(Permission)
    token = Token("id", "mine", Role.DEVELOPER, "", NOW, "", None, None, None)
    assert [token.may(permission) for permission in (Permission.ESTIMATE, Permission.REQUEST)] == [True, False]
    assert [token.reaches(app) for app in ("mine", "theirs", "*")] == [True, False, False]
    assert replace(token, app_id="*").reaches("theirs")
    with pytest.raises(BadInputError, match="reporter, developer, maintainer, owner"):
        find_role("admin")
