"""Hooks: an operator's function finds a person's documents, is checked like any filter, and fails with its reason."""

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bson import ObjectId

from export_pipeline.catalog.hooks import computed_selector, load_hook
from export_pipeline.catalog.load import load_catalog
from export_pipeline.catalog.narrowing import Narrowing
from export_pipeline.errors import CatalogError
from export_pipeline.exporter import Exporter, Outcome
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.conftest import MakeDatabase

SECRET = "secret-uid"

CATALOG = """\
version: 1
identity: {{collection: "app_users{{app_id}}", uid: uid, merged_uids: merged_uid, device_ids: did}}
collections:
- {{name: users, plugin: users, collection: "app_users{{app_id}}", user_key: uid}}
- name: phones
  plugin: phones
  collection: phones{{app_id}}
  hook: {hook}
  key_holds: {key_holds}
"""

WriteHook = Callable[[str], str]


@pytest.fixture
def write_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteHook:
    """Return a function that writes a module with ``hook`` in it and gives the path of that function."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def write(code: str) -> str:
        module = f"hook_{new_id().replace('-', '')}"
        (tmp_path / "modules" / f"{module}.py").write_text(textwrap.dedent(code))
        return f"{module}:hook"

    return write


Install = Callable[..., Exporter]


@pytest.fixture
def install(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Install]:
    """Return a function that opens an installation whose second collection is found by a hook."""
    filled = make_database(
        {
            "app_usersx": [
                {"_id": 1, "uid": "a", "merged_uid": ["a-old"], "did": "d1"},
                {"_id": 2, "uid": "b"},
                {"_id": 3, "uid": SECRET},
            ],
            "phonesx": [
                {"_id": 1, "phone": "phone of a", "kind": "home"},
                {"_id": 2, "phone": "phone of a-old", "kind": "work"},
                {"_id": 3, "phone": "phone of b", "kind": "home"},
                {"_id": 4, "phone": "phone of d1", "kind": "home"},
            ],
        }
    )
    opened: list[Exporter] = []

    def install(hook: str, key_holds: str = "uid") -> Exporter:
        (tmp_path / "catalog.yaml").write_text(CATALOG.format(hook=hook, key_holds=key_holds))
        opened.append(Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})))
        return opened[-1]

    yield install
    for exporter in opened:
        exporter.close()


def in_one_batch(exporter: Exporter, *wanted: NewRequest) -> list[Outcome]:
    """How each request ends when all share a batch."""
    ids = [exporter.submit(new).id for new in wanted]
    batch = Batch(new_id(), tuple(ids))
    exporter.requests.claim(batch)
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    outcomes = {outcome.request_id: outcome for outcome in exporter.package(plan)}
    return [outcomes[request_id] for request_id in ids]


def phones(exporter: Exporter, outcome: Outcome) -> list[int]:
    """The ids of the phones in a request's file."""
    assert outcome.error is None
    documents = json.loads(Path(str(exporter.requests.get(outcome.request_id).result_uri)).read_bytes())
    return sorted(document["_id"] for document in documents if document["_col"] == "phonesx")


BY_PHONE = """
    def hook(uids, app_id):
        assert app_id == "x"
        return {"phone": {"$in": ["phone of " + uid for uid in uids]}}
"""


# What a hook finds


def test_a_hook_selects_for_each_request_of_a_batch_its_own(install: Install, write_hook: WriteHook) -> None:
    exporter = install(write_hook(BY_PHONE))
    a, b, both, nobody = in_one_batch(
        exporter, *(NewRequest("x", uids) for uids in (["a"], ["b"], ["b", "a-old"], ["nobody"]))
    )
    assert [phones(exporter, outcome) for outcome in (a, b, both, nobody)] == [[1, 2], [3], [1, 2, 3], []]
    assert a.manifest is not None
    assert [report.documents_expected for report in a.manifest.collections] == [1, 2]


