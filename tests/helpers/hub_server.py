"""A stand-in for the Hugging Face hub: the parts of its HTTP API with which files go up and come back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


class Hub:
    """Repositories in memory.

    Attributes:
        files: By repository and path.
        private: Repositories that were made private.
        commits: How many commits each repository has.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: dict[str, int] = {}
        self.url = ""

    def sha(self, repo: str) -> str:
        """Return the name of a repository's last commit."""
        return hashlib.sha1(f"{repo} {self.commits[repo]}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        """Send JSON, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        """Send one of the hub's errors."""
        self.answer({"error": code}, status, X_Error_Code=code)

    @property
    def place(self) -> str:
        return unquote(urlsplit(self.path).path)

    def read(self) -> bytes:
        """Return the body of the request, in chunks or whole."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self) -> None:
        body = self.read()
        if self.place == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "Unauthorized")
        if self.place == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            status = 409 if repo in self.hub.files else 200
            self.hub.files.setdefault(repo, {})
            self.hub.commits.setdefault(repo, 0)
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            return self.answer({"url": f"{self.hub.url}/{repo}", "id": repo}, status)
        repo, verb = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.place).groups()
        if verb == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self.answer({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.hub.files[repo][line["value"]["path"]]
        self.hub.commits[repo] += 1
        sha = self.hub.sha(repo)
        return self.answer(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha, "success": True}
        )

    def do_GET(self) -> None:
        repo = "/".join(self.place.removeprefix("/api/models/").lstrip("/").split("/")[:2])
        if repo not in self.hub.files:
            return self.fail(404, "RepoNotFound")
        files = self.hub.files[repo]
        if self.place.startswith("/api/models/") and "/tree/" in self.place:
            rows = [{"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in sorted(files.items())]  # fmt: skip
            return self.answer(rows)
        if self.place.startswith("/api/models/"):
            siblings = [{"rfilename": path} for path in sorted(files)]
            return self.answer(
                {"id": repo, "sha": self.hub.sha(repo), "siblings": siblings, "private": False, "tags": []}
            )
        name = self.place.split("/resolve/", 1)[1].partition("/")[2]
        if name not in files:
            return self.fail(404, "EntryNotFound")
        etag = hashlib.sha1(files[name]).hexdigest()
        return self.answer(files[name], ETag=f'"{etag}"', X_Repo_Commit=self.hub.sha(repo))

    do_HEAD = do_GET


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve a hub on this machine until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
