"""Data sets of the hub: exact subsets, splits, and fetching from a server that speaks the hub's API."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nano3.artifacts import read_manifest
from nano3.data import hub
from nano3.data import tokenizer as tokenizers
from nano3.data.files import SourceFile
from nano3.data.raw import read_shards
from nano3.errors import UserError

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SUBSETS = (
    "High-Quality",
    "High-Quality-Synthetic",
    "High-Quality-Translated-To-English",
    "Medium-High-Quality",
    "Medium-High-Quality-Synthetic",
)


def listing(*names, configs=None):
    files = [SourceFile(name, 1) for name in names]
    return hub.Listing("nvidia/x", COMMIT, files, hub._card_configs({"configs": configs or []}))


def names(files):
    return [file.name for file in files]


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_subset_never_pulls_a_subset_whose_name_it_begins(subset):
    found = listing(*(f"{name}/part_{i}.parquet" for name in SUBSETS for i in range(3)))
    assert names(hub.select_files(found, subset, "train")) == [f"{subset}/part_{i}.parquet" for i in range(3)]


def test_a_subset_may_be_a_file_of_its_own_or_a_folder_at_any_depth():
    found = listing("data/chat_if.jsonl", "data/chat_if_2.jsonl", "data/4plus/a.parquet", "data/4plus_MIND/a.parquet")
    assert names(hub.select_files(found, "chat_if", "train")) == ["data/chat_if.jsonl"]
    assert names(hub.select_files(found, "4plus", "train")) == ["data/4plus/a.parquet"]
    dotted = listing("data/cpp.part_00.jsonl", "data/cpp.part_01.jsonl")
    assert names(hub.select_files(dotted, "cpp.part_01", "train")) == ["data/cpp.part_01.jsonl"]


def test_a_configuration_of_the_card_wins_over_folders_and_its_globs_stay_in_their_folder():
    found = listing(
        "3/a.parquet",
        "3/deep/b.parquet",
        "33/c.parquet",
        configs=[
            {"config_name": 3, "data_files": "3/*.parquet"},
            {"config_name": "all", "data_files": [{"split": "train", "path": ["**/*.parquet"]}]},
            {"config_name": "tested", "data_files": [{"split": "test", "path": "33/[abc].parquet"}]},
        ],
    )
    assert names(hub.select_files(found, "3", "train")) == ["3/a.parquet"]
    assert len(hub.select_files(found, "all", "train")) == 3
    assert names(hub.select_files(found, "tested", "test")) == ["33/c.parquet"]
    with pytest.raises(UserError, match="has no split 'train'; splits found: test"):
        hub.select_files(found, "tested", "train")


def test_a_subset_that_does_not_exist_names_those_that_do():
    found = listing("High-Quality/a.parquet", "Medium-Quality/a.parquet")
    with pytest.raises(UserError, match=r"no subset 'High'.*\n.*High-Quality, Medium-Quality"):
        hub.select_files(found, "High", "train")


def test_splits_are_told_by_whole_words_of_file_and_folder_names():
    found = listing("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "data/valid.jsonl")
    assert names(hub.select_files(found, None, "train")) == ["data/train-00000-of-00001.parquet"]
    assert names(hub.select_files(found, None, "validation")) == ["data/valid.jsonl"]
    with pytest.raises(UserError, match="no files of split 'extra'; splits found"):
        hub.select_files(found, None, "extra")
    plain = listing("contest.jsonl", "training_free.jsonl", "part.jsonl", "test.jsonl")
    assert names(hub.select_files(plain, None, "train")) == ["training_free.jsonl"]
    unnamed = listing("a/part.parquet", "b/part.parquet", "b/test.parquet")
    assert names(hub.select_files(unnamed, None, "train")) == ["a/part.parquet", "b/part.parquet"]


def test_a_network_error_is_tried_again_and_then_explained(monkeypatch):
    monkeypatch.setattr(hub, "FIRST_WAIT_SECONDS", 0)
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("reset")
        return "there"

    assert hub._retry(flaky, repo="r", what="w") == "there"
    with pytest.raises(UserError, match="r: w failed 5 times; the last error was ConnectionError"):
        hub._retry(lambda: (_ for _ in ()).throw(ConnectionError("down")), repo="r", what="w")


class Hub:
    """One data set repository behind the hub's API on a loopback port. `fail` requests are answered 503 first."""

    def __init__(self, files: dict[str, bytes], fail: int = 0):
        self.requests: list[str] = []
        outer, failures = self, [fail]

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def answer(self, body: bytes, headers: dict[str, str], status: int = 200):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_GET(self):
                path = self.path.split("?")[0]
                outer.requests.append(f"{self.command} {path}")
                if "/resolve/" in path and failures[0]:
                    failures[0] -= 1
                    self.answer(b"", {}, 503)
                elif re.fullmatch(f"/api/(datasets|models)/nvidia/toy/revision/(main|{COMMIT})", path):
                    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
                    info = {"id": "nvidia/toy", "sha": COMMIT, "siblings": siblings, "cardData": {}}
                    self.answer(json.dumps(info).encode(), {"Content-Type": "application/json"})
                elif re.fullmatch(f"/api/models/nvidia/toy/tree/{COMMIT}", path):
                    tree = [
                        {"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()
                    ]
                    self.answer(json.dumps(tree).encode(), {"Content-Type": "application/json"})
                elif f"/nvidia/toy/resolve/{COMMIT}/" in path:
                    body = files[path.split(f"/{COMMIT}/")[1]]
                    etag = hashlib.sha256(body).hexdigest()
                    self.answer(body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
                else:
                    self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def toy():
    files = {
        f"{name}/part_{i}.jsonl": json.dumps({"text": f"{name} {i}"}).encode() + b"\n"
        for name in ("Good", "Good-Synthetic")
        for i in range(2)
    }
    hub_server = Hub(files | {"README.md": b"# toy"}, fail=1)
    yield hub_server
    hub_server.server.shutdown()
    hub_server.server.server_close()


def run(toy, tmp_path, script, section, *arguments):
    """Run a script on a recipe with `section` against the loopback hub, in a process of its own: the hub's client
    reads its settings from the environment once."""
    (tmp_path / "tiny.yaml").write_text((ROOT / "config/recipes/tiny.yaml").read_text())
    recipe = tmp_path / "test.yaml"
    recipe.write_text(f"extends: tiny\n{section}\n")
    settings = {
        "HF_ENDPOINT": toy.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT / "scripts"),
        "no_proxy": "127.0.0.1",
    }
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from nano3 import cli; from nano3.data import hub\n"
        f"import {script}; hub.FIRST_WAIT_SECONDS = 0.01; cli.run({script}.main)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "--recipe", recipe, "--output", tmp_path / "results/t/toy", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def fetch(toy, tmp_path, repo="nvidia/toy"):
    """The raw shards of the subset Good."""
    section = f"datasets:\n  toy: {{kind: hub, repo: {repo}, subset: Good}}"
    return run(toy, tmp_path, "raw_shards", section, "--dataset", "toy")


def test_one_subset_is_fetched_at_one_commit_and_nothing_else(toy, tmp_path):
    result = fetch(toy, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(read_shards(tmp_path / "results/t/toy"))
    assert [row["text"] for row in rows] == ["Good 0", "Good 1"]
    assert rows[0]["id"] == "Good/part_0.jsonl:0"
    assert read_manifest(tmp_path / "results/t/toy").statistics["commit"] == COMMIT
    fetched = {request.split(f"{COMMIT}/")[1] for request in toy.requests if "/resolve/" in request}
    assert fetched == {"Good/part_0.jsonl", "Good/part_1.jsonl"}


def test_a_repository_that_does_not_exist_is_explained(toy, tmp_path):
    result = fetch(toy, tmp_path, repo="nvidia/none")
    assert result.returncode == 1
    assert "nvidia/none does not exist on the hub, or is private and HF_TOKEN" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_a_tokenizer_of_the_hub_is_fetched_without_weights_and_checked(tmp_path):
    trained = tokenizers.train([f"words and numbers {i}" for i in range(99)], vocab_size=276, reserved=20)
    files = {"tokenizer.json": trained.to_str().encode(), "model.safetensors": b"heavy", "modeling.py": b"code"}
    server = Hub(files)
    try:
        section = "tokenizer: {kind: existing, path: nvidia/toy, vocab_size: null, datasets: null}"
        result = run(server, tmp_path, "tokenizer", section)
    finally:
        server.server.shutdown()
        server.server.server_close()
    assert result.returncode == 0, result.stdout + result.stderr
    manifest = read_manifest(tmp_path / "results/t/toy")
    assert set(manifest.files) == {"tokenizer.json", "chat_template.jinja"}
    assert manifest.statistics["commit"] == COMMIT and manifest.statistics["vocab_size"] == 276
    fetched = {request.split(f"{COMMIT}/")[1] for request in server.requests if "/resolve/" in request}
    assert fetched == {"tokenizer.json"}
