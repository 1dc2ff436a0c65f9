"""A hub on this machine: what huggingface_hub asks of the real one when folders are pushed and fetched."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_a_friend"  # noqa: S105


class FakeHub(ThreadingHTTPServer):
    """Repositories by id, each a dict of commits; private ones need `TOKEN`.

    `repos[id]["revisions"]` maps branches to commits, `repos[id]["commits"]` commits to the contents of their files.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return repo["commits"][repo["revisions"].get(revision, revision)]

    def commit(self, repo_id: str, files: dict[str, bytes], revision: str = "main") -> str:
        repo = self.repos[repo_id]
        commit = hashlib.sha1(f"{len(repo['commits'])} {revision}".encode()).hexdigest()  # noqa: S324
        repo["commits"][commit] = files
        repo["revisions"][revision] = commit
        return commit

    def create(self, repo_id: str, *, private: bool = False) -> None:
        self.repos[repo_id] = {"private": private, "revisions": {}, "commits": {}}
        self.commit(repo_id, {})


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _handle(self) -> None:
        path = unquote(urlparse(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {path}")
        parts = path.split("/")
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.command == "POST" and not has_token:
            return self._error(401, "Unauthorized")
        if path == "api/repos/create":
            given = json.loads(body)
            repo_id = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            is_new = repo_id not in self.server.repos
            if is_new:
                self.server.create(repo_id, private=bool(given.get("private") or given.get("visibility") == "private"))
            return self._answer(200 if is_new else 409, {"url": f"{self.server.url}/{repo_id}"})
        is_api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_api else parts[:2])
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo["private"] and not has_token):
            return self._error(401, "RepoNotFound")
        return self._api(repo_id, repo, parts[4:], body) if is_api else self._resolve(repo_id, repo, parts[2:])

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815

    def _api(self, repo_id: str, repo: dict[str, Any], parts: list[str], body: bytes) -> None:
        action, revision = [*parts, "revision", "main"][:2] if not parts else (parts[0], "/".join(parts[1:]))
        if action == "branch":
            repo["revisions"].setdefault(revision, repo["revisions"]["main"])
            return self._answer(200, {})
        commit = repo["revisions"].get(revision, revision)
        if commit not in repo["commits"]:
            return self._error(404, "RevisionNotFound")
        files = repo["commits"][commit]
        if action == "preupload":
            wanted = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in wanted]
            return self._answer(200, {"files": modes})
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            added = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            new = self.server.commit(repo_id, {**files, **added}, revision)
            url = f"{self.server.url}/{repo_id}/commit/{new}"
            return self._answer(200, {"success": True, "commitUrl": url, "commitOid": new})
        if action == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
                for path, content in files.items()
            ]
            return self._answer(200, tree)
        siblings = [{"rfilename": path} for path in files]
        return self._answer(200, {"id": repo_id, "modelId": repo_id, "sha": commit, "tags": [], "siblings": siblings})

    def _resolve(self, repo_id: str, repo: dict[str, Any], parts: list[str]) -> None:
        revision, file = parts[1], "/".join(parts[2:])
        commit = repo["revisions"].get(revision, revision)
        if commit not in repo["commits"]:
            return self._error(404, "RevisionNotFound")
        content = repo["commits"][commit].get(file)
        if content is None:
            return self._error(404, "EntryNotFound")
        digest = hashlib.sha1(content).hexdigest()  # noqa: S324
        return self._answer(200, content, X_Repo_Commit=commit, ETag=f'"{digest}"')
