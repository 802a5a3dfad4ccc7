"""What lies on the host while an encrypted export is made, and after: nothing plain, and no key that outlives it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from export_pipeline.errors import BadInputError
from export_pipeline.exporter import Exporter
from export_pipeline.formats.registry import FORMATS
from export_pipeline.requests.batches import plan_batches
from export_pipeline.requests.models import NewRequest, Request
from export_pipeline.settings import Settings
from export_pipeline_tests.conftest import MakeDatabase
from export_pipeline_tests.packages.conftest import CATALOG

pyrage = pytest.importorskip("pyrage")

SECRET_KEY = "a key of this test's own, long enough"
MARKS = [b"Ann Onymous", b"4711-0815"]


@pytest.fixture
def ann(make_database: MakeDatabase, tmp_path: Path) -> Iterator[Exporter]:
    """An installation that holds something unmistakable on the user a."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    texts = [mark.decode() for mark in MARKS]
    events = [{"_id": n, "uid": "a", "texts": texts} for n in range(500)]
    settings = make_database({"app_usersx": [{"_id": 1, "uid": "a", "name": texts[0]}], "eventsx": events})
    update = {"catalog": tmp_path / "catalog.yaml", "secret_key": Settings(secret_key=SECRET_KEY).secret_key}
    with Exporter(settings.model_copy(update=update)) as exporter:
        yield exporter


def claimed(exporter: Exporter, request: Request) -> str:
    (batch,) = plan_batches(exporter.requests.pending(10), 10)
    exporter.requests.claim(batch)
    return batch.id


def files(exporter: Exporter) -> list[Path]:
    return [path for path in Path(exporter.settings.storage_root).rglob("*") if path.is_file()]


def plain_ones(exporter: Exporter) -> list[str]:
    """The files, at this moment, in which something of the person can be read."""
    return [path.name for path in files(exporter) if any(mark in path.read_bytes() for mark in MARKS)]


@pytest.mark.parametrize("name", FORMATS)
def test_no_file_of_the_host_can_be_read_at_any_moment(
    ann: Exporter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = pyrage.x25519.Identity.generate()
    request = ann.submit(NewRequest("x", ["a"], name, file_options={"recipients": [str(key.to_public())]}))
    batch_id = claimed(ann, request)
    moments = []
    format_class = type(FORMATS[name])
    count = format_class.count

    def look(format_: object, file: object) -> object:
        moments.append([path.suffix for path in files(ann)])  # the package is written, aside
        assert plain_ones(ann) == []
        return count(format_, file)  # type: ignore[arg-type]

    monkeypatch.setattr(format_class, "count", look)
    plan = ann.plan(batch_id)
    for entry in ann.catalog.entries:
        ann.read_slice(plan, entry.name)
    assert len(files(ann)) > 4
    assert plain_ones(ann) == []
    assert b"AGE-SECRET" not in b"".join(path.read_bytes() for path in files(ann))
    (outcome,) = ann.package(ann.load_plan(batch_id))
    assert outcome.error is None
    assert any(".partial" in suffixes for suffixes in moments)
    assert plain_ones(ann) == []
    ann.discard_slices(batch_id)
    assert ann.requests.secrets.find(batch_id) is None
    (package,) = [path for path in files(ann) if path.suffix == ".age"]
    assert pyrage.decrypt(package.read_bytes(), [key])


def test_slices_without_an_encrypted_request_need_no_key(ann: Exporter) -> None:
    request = ann.submit(NewRequest("x", ["a"], "json"))
    batch_id = claimed(ann, request)
    ann.plan(batch_id)
    assert ann.requests.secrets.find(batch_id) is None


def test_slices_are_of_no_use_once_their_key_is_forgotten(ann: Exporter) -> None:
    key = pyrage.x25519.Identity.generate()
    request = ann.submit(NewRequest("x", ["a"], "json", file_options={"recipients": [str(key.to_public())]}))
    batch_id = claimed(ann, request)
    plan = ann.plan(batch_id)
    ann.read_slice(plan, "events")
    assert ann.give_up(batch_id, ann.requests.get(request.id).lease_until)
    assert ann.requests.secrets.find(batch_id) is None
    assert not [path for path in files(ann) if "slices" in path.parts]


def test_a_passphrase_waits_sealed_and_is_forgotten_when_the_export_is_made(ann: Exporter) -> None:
    request = ann.submit(NewRequest("x", ["a"], "jsonl", file_options={"passphrase": True}), passphrase="open sesame")
    assert "sesame" not in repr(request)
    database = b"".join(path.read_bytes() for path in ann.settings.home.glob("requests.db*"))
    assert b"open sesame" not in database
    batch_id = claimed(ann, request)
    plan = ann.plan(batch_id)
    for entry in ann.catalog.entries:
        ann.read_slice(plan, entry.name)
    (outcome,) = ann.package(plan)
    assert outcome.error is None
    assert ann.requests.secrets.find(request.id) is None
    (package,) = [path for path in files(ann) if path.suffix == ".age"]
    assert MARKS[0] in pyrage.passphrase.decrypt(package.read_bytes(), "open sesame")


def test_without_a_secret_key_no_passphrase_is_kept(ann: Exporter) -> None:
    ann.settings = ann.settings.model_copy(update={"secret_key": None})
    new = NewRequest("x", ["a"], "jsonl", file_options={"passphrase": True})
    with pytest.raises(BadInputError, match="EXPORT_PIPELINE_SECRET_KEY"):
        ann.submit(new, passphrase="open sesame")
    assert ann.requests.latest() == []


def test_a_passphrase_kept_under_another_key_fails_the_request(ann: Exporter) -> None:
    request = ann.submit(NewRequest("x", ["a"], "jsonl", file_options={"passphrase": True}), passphrase="open sesame")
    batch_id = claimed(ann, request)
    plan = ann.plan(batch_id)
    for entry in ann.catalog.entries:
        ann.read_slice(plan, entry.name)
    ann.settings = ann.settings.model_copy(update={"secret_key": Settings(secret_key="x" * 40).secret_key})
    (outcome,) = ann.package(plan)
    assert outcome.error is not None
    assert "another EXPORT_PIPELINE_SECRET_KEY" in str(outcome.error)
    assert ann.requests.get(request.id).status == "failed"
