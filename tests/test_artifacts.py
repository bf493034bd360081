"""Artifacts: whole or absent, deterministic manifests, and no wrong byte goes unnoticed."""

import json
from pathlib import Path

import pytest

from nano3.artifacts import building, digest_of, publish_directory, read_manifest, verify
from nano3.artifacts.code_version import code_version
from nano3.errors import UserError

SUFFIXES = ["bin", "idx", "npy", "safetensors", "jsonl", "jsonl.zst", "json"]


def make(output: Path, content: bytes = b"payload", *, config=None, inputs=None) -> Path:
    with building(output, kind="test", config=config or {"a": 1}, inputs=inputs) as artifact:
        for suffix in SUFFIXES:
            (artifact.path / f"file.{suffix}").write_bytes(content)
        (artifact.path / "deep" / "er").mkdir(parents=True)
        (artifact.path / "deep" / "er" / "x").write_bytes(b"y")
        artifact.statistics["rows"] = 3
    return output


def test_equal_inputs_and_configuration_give_equal_manifest_bytes(tmp_path):
    first, second = make(tmp_path / "one"), make(tmp_path / "sub" / "two")
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    assert str(tmp_path) not in (first / "manifest.json").read_text()


def test_the_manifest_records_configuration_inputs_files_and_statistics(tmp_path):
    source = make(tmp_path / "source")
    manifest = read_manifest(make(tmp_path / "result", config={"b": 2}, inputs={"source": source}))
    assert manifest.config == {"b": 2}
    assert manifest.inputs == {"source": digest_of(source)}
    assert manifest.files["deep/er/x"]["bytes"] == 1
    assert manifest.statistics == {"rows": 3}


def test_a_failed_build_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), building(tmp_path / "one", kind="test", config={}) as artifact:
        (artifact.path / "half").write_text("...")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte_is_an_error_that_names_the_file(tmp_path, suffix):
    artifact = make(tmp_path / "one")
    file = artifact / f"file.{suffix}"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        verify(artifact)
    assert str(file) in str(error.value) and "expected" in str(error.value)
    verify(artifact, hashes=False)  # only the hash can tell


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_truncated_or_missing_file_is_found_without_hashing(tmp_path, damage):
    artifact = make(tmp_path / "one")
    file = artifact / "file.bin"
    file.write_bytes(b"") if damage == "truncated" else file.unlink()
    with pytest.raises(UserError, match=r"file\.bin"):
        verify(artifact, hashes=False)


def test_an_artifact_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="snakemake"):
        read_manifest(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a valid manifest"):
        read_manifest(tmp_path)


def test_files_that_no_rule_made_are_never_overwritten(tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("my only copy")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        make(output)
    assert (output / "thesis.txt").read_text() == "my only copy"


def test_an_older_artifact_is_replaced_and_an_empty_directory_filled(tmp_path):
    (tmp_path / "one").mkdir()
    make(tmp_path / "one", b"old....")
    make(tmp_path / "one", b"new")
    assert (tmp_path / "one" / "file.bin").read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_publishing_again_links_instead_of_copying(tmp_path):
    source = make(tmp_path / "work")
    publish_directory(source, tmp_path / "shown")
    verify(tmp_path / "shown")
    assert (source / "file.bin").samefile(tmp_path / "shown" / "file.bin")


def test_provenance_is_kept_apart_from_the_manifest(tmp_path):
    artifact = make(tmp_path / "one")
    provenance = json.loads((artifact / "provenance.json").read_text())
    assert {"started", "seconds", "code", "packages", "peak_memory_bytes"} <= set(provenance)
    assert "provenance.json" not in read_manifest(artifact).files


def test_code_version_follows_imports_of_a_script():
    assert code_version("blend") == code_version("blend")
    assert code_version("blend") != code_version("report")
    assert len(code_version()) == 16
