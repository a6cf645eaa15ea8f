"""A model hub on loopback: as much of its protocol as huggingface_hub speaks to fetch a model."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "acme/tiny"
FOREVER = 1 << 62


class Hub:
    """One model, `files`, at one commit. Counts the bytes of every file that it sends."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.refusal: tuple[int, str] | None = None
        self.sent: Counter[str] = Counter()
        self.allowance = FOREVER
        self.spent = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        self.ignores_ranges = False
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Generator["Hub"]:
        """Answer until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def stop_after(self, num_bytes: int) -> None:
        """Break connections once so many more bytes were sent; `spent` is set then."""
        self.allowance = num_bytes
        self.spent.clear()

    def hold_after(self, num_bytes: int) -> None:
        """Send nothing more once so many bytes were sent, until told again; `spent` is set then."""
        self.stop_after(num_bytes)
        self._resumed.set() if num_bytes == FOREVER else self._resumed.clear()

    def allow(self, name: str, data: bytes) -> bytes:
        """The part of `data` that may be sent."""
        if self.allowance < len(data) and not self._resumed.is_set():
            self.spent.set()
            self._resumed.wait()
        with self.lock:
            data = data[: self.allowance]
            self.allowance -= len(data)
            self.sent[name] += len(data)
            if not self.allowance:
                self.spent.set()
            return data

    def use(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Make huggingface_hub in this process speak to this hub, with a cache of its own."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def environment(self, cache: Path) -> dict[str, str]:
        """The same for another process."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(cache)}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error here."""


def files_of(directory: Path) -> dict[str, bytes]:
    """A model's files, as a hub would hold them."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            api, file = f"/api/models/{MODEL}/", f"/{MODEL}/resolve/"
            path = self.path.partition("?")[0]
            if hub.refusal:
                self._refuse(*hub.refusal)
            elif path.startswith(api):
                self._answer_api(*path.removeprefix(api).split("/", 1))
            elif path.startswith(file):
                self._answer_file(*path.removeprefix(file).split("/", 1))
            else:
                self._refuse(404, "RepoNotFound")

        def _answer_api(self, what: str, revision: str = "") -> None:
            if revision not in ("main", "v1", COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif what == "revision":
                self._json({"id": MODEL, "sha": COMMIT, "siblings": []})
            else:
                assert what == "tree"
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                        for name, data in hub.files.items()
                    ]
                )

        def _answer_file(self, revision: str, name: str) -> None:
            assert revision == COMMIT
            if name not in hub.files:
                self._refuse(404, "EntryNotFound")
                return
            data = hub.files[name]
            start, end = self._range(len(data))
            is_whole = "Range" not in self.headers or hub.ignores_ranges
            self.send_response(200 if is_whole else 206)
            if not is_whole:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.send_header("ETag", f'"{_oid(data)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if self.command == "GET":
                self._send(name, data[start:end])

        def _send(self, name: str, data: bytes) -> None:
            for start in range(0, len(data), 1024):
                block = data[start : start + 1024]
                allowed = hub.allow(name, block)
                self.wfile.write(allowed)
                if len(allowed) < len(block):
                    self.close_connection = True
                    return

        def _range(self, size: int) -> tuple[int, int]:
            if hub.ignores_ranges or "Range" not in self.headers:
                return 0, size
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            return int(first), min(int(last) + 1 if last else size, size)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
