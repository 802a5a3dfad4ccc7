"""Whose document it is, and what is left of one without a person: decisions, no database."""

from typing import Any

import pytest

from export_pipeline.backups.erase_ownership import Claim

UID = Claim(("uid",), frozenset({"a", "a-old"}))
TO = Claim(("to", "uid"), frozenset({"a", "a-old"}))


@pytest.mark.parametrize(
    ("document", "claim", "shared"),
    [
        ({"uid": "a"}, UID, False),
        ({"uid": ["a", "a-old"]}, UID, False),
        ({"uid": ["a", None]}, UID, False),
        ({"uid": ["a", "b"]}, UID, True),
        ({"uid": ["a", 7]}, UID, True),
        ({"to": [{"uid": "a"}, {"n": 1}]}, TO, False),
        ({"to": [{"uid": "a"}, {"uid": "b"}]}, TO, True),
        ({"to": {"uid": ["a", "b"]}}, TO, True),
    ],
)
def test_a_document_is_shared_where_its_key_leads_to_others(document: Any, claim: Claim, shared: bool) -> None:
    assert claim.is_shared(document) is shared


@pytest.mark.parametrize(
    ("document", "claim", "kept"),
    [
        ({"uid": ["b", "a", "c", "a-old"]}, UID, ["b", "c"]),
        ({"to": [{"uid": "a", "at": 1}, {"uid": "b", "at": 2}, "note"]}, TO, [{"uid": "b", "at": 2}, "note"]),
        ({"to": {"uid": ["a", "b"], "n": 1}}, TO, {"uid": ["b"], "n": 1}),
        ({"to": [{"uid": ["a", "b"]}, {"uid": ["a"]}]}, TO, [{"uid": ["b"]}]),
        ({"to": [{"uid": [["a"], "a", "b"]}]}, TO, [{"uid": [["a"], "b"]}]),
        ({"to": [{"at": 1}, {"uid": None}, {"uid": "a"}, {"uid": "b"}]}, TO, [{"at": 1}, {"uid": None}, {"uid": "b"}]),
    ],
)
def test_what_is_the_persons_is_taken_out_and_all_else_stays(document: Any, claim: Claim, kept: Any) -> None:
    assert claim.detached(document) == kept