def test_a_hook_of_device_ids_is_given_those(install: Install, write_hook: WriteHook) -> None:
    exporter = install(write_hook(BY_PHONE), "device_id")
    a, b = in_one_batch(exporter, NewRequest("x", ["a"]), NewRequest("x", ["b"]))
    assert phones(exporter, a) == [4]
    assert phones(exporter, b) == [], "who has no device has nothing there, and the hook is not asked"


def test_what_else_a_request_asks_narrows_a_hook(install: Install, write_hook: WriteHook) -> None:
    exporter = install(write_hook(BY_PHONE))
    narrowing = Narrowing(where={"phones": {"kind": "home"}})
    [a] = in_one_batch(exporter, NewRequest("x", ["a"], narrowing=narrowing))
    assert phones(exporter, a) == [1]


def test_a_hook_may_name_values_that_json_has_not_in_extended_json(write_hook: WriteHook) -> None:
    hook = write_hook("def hook(uids, app_id): return {'_id': {'$oid': '0123456789abcdef01234567'}}")
    assert computed_selector(hook, ["a"], "x") == {"_id": {"$eq": ObjectId("0123456789abcdef01234567")}}


# Hooks that fail: the collection fails, with the reason

FAILING = {
    "empty filter": ("return {}", "returned an empty filter, which would select everybody"),
    "no filter": ("return None", 'expected an object such as {"field": "value"}, not NoneType'),
    "a list": ("return [uids]", 'expected an object such as {"field": "value"}, not list'),
    "code": ("return {'$where': 'true'}", "the operator $where is not allowed; name a field"),
    "operator": ("return {'phone': {'$regex': uids[0]}}", "field phone: the operator $regex is not allowed"),
    "nested operator": ("return {'phone': {'$not': {'$eq': 1}}}", "field phone: the operator $not is not allowed"),
    "too many": ("return {'phone': {'$in': uids * 1001}}", "$in takes a list of 1 to 1000 values"),
    "odd value": ("return {'phone': {'$eq': b'raw'}}", "a value is text, a number, true, false or null, not bytes"),
    "exception": ("raise RuntimeError('no phone of ' + uids[0])", "failed with RuntimeError"),
    "exception of this project": (
        "from export_pipeline.errors import CatalogError; raise CatalogError(uids[0])",
        "failed with CatalogError",
    ),
    "key error": ("return {}[uids[0]]", "failed with KeyError"),
    "wrong arguments": ("return hook(uids)", "failed with TypeError"),
}


