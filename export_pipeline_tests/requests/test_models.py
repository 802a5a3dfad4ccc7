"""What a request must be before it becomes a row."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.errors import BadInputError
from export_pipeline.requests.models import LONGEST_UID, NewRequest

SECRET = "secret-uid"


def test_a_request_says_what_goes_into_its_row() -> None:
    new = NewRequest("app_1-X", ["b", "a"], "jsonl", "canonical", requested_by="me")
    assert new.selection == {"uids": ["b", "a"]}
    assert new.options == {"format": "jsonl", "json_mode": "canonical"}


def test_the_defaults() -> None:
    assert NewRequest("app", ["a"]).options == {"format": "json", "json_mode": "relaxed"}


def test_a_uid_that_is_given_twice_counts_once() -> None:
    assert NewRequest("app", ["b", "a", "b"]).selection == {"uids": ["b", "a"]}


def test_it_does_not_show_its_uids() -> None:
    assert SECRET not in repr(NewRequest("app", [SECRET]))


@pytest.mark.parametrize("app_id", ["", "a" * 65, "a/b", "..", "a b", "a\n", "ä", "a$b", "a\0", None, 7])
def test_app_ids_that_could_be_no_part_of_a_path_or_a_name_are_refused(app_id: Any) -> None:
    with pytest.raises(BadInputError, match="app id: expected 1 to 64 letters, digits, '_' or '-'"):
        NewRequest(app_id, ["a"])


@pytest.mark.parametrize(
    ("uids", "reason"),
    [
        ([], "expected at least one uid"),
        (SECRET, "expected a list of strings, not str"),
        (SECRET.encode(), "expected a list of strings, not bytes"),
        (None, "expected a list of strings, not NoneType"),
        ({SECRET: 1}, "expected a list of strings, not dict"),
        ([SECRET, 7], "number 2 is of type int; a uid is a string"),
        ([{"$ne": SECRET}], "number 1 is of type dict; a uid is a string"),
        ([SECRET, ""], f"number 2 must have 1 to {LONGEST_UID} characters"),
        ([SECRET, "x" * 513], f"number 2 must have 1 to {LONGEST_UID} characters"),
        ([SECRET, "x\ud800"], "number 2 is not valid text"),
    ],
)
def test_uids_that_are_none_are_refused_without_repeating_them(uids: Any, reason: str) -> None:
    with pytest.raises(BadInputError, match=f"^uids: {reason}") as raised:
        NewRequest("app", uids)
    assert SECRET not in str(raised.value)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=LONGEST_UID), min_size=1))
def test_any_text_can_be_a_uid(uids: list[str]) -> None:
    assert NewRequest("app", uids).selection == {"uids": list(dict.fromkeys(uids))}
