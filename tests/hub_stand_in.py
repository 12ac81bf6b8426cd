"""A Hugging Face hub of this machine: the routes by which models are pushed and fetched."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from huggingface_hub import constants

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories as {name: {path: content}}.

    breaks: paths whose next download ends in the middle. hangs: the same, but the connection stays
    open. asked: method, path and Range of each request.
    """

    repositories: dict[str, dict[str, bytes]] = {}
    uploaded: dict[str, bytes] = {}  # large files, by digest, before their commit
    breaks: set[str] = set()
    hangs: set[str] = set()
    asked: list[tuple[str, str, str]] = []

    def do_POST(self) -> None:  # noqa: N802
        body = self._body()
        if self.path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization') or 'somebody'}/{made['name']}"
            self.repositories.setdefault(name, {})
            return self._json({"url": f"{self._root()}/{name}", "id": name})
        if self.path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self._root()}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._json({"objects": objects, "transfer": "basic"})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(self.repositories[found[1]], body.decode().splitlines())
            url = f"{self._root()}/{found[1]}/commit/{COMMIT}"
            return self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self._json({})  # e.g. the check of the card's metadata

    def _commit(self, repository: dict[str, bytes], lines: list[str]) -> None:
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                repository[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository[value["path"]] = self.uploaded[value["oid"]]

    def do_PUT(self) -> None:  # noqa: N802
        self.uploaded[self.path.rpartition("/")[2]] = self._body()
        self._json({})

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        self.asked.append((self.command, path, self.headers.get("Range", "")))
        if found := re.fullmatch(r"/api/models/(.+?)(/(revision|tree)/.+)?", path):
            files = self.repositories.get(found[1])
            if files is None:
                return self._absent("RepoNotFound")
            if found[3] == "tree":
                return self._json([_entry(*file) for file in sorted(files.items())])
            names = [{"rfilename": name} for name in files]
            return self._json({"id": found[1], "sha": COMMIT, "siblings": names})
        found = re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", path)
        if found is None or found[1] not in self.repositories:
            return self._absent("RepoNotFound")
        if found[2] not in self.repositories[found[1]]:
            return self._absent("EntryNotFound")
        return self._file(found[2], self.repositories[found[1]][found[2]])

    def _file(self, name: str, content: bytes) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        rest = content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{_tag(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(rest)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            whole = name not in self.breaks | self.hangs
            self.breaks.discard(name)
            self.wfile.write(rest if whole else rest[: len(rest) // 2])
            if name in self.hangs:
                self.hangs.discard(name)
                self.rfile.read(1)  # returns when the client is gone

    def _absent(self, code: str) -> None:
        self.send_response(404)
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

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _root(self) -> str:
        return f"http://{self.headers['Host']}"

    def log_message(self, *_: object) -> None:
        pass


def _tag(name: str, content: bytes) -> str:
    """As the hub's: the SHA-256 of large files, git's own digest of others."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _tag(name, content)}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": _tag(name, content), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def hub_stand_in(cache: str) -> Iterator[type[Hub]]:
    """Inside, huggingface_hub asks this hub, and keeps what it fetches in `cache`."""
    own = {"repositories": {}, "uploaded": {}, "breaks": set(), "hangs": set(), "asked": []}
    hub = type("OneHub", (Hub,), own)
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    root = f"http://127.0.0.1:{server.server_port}"
    changed = {
        "ENDPOINT": root,
        "HUGGINGFACE_CO_URL_TEMPLATE": root + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": cache,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    try:
        with patch.multiple(constants, **changed):
            yield hub
    finally:
        server.shutdown()
        thread.join()
