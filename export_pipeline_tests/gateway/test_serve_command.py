"""``export-pipeline serve``, as its own process."""

import datetime as dt
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from export_pipeline.cli import main
from export_pipeline_tests.gateway.conftest import SECRET_KEY

Serve = Callable[..., tuple[int, "subprocess.Popen[bytes]"]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "DAGSTER_HOME": str(tmp_path), "EXPORT_PIPELINE_SECRET_KEY": SECRET_KEY}


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts the command and waits until it listens."""

    @contextmanager
    def serving(*arguments: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "export_pipeline", "serve", "--port", str(port), *arguments]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
            try:
                _wait_until_it_listens(port, process)
                yield port, process
            finally:
                process.terminate()
                process.wait(60)

    with ExitStack() as started:
        yield lambda *arguments: started.enter_context(serving(*arguments))


def _wait_until_it_listens(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError


def test_it_serves_until_it_is_told_to_end(serve: Serve, tmp_path: Path) -> None:
    port, process = serve()
    answer = httpx.get(f"http://127.0.0.1:{port}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "server" not in answer.headers
    httpx.get(f"http://127.0.0.1:{port}/d/a-link-that-must-not-be-logged")
    process.terminate()
    assert process.wait(60) in (0, -15)
    assert "must-not-be-logged" not in (tmp_path / "log").read_text()


def test_with_a_certificate_it_speaks_https(serve: Serve, tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    port, _ = serve("--tls-cert", str(certificate), "--tls-key", str(key))
    trusting = ssl.create_default_context(cafile=str(certificate))
    answer = httpx.get(f"https://127.0.0.1:{port}/healthz", verify=trusting)
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


def test_it_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    from export_pipeline.cli.serve import serve as command

    (host,) = (option for option in command.params if option.name == "host")
    assert host.default == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        ({}, [], "EXPORT_PIPELINE_SECRET_KEY"),
        ({"EXPORT_PIPELINE_SECRET_KEY": "short"}, [], "EXPORT_PIPELINE_SECRET_KEY"),
        ({"EXPORT_PIPELINE_SECRET_KEY": SECRET_KEY}, ["--tls-cert", __file__], "--tls-key"),
    ],
)
def test_bad_usage_is_one_clear_line(
    given: dict[str, str], arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "fastapi", "limits"])
def test_without_its_extra_it_names_that(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("export_pipeline.gateway"):
            monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["serve"])
    assert (result.exit_code, "pip install 'export-pipeline[http]'" in result.stderr) == (2, True), result.output


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    alternative: Any = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(*pem))
    return files
