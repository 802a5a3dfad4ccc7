"""What must not leave is nowhere: not in the file, not in its manifest, not in the slices on the way there."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from export_pipeline.exporter import Exporter
from export_pipeline.packages.manifest import CollectionReport, Manifest
from export_pipeline.packages.verify import verify_package
from export_pipeline.requests.batches import Batch, new_id
from export_pipeline.requests.models import NewRequest
from export_pipeline_tests.conftest import MakeDatabase

CATALOG = """
version: 1
identity: {collection: "app_users{app_id}", uid: uid, merged_uids: merged_uid, device_ids: did}
collections:
- {name: users, plugin: users, collection: "app_users{app_id}", user_key: uid, exclude: [password, tokens.secret]}
- name: chats
  plugin: chats
  collection: chats{app_id}
  user_key: members.uid
  exclude: [moderation]
  mask: {members.uid: hash, members.phone: last4, members.name: drop, blocked: hash}
- {name: shares, plugin: shares, collection: "shares{app_id}", user_key: uids, mask: {uids: hash, devices: last4}}
"""

EXCLUDED = ("password-of-ann", "token-of-ann", "password-of-bob", "token-of-bob", "moderators-note")
"""Nobody is handed these."""
FOREIGN = ("uid-of-zoe", "uid-of-yan", "phone-of-zoe-1234", "name-of-zoe", "name-of-bob", "device-of-zoe")
"""Values of people who have asked for nothing; Bob's name is dropped from his own documents too."""

USERS = [
    {"_id": n, "uid": uid, "password": f"password-of-{name}", "tokens": [{"secret": f"token-of-{name}", "kind": "t"}]}
    | more
    for n, (uid, name, more) in enumerate(
        [
            ("uid-of-ann", "ann", {"merged_uid": ["uid-of-ann-before"], "did": "device-of-ann"}),
            ("uid-of-bob", "bob", {}),
        ]
    )
]
CHATS = [
    {
        "_id": 1,
        "moderation": {"note": "moderators-note"},
        "members": [
            {"uid": "uid-of-ann", "phone": None},
            {"uid": "uid-of-bob", "name": "name-of-bob"},
            {"uid": "uid-of-zoe", "phone": "phone-of-zoe-1234", "name": "name-of-zoe"},
        ],
        "blocked": "uid-of-zoe",
    },
    {
        "_id": 2,
        "members": [{"uid": "uid-of-ann-before"}, {"uid": "uid-of-zoe"}],
        "blocked": ["uid-of-yan", "uid-of-ann"],
    },
    {"_id": 3, "members": {"uid": "uid-of-zoe"}},
]
SHARES = [
    {"_id": 1, "uids": ["uid-of-zoe", "uid-of-ann", "uid-of-yan"], "devices": ["device-of-ann", "device-of-zoe"]},
    {"_id": 2, "uids": ["uid-of-bob", "uid-of-ann-before"], "devices": "abc"},
    {"_id": 3, "uids": "uid-of-bob"},
]
HASH = re.compile(r"sha256:[0-9a-f]{32}")


