"""An HTTP endpoint in a thread of the test, that speaks as DynamoDB does: one function answers every request."""

import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[str, bytes, Mapping[str, str]], tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]]
"""Operation, body and headers of a request to status and body of its answer, and more headers if it likes. May raise Dropped."""


class Dropped(Exception):
    """Instead of an answer the connection is closed: at once, or behind `said`, the beginning of an answer of `length` bytes."""

    def __init__(self, said: bytes = b"", length: int = 0) -> None:
        super().__init__(said, length)
        self.said, self.length = said, length


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked has gone
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def answering(answer: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The endpoint's address on that loopback port (0: a free one), until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            try:
                status, said, *more = answer(operation, body, self.headers)
            except Dropped as dropped:
                self.close_connection = True
                if dropped.length:
                    self.say(200, dropped.said, dropped.length)
                with suppress(OSError):
                    self.connection.shutdown(2)
                return
            self.say(status, said, len(said), *more)

        def say(self, status: int, said: bytes, length: int, more: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: object) -> None:
            """Nothing on the screen."""

    server = _Server(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls is not None else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
