"""A hub on this machine that the real client of `huggingface_hub` talks to: repositories in memory, over HTTP."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN, OWNER = "hf_of_someone", "someone"


class Hub:
    """Repositories: name -> its privacy and its files; ``log`` are the requests that it got."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.log: list[str] = []

    def commit_of(self, name: str) -> str:
        """Return the hash of what a repository holds."""
        files = self.repositories[name]["files"]
        return hashlib.sha1(b"".join(key.encode() + files[key] for key in sorted(files))).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, content: Any = None, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def repository(self, parts: list[str]) -> dict[str, Any] | None:
            """Return a repository, or answer as the hub does to who may not know of it."""
            found = hub.repositories.get("/".join(parts))
            if found is None or (found["private"] and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return None
            return found

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.log.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                if (found := self.repository(parts[2:4])) is None:
                    return
                name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
                if revision not in ("main", hub.commit_of(name)):
                    self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
                elif parts[4:5] == ["tree"]:
                    listed = [
                        {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                        for key, value in found["files"].items()
                    ]
                    self.answer(200, json.dumps(listed).encode(), Content_Type="application/json")
                else:
                    siblings = [{"rfilename": key} for key in found["files"]]
                    facts = {"id": name, "sha": hub.commit_of(name), "private": found["private"], "siblings": siblings}
                    self.answer(200, facts)
                return
            if (found := self.repository(parts[:2])) is None:
                return
            file = "/".join(parts[4:])
            if file not in found["files"]:
                self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
                return
            content = found["files"][file]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=hub.commit_of("/".join(parts[:2])))

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.log.append(f"POST {path}")
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            here = f"http://{self.headers['Host']}"
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid credentials"})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                wanted = json.loads(raw)
                name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
                private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
                if not name.startswith(f"{OWNER}/"):
                    self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
                elif name in hub.repositories:
                    self.answer(409, {"error": "exists", "url": f"{here}/{name}"})
                else:
                    hub.repositories[name] = {"private": private, "files": {}}
                    self.answer(200, {"url": f"{here}/{name}", "id": name})
            else:
                *_, owner, name, kind, _ = path.split("/")
                if (found := self.repository([owner, name])) is None:
                    return
                if kind == "preupload":
                    files = [file["path"] for file in json.loads(raw)["files"]]
                    modes = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
                    self.answer(200, {"files": modes})
                    return
                for line in raw.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        found["files"][entry["value"]["path"]] = content
                commit = hub.commit_of(f"{owner}/{name}")
                facts = {"success": True, "commitOid": commit, "commitUrl": f"{here}/{owner}/{name}/commit/{commit}"}
                self.answer(200, facts | {"hookOutput": ""})

    return Handler


@contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """Serve an empty hub; yield it with its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client reaches instead of the real one, logged in, with an empty cache of its own."""
    with serving() as (served, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served