@pytest.mark.parametrize("failing", FAILING)
def test_a_hook_that_fails_is_a_collection_that_cannot_be_read(
    install: Install, write_hook: WriteHook, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    code, reason = FAILING[failing]
    hook = write_hook(f"def hook(uids, app_id): {code}")
    exporter = install(hook)
    [outcome] = in_one_batch(exporter, NewRequest("x", [SECRET]))
    row = exporter.requests.get(outcome.request_id)
    assert (row.status, row.error_code) == ("failed", "collection_unreadable")
    assert str(row.error_message).startswith(f"phones: the hook {hook}")
    assert reason in str(row.error_message)
    assert outcome.error is not None
    assert outcome.error.__cause__ is None
    assert SECRET not in f"{row!r} {row.error_message} {caplog.text}"
    assert not list(Path(exporter.settings.storage_root).glob("exports/*/*/*"))


def test_a_hook_that_fails_for_one_uid_names_nobody_and_can_be_tried_again(
    install: Install, write_hook: WriteHook
) -> None:
    exporter = install(write_hook("def hook(uids, app_id): return {'phone': uids[0]} if 'a' in uids else {}"))
    failed = in_one_batch(exporter, NewRequest("x", ["a"]), NewRequest("x", [SECRET]))
    assert all("empty filter" in str(outcome.error) for outcome in failed)
    [alone] = in_one_batch(exporter, NewRequest("x", ["a"]))
    assert phones(exporter, alone) == []


def test_a_hook_that_fails_only_when_its_collection_is_read_fails_the_request_too(
    install: Install, write_hook: WriteHook, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    hook = write_hook(f"""
        from pathlib import Path

        def hook(uids, app_id):
            if Path({str(broken)!r}).exists():
                raise ConnectionError(uids[0])
            return {{"phone": "phone of " + uids[0]}}
    """)
    exporter = install(hook)
    request = exporter.submit(NewRequest("x", ["b"]), run_here=True)
    plan = exporter.plan(str(request.batch_id))
    broken.touch()
    indexes = [exporter.read_slice(plan, entry.name) for entry in exporter.catalog.entries]
    assert [index.outcome for index in indexes] == ["exported", "failed"]
    [outcome] = exporter.package(plan)
    assert str(outcome.error) == f"phones: the hook {hook} failed with ConnectionError"
    assert exporter.requests.get(request.id).status == "failed"


def test_a_hook_that_changes_its_mind_is_noticed(install: Install, write_hook: WriteHook) -> None:
    hook = write_hook("""
        asked = []

        def hook(uids, app_id):
            asked.append(uids)
            return {"phone": {"$in": ["phone of a", "phone of b"][: len(asked)]}}
    """)
    [outcome] = in_one_batch(install(hook), NewRequest("x", ["b"]))
    assert "phones: the server counted 1 documents at the chosen moment, 2 were read" in str(outcome.error)


# Hooks that cannot be had: the catalogue is refused

UNUSABLE = {
    "no such module": ("no_such_module_at_all:hook", "'no_such_module_at_all:hook' cannot be imported"),
    "no such function": ("json:no_such_function", "'json:no_such_function' cannot be imported (AttributeError)"),
    "no function named": ("json", "'json' cannot be imported (AttributeError); use 'package.module:function'"),
    "no module named": ('":hook"', "cannot be imported (ValueError)"),
    "relative": ("..json:dumps", "cannot be imported (TypeError)"),
    "not a function": ("json:__name__", "'json:__name__' is not a function"),
}


def refusal(tmp_path: Path, hook: str) -> str:
    (tmp_path / "catalog.yaml").write_text(CATALOG.format(hook=hook, key_holds="uid"))
    with pytest.raises(CatalogError) as raised:
        load_catalog(tmp_path / "catalog.yaml")
    return str(raised.value).removeprefix(f"catalogue {tmp_path / 'catalog.yaml'} ")


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_a_hook_that_cannot_be_had_is_told_with_its_line(tmp_path: Path, unusable: str) -> None:
    hook, reason = UNUSABLE[unusable]
    said = refusal(tmp_path, hook)
    assert said.startswith('line 8: "hook": ')
    assert reason in said


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def hook(", "SyntaxError"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("raise RuntimeError('the password is hush')", "RuntimeError"),
        ("{}['hush']", "KeyError"),
        ("undefined_name", "NameError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, write_hook: WriteHook, code: str, reason: str
) -> None:
    said = refusal(tmp_path, write_hook(code))
    assert said.startswith('line 8: "hook": ')
    assert f"cannot be imported ({reason})" in said
    assert "hush" not in said


def test_an_entry_has_a_hook_or_a_user_key(tmp_path: Path) -> None:
    assert "user_key and hook exclude each other" in refusal(tmp_path, "json:dumps\n  user_key: uid")


def test_anything_that_can_be_called_is_a_hook(write_hook: WriteHook) -> None:
    hook = write_hook("""
        class Hook:
            def __call__(self, uids, app_id): return {"phone": uids[0]}

        hook = Hook()
    """)
    assert callable(load_hook(hook))
    assert computed_selector(hook, ["a"], "x") == {"phone": {"$eq": "a"}}


def test_a_hook_cannot_change_whose_documents_others_read(install: Install, write_hook: WriteHook) -> None:
    exporter = install(
        write_hook("""
        def hook(uids: list, app_id):
            wanted = list(uids)
            uids[:] = ["b"]
            return {"phone": {"$in": ["phone of " + uid for uid in wanted]}}
    """)
    )
    [a] = in_one_batch(exporter, NewRequest("x", ["a"]))
    assert phones(exporter, a) == [1, 2]
    assert a.manifest is not None
    assert a.manifest.users.uids == ("a",)
