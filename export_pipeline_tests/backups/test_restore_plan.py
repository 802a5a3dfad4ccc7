"""What goes where, under which name, and whose documents stay out: decisions, without a database."""

from typing import Any

import bson
import pytest
from bson import ObjectId, Regex

from export_pipeline.backups.ledger import LedgerKey
from export_pipeline.backups.rename import AppValue, renamed
from export_pipeline.backups.restore_ledger import Erased, Sieve, piece_of
from export_pipeline.backups.restore_plan import target_databases
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.mongo.bson_stream import documents
from export_pipeline_tests.formats.raw_bson import document, string

KEY = LedgerKey("x" * 32, "app")


@pytest.mark.parametrize(
    ("name", "new"),
    [("app_usersx", "app_usersy"), ("x_log", "y_log"), ("text.x", "text.y"), ("maxx", "maxy"), ("axis", "ayis")],
)
def test_a_collection_is_renamed_where_the_apps_id_is(name: str, new: str) -> None:
    assert renamed(name, "x", "y", ["app_users{app_id}", "{app_id}_log"]) == new


def test_a_name_in_which_the_id_is_not_clear_is_refused() -> None:
    with pytest.raises(BadInputError, match="xxa: it is not clear"):
        renamed("xxa", "x", "y", [])


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("app", {"n": Regex("a"), "app": "x", "app2": "x"}, {"n": Regex("a"), "app": "yy", "app2": "x"}),
        ("app", {"app": ["x", "z", ["x"]]}, {"app": ["yy", "z", ["x"]]}),
        ("a.app", {"a": [{"app": "x", "n": 1}, {"app": "z"}, "x"]}, {"a": [{"app": "yy", "n": 1}, {"app": "z"}, "x"]}),
        ("a.app", {"a": {"app": ObjectId(b"x" * 12)}}, {"a": {"app": ObjectId(b"x" * 12)}}),
        ("app", {"other": 1}, {"other": 1}),
    ],
)
def test_the_apps_id_changes_at_its_path_and_nowhere_else(path: str, before: Any, after: Any) -> None:
    assert AppValue(path, "x", "yy").apply(bson.encode(before)) == bson.encode(after)


def test_databases_keep_what_their_names_have_in_common() -> None:
    held = ["countly", "countly_drill"]
    assert target_databases(held, ["countly=a", "countly_drill=b"]) == {"countly": "a", "countly_drill": "b"}
    assert target_databases([*held, "other"], ["new", "other=b"])["countly_drill"] == "new_drill"
    for wanted, match in [
        ([], "name one database"),
        (["a", "b"], "name one database"),
        (["elsewhere=a"], "the backup is of countly"),
        (["countly=a"], "say where countly_drill goes"),
        (["countly=a", "countly_drill=a"], "would become one"),
        (["admin"], "allows for a database of yours"),
        (["a b"], "allows for a database of yours"),
    ]:
        with pytest.raises(BadInputError, match=match):
            target_databases(held, wanted)


def sifted(path: str, *of: Any) -> tuple[list[Any], int, int]:
    sieve = Sieve([Erased(tuple(path.split(".")), KEY.of_uid, frozenset(map(KEY.of_uid, ["a", "a-old"])))])
    kept = sieve(piece_of(bson.encode(each) for each in of))
    return [bson.decode(each) for each in documents(kept.data)], sieve.left_out, sieve.detached


def test_documents_of_the_erased_are_left_out_and_others_lose_them() -> None:
    assert sifted("uid", {"uid": "a"}, {"uid": "b"}, {"uid": ["a", "a-old"]}, {"uid": ["a", "b"]}, {"n": 1}) == (
        [{"uid": "b"}, {"uid": ["b"]}, {"n": 1}],
        2,
        1,
    )
    assert sifted("to.uid", {"n": 1, "to": [{"uid": "a"}, {"uid": "b"}], "m": 2}) == (
        [{"n": 1, "to": [{"uid": "b"}], "m": 2}],
        0,
        1,
    )
    assert sifted("_id", {"_id": "a"}, {"_id": "b"}) == ([{"_id": "b"}], 1, 0)
    assert sifted("uid", {"uid": "b"}) == ([{"uid": "b"}], 0, 0)


def test_a_document_that_loses_somebody_is_otherwise_the_same_to_the_bit() -> None:
    odd = (0x06, b"odd", b"")
    uids = (0x04, b"uid", document((0x02, b"7", string(b"a")), (0x02, b"9", string(b"b"))))
    sieve = Sieve([Erased(("uid",), KEY.of_uid, frozenset([KEY.of_uid("a")]))])
    kept = sieve(piece_of([document(odd, uids, odd)]))
    assert kept.data == document(odd, (0x04, b"uid", document((0x02, b"0", string(b"b")))), odd)


def test_damaged_text_beside_somebody_erased_is_an_error() -> None:
    uids = document((0x02, b"0", string(b"a")), (0x02, b"1", string(b"\xff")))
    sieve = Sieve([Erased(("uid",), KEY.of_uid, frozenset([KEY.of_uid("a")]))])
    with pytest.raises(IncompleteError, match="damaged text"):
        sieve(piece_of([document((0x04, b"uid", uids))]))
