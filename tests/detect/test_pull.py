from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from lec_guard import LayerDetector
from lec_guard.detect.bundle import pulled_folder
from lec_guard.detect.pull import pull
from lec_guard.errors import BundleError
from tests.detect.conftest import Saved
from tests.detect.models import edit_json

REVISION = "0123456789abcdef0123456789abcdef01234567"
REFERENCE = f"org/tiny@{REVISION}"


@dataclass
class Hub:
    """Enough of the Hugging Face hub to serve one repository, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    broken: str | None = None
    dropped: str | None = None
    endpoint: str = ""

    def got(self) -> set[str]:
        """The files that were downloaded."""
        prefix = f"/org/tiny/resolve/{REVISION}/"
        return {path.removeprefix(prefix) for verb, path in self.requests if verb == "GET" and path.startswith(prefix)}

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and content for a path."""
        api, resolve = "/api/models/org/tiny", f"/org/tiny/resolve/{REVISION}/"
        if path == f"{api}/revision/{REVISION}":
            siblings = [{"rfilename": name} for name in self.files]
            return 200, json.dumps({"id": "org/tiny", "sha": REVISION, "siblings": siblings}).encode()
        if path == f"{api}/tree/{REVISION}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            return 200, json.dumps(tree).encode()
        for name, content in self.files.items():
            # A name that climbs is known by its end, because clients resolve its dots.
            if path == resolve + name or (".." in name and path.endswith(Path(name).name)):
                return (403, b"") if name == self.broken else (200, content)
        return 404, b""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, content = hub.answer(path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command == "GET" and hub.dropped and path.endswith(hub.dropped):
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEC_GUARD_HOME", str(tmp_path / "store"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "store"


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def base(bert: Saved, hub: Hub) -> dict[str, bytes]:
    """A base model on the hub, among files that nobody needs."""
    wanted = {
        **{name: (bert.folder / name).read_bytes() for name in ("config.json", "tokenizer.json", "model.safetensors")},
        "tokenizer_config.json": b"{}",
        "extra-00001.safetensors": b"more",
        "model.safetensors.index.json": b"{}",
    }
    hub.files = {
        **wanted,
        "pytorch_model.bin": b"\x80\x04N.",
        "modeling_tiny.py": b"raise SystemExit",
        "setup.sh": b"exit 1",
        "README.md": b"# tiny",
        "vocab.json": b"{}",
        "tf_model.h5": b"",
        "onnx/model.safetensors": b"not this one",
        "nested/config.json": b"{}",
    }
    return wanted


def test_only_safetensors_and_their_json_are_fetched(hub: Hub, base: dict[str, bytes], store: Path) -> None:
    folder = pull(REFERENCE, endpoint=hub.endpoint)
    assert folder == pulled_folder("org/tiny", REVISION)
    assert folder.is_relative_to(store)
    assert contents(folder) == base
    assert hub.got() == set(base)


def test_second_pull_asks_nobody(hub: Hub, base: dict[str, bytes]) -> None:
    first = pull(REFERENCE, endpoint=hub.endpoint)
    hub.requests.clear()
    assert pull(REFERENCE, endpoint=hub.endpoint) == first
    assert pull(REFERENCE, endpoint="http://127.0.0.1:9") == first
    assert hub.requests == []


def test_pull_leaves_nothing_beside_the_folder(hub: Hub, base: dict[str, bytes], store: Path, tmp_path: Path) -> None:
    folder = pull(REFERENCE, endpoint=hub.endpoint)
    assert {path for path in store.rglob("*") if path.is_file()} == {folder / name for name in base}
    assert files_in(tmp_path / "hf") == set()


def test_pulled_base_serves_a_bundle_that_names_it(
    hub: Hub, base: dict[str, bytes], bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    edit_json(copy / "detector.json", base={"kind": "hub", "repo": "org/tiny", "revision": REVISION})
    with pytest.raises(BundleError, match=f"lec-guard bundle pull {REFERENCE}"):
        LayerDetector.load(copy)
    pull(REFERENCE, endpoint=hub.endpoint)
    LayerDetector.load(copy)


def test_bundle_is_fetched(hub: Hub, bundle: Path) -> None:
    hub.files = {**contents(bundle), "evil.py": b"raise SystemExit"}
    folder = pull(REFERENCE, endpoint=hub.endpoint)
    assert contents(folder) == contents(bundle)
    LayerDetector.load(folder)


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_token_of_the_environment_changes_nothing(
    hub: Hub, base: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert contents(pull(REFERENCE, endpoint=hub.endpoint)) == base


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_token_goes_to_the_clients_own_hub_and_to_no_other(
    hub: Hub, base: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, store: Path, slash: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert contents(pull(REFERENCE, endpoint=hub.endpoint + slash)) == base
    assert hub.tokens == {""}
    shutil.rmtree(store)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    files = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    assert contents(pull(REFERENCE, endpoint=hub.endpoint + slash)) == base
    assert "Bearer hf_secret" in hub.tokens


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "org/tiny",
        "org/tiny@main",
        "org/tiny@v1.0",
        f"tiny@{REVISION}",
        f"org/tiny@{REVISION[:39]}",
        f"org/tiny@{REVISION}0",
        f"org/tiny@{REVISION.upper()}",
        f"org/tiny@{REVISION}\n",
        f"a/b/c@{REVISION}",
        f"https://example.org/org/tiny@{REVISION}",
        f"org/ti ny@{REVISION}",
    ],
)
def test_unpinned_reference_is_refused_without_a_request(hub: Hub, store: Path, reference: str) -> None:
    with pytest.raises(BundleError, match="40 digits of a commit"):
        pull(reference, endpoint=hub.endpoint)
    assert hub.requests == []
    assert not store.exists()


@pytest.mark.parametrize("repo", ["../..", "org/..", "-org/--tiny", ".hidden/.x"])
def test_repository_name_that_is_none_is_refused(hub: Hub, store: Path, repo: str) -> None:
    with pytest.raises(BundleError):
        pull(f"{repo}@{REVISION}", endpoint=hub.endpoint)
    assert files_in(store) == set()


def test_unknown_repository_is_refused_and_leaves_nothing(hub: Hub, store: Path) -> None:
    with pytest.raises(BundleError, match=f"org/other@{REVISION}: could not be fetched"):
        pull(f"org/other@{REVISION}", endpoint=hub.endpoint)
    assert hub.requests
    assert files_in(store) == set()


def test_hub_that_does_not_answer_is_refused_and_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(BundleError, match="could not be fetched"):
        pull(REFERENCE, endpoint="http://127.0.0.1:9")
    assert files_in(store) == set()


def test_file_that_is_refused_leaves_nothing(hub: Hub, base: dict[str, bytes], store: Path) -> None:
    hub.broken = "tokenizer.json"
    with pytest.raises(BundleError, match="could not be fetched"):
        pull(REFERENCE, endpoint=hub.endpoint)
    assert hub.got()
    assert files_in(store) == set()
    hub.broken = None
    assert contents(pull(REFERENCE, endpoint=hub.endpoint)) == base


def test_connection_that_drops_half_way_leaves_nothing(
    hub: Hub, base: dict[str, bytes], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.dropped = "/model.safetensors"
    with pytest.raises(BundleError, match="could not be fetched"):
        pull(REFERENCE, endpoint=hub.endpoint)
    assert files_in(store) == set()


@pytest.mark.parametrize("missing", ["config.json", "*.safetensors", "*"])
def test_repository_without_a_model_is_refused_and_leaves_nothing(
    hub: Hub, base: dict[str, bytes], store: Path, missing: str
) -> None:
    hub.files = {name: content for name, content in hub.files.items() if not Path(name).match(missing)}
    with pytest.raises(BundleError, match="neither a bundle nor"):
        pull(REFERENCE, endpoint=hub.endpoint)
    assert files_in(store) == set()


def test_altered_bundle_is_refused_and_leaves_nothing(hub: Hub, bundle: Path, store: Path) -> None:
    hub.files = contents(bundle)
    hub.files["heads.safetensors"] += b"\0"
    with pytest.raises(BundleError, match=r"heads\.safetensors: sha256"):
        pull(REFERENCE, endpoint=hub.endpoint)
    assert files_in(store) == set()


@pytest.mark.parametrize(
    "name", ["../../../../escaped.safetensors", "/escaped.safetensors", "a/../../escaped.safetensors"]
)
def test_hub_writes_nowhere_else(hub: Hub, base: dict[str, bytes], store: Path, tmp_path: Path, name: str) -> None:
    hub.files[name] = b"escaped"
    with contextlib.suppress(BundleError):
        pull(REFERENCE, endpoint=hub.endpoint)
    assert not list(tmp_path.rglob("escaped*"))
    assert name not in hub.got()
