"""A small HTTP server on 127.0.0.1 that counts the bytes it sends and misbehaves on request."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serves a folder; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: Counter[str] = Counter()  # bytes by path
        self.requests: list[tuple[str, str | None]] = []  # path and Range header
        self.ranges = True
        self.break_after: int | None = None  # drop every connection after so many bytes
        self.refuse: dict[str, int] = {}  # path -> status
        self.seconds_per_chunk = 0.0
        self.chunk = 1 << 14

    def __enter__(self) -> "FileServer":
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.partition("?")[0].lstrip("/")
        wanted = request.headers.get("Range")
        self.requests.append((name, wanted))
        path = self.folder / name
        status = self.refuse.get(name) or (200 if path.is_file() else 404)
        if status != 200:
            request.send_error(status)
            return
        payload = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start and start >= len(payload):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(payload) - 1}/{len(payload)}")
        request.send_header("Content-Length", str(len(payload) - start))
        request.end_headers()
        self._send(request, name, payload[start:])

    def _send(self, request: BaseHTTPRequestHandler, name: str, payload: bytes) -> None:
        limit = len(payload) if self.break_after is None else self.break_after
        try:
            for at in range(0, min(limit, len(payload)), self.chunk):
                piece = payload[at : min(at + self.chunk, limit)]
                request.wfile.write(piece)
                self.sent[name] += len(piece)
                time.sleep(self.seconds_per_chunk)
        except OSError:  # the reader was killed
            pass
        request.close_connection = True

    def total(self, suffix: str = "") -> int:
        """Bytes sent of all files of this kind."""
        return sum(n for name, n in self.sent.items() if name.endswith(suffix))
