"""The demo, as a new user starts it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from export_pipeline.packages.manifest import Manifest
from export_pipeline.packages.naming import MANIFEST


def test_the_demo_makes_three_exports_and_leaves_nothing_running(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXPORT_PIPELINE_")}
    done = subprocess.run(
        [sys.executable, "-m", "export_pipeline", "demo", "--users", "40", "--scale", "0.02", "--folder", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seals = list(tmp_path.rglob(MANIFEST))
    manifests = [Manifest.model_validate_json(seal.read_bytes()) for seal in seals]
    assert sorted(manifest.file.format for manifest in manifests) == ["json", "json", "parquet"]
    assert min(manifest.totals.documents_written for manifest in manifests) == 0
    assert max(manifest.totals.documents_written for manifest in manifests) > 1000
    for seal, manifest in zip(seals, manifests, strict=True):
        file = seal.with_name(manifest.file.name)
        assert file.stat().st_size == manifest.file.bytes
        assert str(file) in done.stdout.replace("\n", "")
    for words in ("pending", "running", "completed", "value_counts", '"_col":"app_users', "Nothing is left running"):
        assert words in done.stdout
    ours = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid not in before and str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]
    assert ours == []
