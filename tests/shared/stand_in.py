"""Stands in for `brigade COMMAND` in test_up.py: prints its lines, serves what `up` asks for."""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).parents[2]))
from shared.brigade import stop_at_eof

COMMAND, *OPTIONS = sys.argv[1:]
BREAKS, _, HOW = os.environ.get("STAND_IN_BREAKS", "").partition(" ")
HOW = HOW if BREAKS == COMMAND else ""


def option(name: str) -> str:
    return OPTIONS[OPTIONS.index(name) + 1]


class Gateway(BaseHTTPRequestHandler):
    pieces: ClassVar = ["A ", "stand-in."]

    def do_GET(self) -> None:
        self.send_response(503 if HOW == "unready" else 200)
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "No yeast."}}')

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        for piece in self.pieces:
            chunk = {"choices": [{"delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


threading.Thread(target=stop_at_eof, daemon=True).start()
if HOW == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if HOW == "exits":
    sys.exit(print(f"{COMMAND}: out of flour", file=sys.stderr) or 3)
if HOW == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
match COMMAND:
    case "bootstrap":
        print("bootstrap ready: /ip4/127.0.0.1/tcp/1/p2p/x", flush=True)
    case "worker":
        start, end = map(int, option("--blocks").split(":"))
        print(f"worker: loading blocks {start}:{end} (40%)", flush=True)
        worker = {"peer_id": "p", "start": start, "end": end, "url": "ws://x", "pid": os.getpid()}
        print(f"worker ready: {json.dumps(worker)}", flush=True)
    case _:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        url = f"http://127.0.0.1:{server.server_port}"
        print(f"gateway ready: {json.dumps({'url': url, 'pid': os.getpid()})}", flush=True)
        server.serve_forever()
time.sleep(60)
