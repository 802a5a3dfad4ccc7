"""The contracts in pyproject.toml ([tool.importlinter]) hold, and a wrong import does break them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import export_pipeline

PACKAGE = Path(export_pipeline.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"


def lint(folder: Path) -> tuple[bool, str]:
    """Check the package in ``folder`` against the contracts; tell whether they hold, and what was said."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--config", str(PYPROJECT), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package that a test may spoil."""
    return shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def test_the_contracts_hold() -> None:
    holds, said = lint(PACKAGE.parent)
    assert holds, said


@pytest.mark.parametrize(
    ("module", "wrong", "contract"),
    [
        ("storage/directory.py", "import export_pipeline.mongo.embedded", "Imports point downwards only"),
        ("guardian.py", "import export_pipeline.errors", "Imports point downwards only"),
        ("cli.py", "import export_pipeline.definitions", "Imports point downwards only"),
        ("mongo/snapshot.py", "def late():\n    import export_pipeline.slices.plan", "Imports point downwards only"),
        ("helpers.py", "", "Imports point downwards only"),
        ("demo/run.py", "import export_pipeline.orchestration.names", "The demo uses the library"),
        ("packages/assemble.py", "import dagster", "import Dagster"),
        ("exporter.py", "def late():\n    from dagster import Failure", "import Dagster"),
    ],
)
def test_a_wrong_import_breaks_a_contract(copied: Path, module: str, wrong: str, contract: str) -> None:
    with (copied / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{wrong}\n")
    holds, said = lint(copied.parent)
    assert not holds
    assert any(contract in line for line in said.splitlines() if " BROKEN" in line), said
