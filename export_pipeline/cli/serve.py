"""The command that serves the HTTP API."""

from pathlib import Path

import click

from export_pipeline.errors import BadInputError
from export_pipeline.settings import Settings

GRACE_SECONDS = 30
"""How long downloads under way may go on once the process is told to end."""

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65_535), help="The port; 0: any free one."
)
@click.option("--tls-cert", type=_file, help="The certificate (PEM, with its chain); then it speaks https.")
@click.option("--tls-key", type=_file, help="The certificate's key (PEM).")
def serve(host: str, port: int, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Serve the HTTP API, for those who have a token ('export-pipeline token create').

    Needs EXPORT_PIPELINE_SECRET_KEY. Reached from other machines, it wants TLS: by these options, or by a proxy in
    front of it on this machine.
    """
    if (tls_cert is None) != (tls_key is None):
        raise BadInputError("--tls-cert and --tls-key: give both or none")
    try:
        import uvicorn

        from export_pipeline.gateway.app import create_app
    except ImportError as error:
        raise BadInputError(f"serve needs more ({error.name}): pip install 'export-pipeline[http]'") from None
    from export_pipeline.exporter import Exporter

    with Exporter(Settings.load()) as exporter:
        uvicorn.run(
            create_app(exporter),
            host=host,
            port=port,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            # Paths hold links, which open what they are for; the history of accesses has what an operator needs.
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
