"""Lineage, its picture, and the drift list."""

import json
import re
import shutil

import pytest

from data_jobs import script
from fake_results import RECIPE
from nano3.artifacts import building, digest_of
from nano3.artifacts.lineage import find_manifests, grouped, load_lineage, mermaid, read_lineage, upstream
from nano3.errors import UserError
from nano3.report.graph import draw_lineage


@pytest.fixture
def results(tmp_path):
    """Three raw shards -> tokenizer, tokens of each -> a blend -> two stages, one after the other."""
    root = tmp_path / "results" / "tiny"
    raw = [root / "data/raw/code" / str(group) for group in range(3)]
    for group, path in enumerate(raw):
        _make(path, "raw", {"group": group}, {}, rows=10)
    _make(root / "tokenizer", "tokenizer", {}, {"raw": raw[0]})
    tokens = [root / "data/tokens/code" / str(group) for group in range(3)]
    for group, path in enumerate(tokens):
        inputs = {"raw": raw[group], "tokenizer": root / "tokenizer"}
        _make(path, "tokens", {"group": group}, inputs, tokens={"train": 90, "valid": 10})
    _make(root / "data/blend/phase1", "blend", {}, {str(i): path for i, path in enumerate(tokens)})
    inputs = {"blend": root / "data/blend/phase1", "tokenizer": root / "tokenizer"}
    _make(root / "pretrain/phase1", "pretrain/phase1", {}, inputs)
    _make(root / "pretrain/phase2", "pretrain/phase2", {}, {"model": root / "pretrain/phase1"})
    return root


def _make(path, kind, config, inputs, **statistics):
    with building(path, kind=kind, config=config, inputs=inputs) as made:
        (made.path / "data.txt").write_text(f"{kind} {config}")
        made.statistics |= statistics


def test_edges_follow_the_digests_in_the_manifests(results):
    lineage = read_lineage(results)
    edges = {(edge.source, edge.target, edge.input) for edge in lineage.edges}
    assert ("data/blend/phase1", "pretrain/phase1", "blend") in edges
    assert ("data/raw/code/1", "data/tokens/code/1", "raw") in edges
    assert len(lineage.nodes) == 10 and len(edges) == 13 and not lineage.missing


def test_work_directories_take_no_part(results):
    shutil.copytree(results / "pretrain/phase1", results / ".work/pretrain/phase1/abc/result")
    assert not [file for file in find_manifests(results) if ".work" in file.parts]


def test_an_input_that_was_made_again_with_other_content_is_missing(results, capsys):
    old = digest_of(results / "data/blend/phase1")
    _make(results / "data/blend/phase1", "blend", {"changed": True}, {})
    lineage = read_lineage(results)
    assert [(entry.path, entry.input, entry.digest) for entry in lineage.missing] == [("pretrain/phase1", "blend", old)]
    script("lineage").main(["--recipe", str(RECIPE), "--output", str(results / "lineage.json")])
    assert f"snakemake --profile profiles/local {results}/pretrain/phase1" in capsys.readouterr().out


def test_the_file_is_deterministic_and_reads_back(results):
    main = script("lineage").main
    main(["--recipe", str(RECIPE), "--output", str(results / "lineage.json")])
    first = (results / "lineage.json").read_bytes()
    main(["--recipe", str(RECIPE), "--output", str(results / "lineage.json")])
    assert (results / "lineage.json").read_bytes() == first
    assert load_lineage(results / "lineage.json") == read_lineage(results)
    assert (results / "lineage.svg").read_text().startswith("<svg") and str(results) not in first.decode()


def test_shards_that_play_the_same_part_share_a_box_and_others_do_not(results):
    groups, edges = grouped(read_lineage(results))
    sizes = {(group.kind, len(group.members)) for group in groups}
    # raw/0 also went into the tokenizer, so it and its tokens stand apart from the two others
    assert sizes == {
        ("raw", 1), ("raw", 2), ("tokenizer", 1), ("tokens", 1), ("tokens", 2), ("blend", 1),
        ("pretrain/phase1", 1), ("pretrain/phase2", 1),
    }  # fmt: skip
    assert all(source != target for source, target in edges)
    assert "tokens ×2" in mermaid(read_lineage(results))


def test_the_picture_names_every_group_and_leaves_out_arrows_that_follow_from_others(results):
    picture = draw_lineage(read_lineage(results))
    assert picture.count('class="box') == 8
    assert "pretrain/phase2" in picture and "100 tokens" in picture
    # tokenizer -> phase1 follows from tokenizer -> tokens -> blend -> phase1
    direct = len(grouped(read_lineage(results))[1])
    assert len(re.findall(r"C", picture)) <= direct + 2


def test_upstream_keeps_what_an_artifact_was_made_from_and_nothing_else(results):
    part = upstream(read_lineage(results), {"data/tokens/code/2"})
    assert {node.path for node in part.nodes} == {
        "data/tokens/code/2", "data/raw/code/2", "data/raw/code/0", "tokenizer"
    }  # fmt: skip


def test_errors_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match="snakemake"):
        read_lineage(tmp_path / "results" / "none")
    broken = tmp_path / "lineage.json"
    broken.write_text('{"nodes": []}')
    with pytest.raises(UserError, match="not a lineage file"):
        load_lineage(broken)


def test_drift_lists_exactly_the_artifacts_of_other_code(results):
    provenance = results / "pretrain/phase1/provenance.json"
    record = json.loads(provenance.read_text())
    provenance.write_text(json.dumps(record | {"code": "0" * 16}))
    (results / "tokenizer/provenance.json").unlink()
    script("drift").main(["--recipe", str(RECIPE), "--output", str(results / "drift.txt")])
    lines = (results / "drift.txt").read_text().splitlines()
    assert lines[0].startswith("2 of 10 artifacts")
    assert [line.split(":")[0] for line in lines[1:]] == ["pretrain/phase1", "tokenizer"]
