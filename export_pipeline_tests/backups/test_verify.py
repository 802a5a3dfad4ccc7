"""A backup that is not what was written is found out, and the part is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from export_pipeline.backups.backup import Backups
from export_pipeline.backups.verify import verify_backup
from export_pipeline.encryption.age import new_identity
from export_pipeline.encryption.keys import WrongKeyError
from export_pipeline.errors import BadInputError, IncompleteError
from export_pipeline.installation import Installation
from export_pipeline.packages.layers import NO_KEYS, Keys
from export_pipeline.requests.backups import NewBackup
from export_pipeline.storage.directory import DirectoryStorage
from export_pipeline_tests.conftest import MakeDatabase

APP = "652f1a7e9c3b4d0012ab34c1"
EVENTS = f"app_events{APP}"
IDENTITY = new_identity()


@pytest.fixture
def folder(make_database: MakeDatabase, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a backup and returns its folder."""

    def make(**form: Any) -> Path:
        settings = make_database(
            {EVENTS: [{"_id": ObjectId(), "text": "x" * 990} for _ in range(3000)], f"app_users{APP}": [{"_id": 1}]}
        )
        with Installation(settings) as installation:
            backups = Backups(installation)
            row = backups.submit(NewBackup(APP, {"part_bytes": 1_000_000, **form}), run_here=True)
            backups.run(row)
            return Path(str(backups.requests.get(row.id).result_uri)).parent

    return make


def verify(folder: Path, keys: Keys = NO_KEYS) -> bool:
    return verify_backup(DirectoryStorage(folder.parent), folder.name, keys).looked_inside


def cut_short(folder: Path) -> None:
    part = folder / EVENTS / "part-00001.bson"
    part.write_bytes(part.read_bytes()[:-500])


def flip_a_bit(folder: Path) -> None:
    part = folder / EVENTS / "part-00001.bson"
    data = bytearray(part.read_bytes())
    data[5000] ^= 1
    part.write_bytes(data)


def swap(folder: Path) -> None:
    first, second = folder / EVENTS / "part-00001.bson", folder / EVENTS / "part-00002.bson"
    aside = first.rename(folder / "aside")
    second.rename(first)
    aside.rename(second)


def remove(folder: Path) -> None:
    (folder / EVENTS / "part-00001.bson").unlink()


def add_after_the_last(folder: Path) -> None:
    last = max((folder / EVENTS).glob("part-*.bson"))
    shutil.copy(last, last.with_name(f"part-{int(last.stem[5:]) + 1:05}.bson"))


def add_beside_another(folder: Path) -> None:
    shutil.copy(folder / EVENTS / "part-00001.bson", folder / EVENTS / "part-00001-1.bson")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_short, f"{EVENTS}/part-00001.bson: the part is damaged, or it is another one .it has"),
        (flip_a_bit, f"{EVENTS}/part-00001.bson: the part is damaged, or it is another one .its SHA-256"),
        (swap, f"{EVENTS}/part-0000[12].bson: the part is damaged, or it is another one"),
        (remove, f"{EVENTS}/part-00001.bson: the part is missing"),
        (add_after_the_last, f"{EVENTS}/part-0000[0-9].bson: the part is none of this backup's"),
        (add_beside_another, f"{EVENTS}/part-00001-1.bson: the part is none of this backup's"),
        (lambda folder: (folder / "other").mkdir(), "other: the folder is of no collection"),
    ],
)
def test_harm_is_found_out_and_named(folder: Callable[..., Path], harm: Callable[[Path], None], message: str) -> None:
    made = folder()
    assert verify(made)
    harm(made)
    with pytest.raises(IncompleteError, match=message):
        verify(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said["collections"][0]["parts"].pop(), f"the documents of test_[0-9a-f]+.{EVENTS} are not those"),
        (lambda said: said["collections"][0]["structure"]["options"].update(capped=True), "the structure of"),
        (lambda said: said["collections"][0]["parts"][0].update(documents_sha256="0" * 64), "the content of"),
        (lambda said: said["totals"].update(files=1), "the totals"),
        (lambda said: said.update(format_version=2), "damaged, or of another version"),
    ],
)
def test_a_manifest_that_disagrees_with_itself_is_found_out(
    folder: Callable[..., Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    made = folder()
    said = json.loads((made / "manifest.json").read_text())
    change(said)
    (made / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(IncompleteError, match=message):
        verify(made)


def test_without_its_seal_it_is_no_backup(folder: Callable[..., Path]) -> None:
    made = folder()
    (made / "manifest.json").unlink()
    with pytest.raises(BadInputError, match="it is no backup, or not a whole one"):
        verify(made)


def test_an_encrypted_backup_needs_its_key_for_the_inside(folder: Callable[..., Path]) -> None:
    made = folder(recipients=[str(IDENTITY.recipient)], compression="zstd")
    assert not verify(made)
    assert verify(made, Keys([IDENTITY]))
    with pytest.raises(WrongKeyError, match=r"part-00000.bson.zst.age"):
        verify(made, Keys([new_identity()]))
