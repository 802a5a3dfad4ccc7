"""A receiver of webhooks on 127.0.0.1 that fails in the ways a test asks for."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from export_pipeline_tests.notifications.mail_server import Certificate


@dataclass
class Receiver:
    """What was received, and how to answer next."""

    answers: deque[int | str] = field(default_factory=deque)
    """A status, ``drop`` (no answer) or ``drip`` (one that never ends); 204 once they are used up."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def open(self, certificate: Certificate | None = None) -> Iterator[None]:
        """Serve, over TLS where there is a certificate."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        server.daemon_threads = True
        if certificate is not None:
            server.socket = certificate.context().wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.targets.append(self.path)
            receiver.headers.append(self.headers)
            receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = receiver.answers.popleft() if receiver.answers else 204
            if answer == "drop":
                self.close_connection = True
            elif answer == "drip":
                self._drip()
            else:
                self.send_response(int(answer))
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _drip(self) -> None:
            self.close_connection = True
            try:
                for _ in range(100):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.1)
            except OSError:
                pass  # who asked has had enough

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