@pytest.fixture
def installation(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    filled = make_database({"app_usersx": USERS, "chatsx": CHATS, "sharesx": SHARES})
    with Exporter(filled.model_copy(update={"catalog": tmp_path / "catalog.yaml"})) as exporter:
        yield exporter


@dataclass(frozen=True)
class Package:
    """What a request was handed, and what its batch's slices held."""

    manifest: Manifest
    file: Path
    slices: bytes

    def documents(self, collection: str) -> list[dict[str, Any]]:
        if self.file.suffix == ".parquet":
            rows = parquet.read_table(self.file).to_pylist()
            return [json.loads(row["_doc"]) for row in rows if row["_col"] == collection]
        return [item for item in json.loads(self.file.read_bytes()) if item["_col"] == collection]

    def report(self, name: str) -> CollectionReport:
        return next(report for report in self.manifest.collections if report.name == name)

    def text(self) -> str:
        """All that is in the package, what Parquet compresses included."""
        everything = [
            document for report in self.manifest.collections for document in self.documents(report.collection)
        ]
        beside = self.file.with_name("manifest.json").read_text()
        return json.dumps(everything) + self.file.read_bytes().decode("latin-1") + beside


def packages(exporter: Exporter, people: Sequence[Sequence[str]], format_: str = "json") -> list[Package]:
    """Export to each list of uids a request, all in one batch."""
    ids = [exporter.submit(NewRequest("x", uids, format_, "canonical")).id for uids in people]
    batch = Batch(new_id(), tuple(ids))
    exporter.requests.claim(batch)
    plan = exporter.plan(batch.id)
    for entry in exporter.catalog.entries:
        exporter.read_slice(plan, entry.name)
    folder = Path(exporter.settings.storage_root) / "slices" / batch.id
    slices = b"".join(file.read_bytes() for file in folder.iterdir() if file.name != "plan.json")
    assert len(slices) > 100
    manifests = {outcome.request_id: outcome.manifest for outcome in exporter.package(plan)}
    found = []
    for request_id in ids:
        manifest, file = manifests[request_id], Path(str(exporter.requests.get(request_id).result_uri))
        assert manifest is not None
        assert verify_package(file) == manifest
        found.append(Package(manifest, file, slices))
    return found


def hashes(value: Any) -> list[str]:
    return HASH.findall(json.dumps(value))


@pytest.mark.parametrize("format_", ["json", "parquet"])
@pytest.mark.parametrize("people", [[["uid-of-ann"]], [["uid-of-ann"], ["uid-of-bob"]]], ids=["alone", "in a batch"])
def test_what_is_excluded_or_masked_is_in_no_package_and_in_no_slice(
    installation: Exporter, people: list[list[str]], format_: str
) -> None:
    for package in packages(installation, people, format_):
        text = package.text()
        for secret in (*EXCLUDED, *FOREIGN):
            assert secret not in text
            assert secret.encode() not in package.slices
        assert "uid-of-ann" in text or "uid-of-bob" in text


@pytest.mark.parametrize("format_", ["json", "parquet"])
def test_ones_own_ids_and_those_merged_stay_and_others_are_masked(installation: Exporter, format_: str) -> None:
    [ann] = packages(installation, [["uid-of-ann"]], format_)
    first, second = ann.documents("chatsx")
    assert [member["uid"] for member in first["members"][:1]] == ["uid-of-ann"]
    assert first["members"][0] == {"uid": "uid-of-ann", "phone": None}
    bob, zoe = first["members"][1:]
    assert set(bob) == {"uid"}
    assert zoe == {"uid": first["blocked"], "phone": "…1234"}
    assert second["members"] == [{"uid": "uid-of-ann-before"}, {"uid": zoe["uid"]}]
    assert second["blocked"][1] == "uid-of-ann"
    shared, with_bob = ann.documents("sharesx")
    assert [uid == "uid-of-ann" for uid in shared["uids"]] == [False, True, False]
    assert shared["devices"] == ["device-of-ann", "…-zoe"]
    assert with_bob["uids"] == [bob["uid"], "uid-of-ann-before"]
    assert with_bob["devices"] == "…"
    masked = [bob["uid"], zoe["uid"], *second["blocked"][:1], *shared["uids"][::2]]
    assert all(HASH.fullmatch(value) for value in masked)
    assert len(set(masked)) == 3, "Bob, Zoe and Yan: equal values get equal hashes"


def test_each_request_of_a_batch_sees_its_own_person(installation: Exporter) -> None:
    ann, bob, both = packages(installation, [["uid-of-ann"], ["uid-of-bob"], ["uid-of-ann", "uid-of-bob"]])

    def seen(package: Package) -> list[list[str]]:
        """The uids of the first two members of their chat, and of the share that is both Ann's and Bob's."""
        chat, share = package.documents("chatsx")[0], package.documents("sharesx")[-2 if package is not ann else -1]
        uids = [[member["uid"] for member in chat["members"][:2]], share["uids"]]
        return [[HASH.sub("masked", uid) for uid in pair] for pair in uids]

    assert seen(ann) == [["uid-of-ann", "masked"], ["masked", "uid-of-ann-before"]]
    assert seen(bob) == [["masked", "uid-of-bob"], ["uid-of-bob", "masked"]]
    assert seen(both) == [["uid-of-ann", "uid-of-bob"], ["uid-of-bob", "uid-of-ann-before"]]
    assert "uid-of-bob" not in ann.text()
    assert "uid-of-ann" not in bob.text()


@pytest.mark.parametrize("people", [[["uid-of-ann"]], [["uid-of-bob"], ["uid-of-ann"]]], ids=["alone", "in a batch"])
@pytest.mark.parametrize("format_", ["json", "parquet"])
def test_the_manifest_says_which_fields_how_and_how_many_values(
    installation: Exporter, people: list[list[str]], format_: str
) -> None:
    ann = packages(installation, people, format_)[-1]
    told = {
        name: [(item.field, item.how, item.values) for item in ann.report(name).redacted]
        for name in ("users", "chats", "shares")
    }
    assert told == {
        "users": [("password", "exclude", 1), ("tokens.secret", "exclude", 1)],
        "chats": [
            ("moderation", "exclude", 1),
            ("members.uid", "hash", 3),
            ("members.phone", "last4", 1),
            ("members.name", "drop", 2),
            ("blocked", "hash", 2),
        ],
        "shares": [("uids", "hash", 3), ("devices", "last4", 2)],
    }


def test_what_hits_nothing_is_named_with_zero(installation: Exporter) -> None:
    [nobody] = packages(installation, [["nobody"], ["uid-of-ann"]])[:1]
    assert [(item.field, item.values) for item in nobody.report("users").redacted] == [
        ("password", 0),
        ("tokens.secret", 0),
    ]


def test_redacting_changes_no_count(installation: Exporter) -> None:
    ann, bob = packages(installation, [["uid-of-ann"], ["uid-of-bob"]])
    for package, counts in ((ann, [1, 2, 2]), (bob, [1, 1, 2])):
        reports = package.manifest.collections
        assert [report.documents_expected for report in reports] == counts
        assert [report.documents_written for report in reports] == counts
        assert [len(package.documents(report.collection)) for report in reports] == counts


def test_hashes_of_two_exports_cannot_be_compared(installation: Exporter) -> None:
    [first], [second] = packages(installation, [["uid-of-ann"]]), packages(installation, [["uid-of-ann"]])
    one, other = ({*hashes(package.documents("sharesx"))} for package in (first, second))
    assert len(one) == len(other) == 3
    assert not one & other


def test_nothing_that_makes_the_hashes_is_left_or_handed_over(installation: Exporter) -> None:
    request = installation.submit(NewRequest("x", ["uid-of-ann"]), run_here=True)
    plan = installation.plan(str(request.batch_id))
    manifest = installation.run_here(request)
    assert plan.redaction_key not in repr(plan)
    assert plan.redaction_key not in manifest.model_dump_json()
    left = [file for file in Path(installation.settings.storage_root).rglob("*") if file.is_file()]
    assert sorted(file.name for file in left) == ["export.json", "manifest.json"]
    assert not any(plan.redaction_key.encode() in file.read_bytes() for file in left)


def test_what_cannot_be_redacted_fails_its_requests_with_the_collections_name(
    installation: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export_pipeline.slices.redact.MAX_DEPTH", 1)
    request = installation.submit(NewRequest("x", ["uid-of-ann"]), run_here=True)
    plan = installation.plan(str(request.batch_id))
    outcomes = [installation.read_slice(plan, entry.name).outcome for entry in installation.catalog.entries]
    assert outcomes == ["failed", "failed", "exported"]
    [outcome] = installation.package(plan)
    assert str(outcome.error).startswith(
        "users: a document whose fields have to be excluded or masked is nested deeper"
    )
    assert installation.requests.get(request.id).error_code == "collection_unreadable"
    assert not list(Path(installation.settings.storage_root).glob("exports/*/*/*"))
