"""A server that speaks NDIF's protocol and runs what nnsight sends on a model of this machine, with faults to order."""

import base64
import email
import hashlib
import io
import json
import linecache
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import zstandard

KEY = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88  # the first byte of a whole web socket frame


class FakeNDIF:
    """Faults of the server and the requests that it saw.

    Attributes:
        url: its address.
        served: what it tells of the models that it has deployed.
        faults: one for each of the coming requests: None, ("handshake", status), ("post", status), "drop" (the
            connection is closed instead of an answer) or "fails" (the job fails). Statuses 429 ask to wait for 7
            seconds.
        jobs: shapes of the tokens of the jobs that ran.
    """

    def __init__(self, directory: Path, repo: str) -> None:
        self.model = _model(directory)
        self.url = ""
        self.served: dict[str, dict[str, str]] = {
            "one": {"repo_id": repo, "deployment_level": "HOT", "application_state": "RUNNING"},
            "two": {"repo_id": "other/cold", "deployment_level": "COLD"},
        }
        self.faults: list[Any] = []
        self.jobs: list[tuple[int, ...]] = []
        self.sessions: dict[str, queue.Queue[tuple[int, bytes]]] = {}

    def run(self, environment: dict[str, Any], blob: bytes) -> bytes:
        """Rebuild the block against this model, run it and return the saved values, as NDIF's own actor does."""
        from nnsight.schema.request import RequestModel
        from nnsight.schema.response import ResponseModel, Status
        from nnsight.tracing.tracer import _saves, dec, inc

        self.model._remoteable_set_env(environment)
        lines = dict(linecache.cache)
        tracer = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=True)
        self.jobs.append(tuple(tracer.args[0].shape))
        inc()
        try:
            tracer.execute(tracer.info.code)
            names = tracer.info.frame.f_locals.items()
            saved = {name: value for name, value in names if id(value) in _saves()}
        finally:
            dec()
            linecache.cache.clear()
            linecache.cache.update(lines)
        stored = io.BytesIO()
        torch.save(saved, stored)
        data = zstandard.ZstdCompressor().compress(stored.getvalue())
        return ResponseModel(id="job", status=Status.COMPLETED, data=data).pickle()


@cache
def _model(directory: Path) -> Any:
    """Load the model once for all servers."""
    from nnsight import TransformersModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return TransformersModel(model, tokenizer=AutoTokenizer.from_pretrained(directory), device="cpu")


def _handler(server: FakeNDIF) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def refuse(self, status: int, detail: str) -> None:
            body = json.dumps({"detail": detail}).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            self.answer(body)

        def answer(self, body: bytes) -> None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == "/status":
                self.send_response(200)
                self.answer(json.dumps({"deployments": server.served}).encode())
                return
            fault = server.faults[0] if server.faults else None
            if isinstance(fault, tuple) and fault[0] == "handshake":
                server.faults.pop(0)
                self.refuse(fault[1], "by order")
                return
            self.follow()

        def follow(self) -> None:
            """A web socket (RFC 6455): tells the session, then whatever its job has to tell."""
            magic = f"{self.headers['Sec-WebSocket-Key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode())
            self.end_headers()
            session = str(len(server.sessions))
            events: queue.Queue[tuple[int, bytes]] = queue.Queue()
            server.sessions[session] = events
            events.put((TEXT, json.dumps({"session_id": session}).encode()))
            while True:
                kind, content = events.get(timeout=600)
                # Lengths over two or eight bytes, which spares the short form.
                length = len(content)
                size = bytes([126]) + length.to_bytes(2, "big")
                if length < 126:
                    size = bytes([length])
                elif length > 0xFFFF:
                    size = bytes([127]) + length.to_bytes(8, "big")
                self.wfile.write(bytes([kind]) + size + content)
                if kind != TEXT:
                    break
            self.close_connection = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = email.message_from_bytes(head + body).get_payload()
            envelope, blob = (part.get_payload(decode=True) for part in parts)  # type: ignore[union-attr]
            request = json.loads(envelope)
            events = server.sessions[request["session_id"]]
            fault = server.faults.pop(0) if server.faults else None
            known = self.headers.get("ndif-api-key") == KEY
            if not known or isinstance(fault, tuple):
                self.refuse(fault[1] if known else 403, "by order" if known else "Invalid API key.")
                events.put((CLOSE, b""))
                return
            if fault == "fails":
                events.put(
                    (TEXT, json.dumps({"id": "job", "status": "ERROR", "description": "out of memory"}).encode())
                )
            if fault is not None:
                events.put((CLOSE, b""))
            else:
                events.put((TEXT, json.dumps({"id": "job", "status": "RUNNING"}).encode()))
                events.put((BINARY, server.run(request["env"], blob)))
            self.send_response(200)
            self.answer(json.dumps({"id": "job", "status": "RECEIVED"}).encode())

    return Handler


@contextmanager
def serving(directory: Path, repo: str) -> Iterator[FakeNDIF]:
    """A server of the model in a directory under a hub name."""
    fake = FakeNDIF(directory, repo)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
