"""Sources of raw shards: the Python installation, files on disk, generated tasks; and the script that runs them."""

import pyarrow
import pyarrow.parquet
import pytest

from data_jobs import recipe_file, script
from nano3.artifacts import read_manifest
from nano3.data import files, python_text
from nano3.data.bad_rows import BadRows
from nano3.data.files import SourceFile
from nano3.data.jsonl import write_jsonl
from nano3.data.raw import read_shards, text_of, write_shards
from nano3.data.sources import Source, read_rows
from nano3.errors import UserError
from nano3.recipe.data import Files, PythonText, Tasks


def rows_of(dataset, group=0, name="data", **keywords):
    source = Source(name, dataset, group, **keywords)
    return list(read_rows(source)), source


@pytest.mark.parametrize("kind", ["python_code", "python_docs"])
def test_python_text_is_the_same_every_time_and_groups_share_no_document(kind):
    whole = [rows_of(PythonText(kind=kind, max_bytes=60_000, groups=2), group)[0] for group in (0, 1)]
    again, _ = rows_of(PythonText(kind=kind, max_bytes=60_000, groups=2), 1)
    assert whole[1] == again
    first, second = ({row["id"] for row in rows} for rows in whole)
    assert first and second and not first & second
    assert set(again[0]) == {"id", "source", "text"}


def test_python_text_stops_after_its_bytes_over_all_groups():
    rows, _ = rows_of(PythonText(kind="python_docs", max_bytes=30_000))
    sizes = [len(row["text"].encode()) for row in rows]
    assert sum(sizes[:-1]) < 30_000 <= sum(sizes)


def test_test_suites_are_no_source():
    names = [name for name, _ in python_text.library_files()]
    assert names and not [name for name in names if "/test/" in f"/{name}" or "site-packages" in name]


def test_docstrings_come_with_the_qualified_name_as_title():
    tree_rows = python_text._documents(
        python_text.ast.parse(
            '"""About the module."""\nclass A:\n    """A class.""" \n    def f(self, x=1):\n'
            f'        """Does f. {"Long. " * 40}"""\ndef g():\n    """Does g."""\n'
        ),
        "pack.mod",
    )
    documents = {row["id"]: row["text"] for row in tree_rows}
    assert documents["pack.mod.A"].startswith("pack.mod.A\n\nA class.\n\nA.f(self, x=1)\n\nDoes f.")
    assert "pack.mod" not in documents  # what is left of the module is too short for a document


def test_files_are_divided_by_size_and_every_file_is_read_once():
    found = [SourceFile(f"f{i}", size) for i, size in enumerate([10, 90, 20, 80, 50, 50])]
    plans = [files.plan(found, groups=3, group=group) for group in range(3)]
    names = sorted(share.file.name for plan in plans for share in plan.shares)
    assert names == sorted(file.name for file in found)
    assert [sum(share.file.size for share in plan.shares) for plan in plans] == [100, 100, 100]
    assert not plans[0].by_row


def test_fewer_files_than_groups_are_dealt_out_row_by_row(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(5)])
    write_jsonl(tmp_path / "b.jsonl.gz", [{"text": f"b{i}"} for i in range(6)])
    dataset = Files(kind="files", paths=[str(tmp_path / "*")], groups=3)
    groups = [[row["text"] for row in rows_of(dataset, group)[0]] for group in range(3)]
    expected = [f"a{i}" for i in range(5)] + [f"b{i}" for i in range(6)]
    assert sorted(text for group in groups for text in group) == expected
    assert [len(group) for group in groups] == [4, 4, 3]


def test_max_rows_is_spread_over_files_and_groups(tmp_path):
    for name in "abcd":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name}{i}"} for i in range(9)])
    for groups in (1, 2, 8):
        dataset = Files(kind="files", paths=[str(tmp_path / "*.jsonl")], groups=groups, max_rows=10)
        texts = [row["text"] for group in range(groups) for row in rows_of(dataset, group)[0]]
        assert len(texts) == len(set(texts)) == 10
        assert {text[0] for text in texts} == set("abcd")


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    content = [{"id": f"x{i}", "body": f"text {i}", "other": i} for i in range(20)]
    write_jsonl(tmp_path / "rows.jsonl.zst", content)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), tmp_path / "rows.parquet")
    found = [
        rows_of(Files(kind="files", paths=[str(tmp_path / name)], text_field="body"))[0]
        for name in ("rows.jsonl.zst", "rows.parquet")
    ]
    assert found[0] == found[1]
    assert found[0][3] == {"id": "x3", "source": "data", "text": "text 3"}


def test_questions_and_answers_become_messages(tmp_path):
    write_jsonl(tmp_path / "qa.jsonl", [{"question": "2+2?", "answer": "4"}])
    dataset = Files(
        kind="files", form="chat", paths=[str(tmp_path / "qa.jsonl")], question_field="question", answer_field="answer"
    )
    rows, _ = rows_of(dataset)
    assert rows[0]["messages"] == [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def test_every_field_of_an_rl_row_is_kept(tmp_path):
    row = {"responses_create_params": {"input": []}, "agent_ref": {"name": "x"}, "pass_rate": 0.5, "odd": [1]}
    write_jsonl(tmp_path / "rl.jsonl", [row])
    rows, _ = rows_of(Files(kind="files", form="rl", paths=[str(tmp_path / "rl.jsonl")]), name="rl_data")
    assert rows[0].items() >= row.items()
    assert rows[0]["source"] == "rl_data" and rows[0]["id"].endswith("rl.jsonl:0")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_wrong_column_is_counted_and_the_columns_found_are_named(tmp_path, format):
    content = [{"body": "a", "title": "b"}]
    write_jsonl(tmp_path / "rows.jsonl", content)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), tmp_path / "rows.parquet")
    rows, source = rows_of(Files(kind="files", paths=[str(tmp_path / f"rows.{format}")]))
    assert not rows
    with pytest.raises(UserError, match=r"no column 'text'.*the columns are body, title"):
        source.bad.check(0, 0.01, where="data", key="tokenisation.max_bad_rows")


def test_a_pattern_without_files_says_where_it_looked(tmp_path):
    with pytest.raises(UserError, match=r"no file matches .*nothing"):
        rows_of(Files(kind="files", paths=[str(tmp_path / "nothing*.jsonl")]))


def test_a_file_of_unknown_format_is_an_error(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="can't tell its format"):
        rows_of(Files(kind="files", paths=[str(tmp_path / "rows.csv")]))


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"rows\.parquet is damaged"):
        rows_of(Files(kind="files", paths=[str(tmp_path / "rows.parquet")]))


def test_bad_rows_up_to_the_bound_are_allowed_and_more_are_an_error():
    bad = BadRows()
    bad.count("odd", where="f, line 1", sample="x")
    bad.check(99, 0.01, where="data", key="k")
    with pytest.raises(UserError, match=r"1 of 99 rows are bad"):
        bad.check(98, 0.01, where="data", key="k")


def test_task_families_are_mixed_evenly_and_groups_change_no_task():
    families = {"arithmetic": {"rows": 30}, "multiple_choice": {"rows": 10}}
    whole, _ = rows_of(Tasks(kind="tasks", form="rl", families=families), seed=1)
    parts = [rows_of(Tasks(kind="tasks", form="rl", families=families, groups=2), group, seed=1)[0] for group in (0, 1)]
    assert whole[::2] == parts[0] and whole[1::2] == parts[1]
    first_half = [row["agent_ref"]["name"] for row in whole[:20]]
    assert sorted(first_half.count(name) for name in set(first_half)) == [5, 15]
    other, _ = rows_of(Tasks(kind="tasks", form="rl", families=families), seed=1, name="another")
    assert [row["responses_create_params"] for row in other] != [row["responses_create_params"] for row in whole]


def test_a_group_that_does_not_exist_is_an_error():
    with pytest.raises(UserError, match=r"groups 0 \.\.\. 1, but group 2"):
        rows_of(PythonText(kind="python_code", max_bytes=10, groups=2), 2)


def test_shards_roll_over_at_their_size_and_keep_the_order(tmp_path):
    rows = [{"text": f"{i:04d}"} for i in range(100)]
    counts = write_shards(iter(rows), tmp_path, shard_bytes=500)
    assert counts["rows"] == 100 and counts["shards"] == len(list(tmp_path.iterdir())) > 2
    assert list(read_shards(tmp_path)) == rows


def test_the_text_of_a_row_is_all_its_natural_text():
    assert text_of({"text": "a"}) == "a"
    chat = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "reasoning_content": "r", "content": "a"}]
    }
    assert text_of(chat) == "q\nr\na"
    assert text_of({"responses_create_params": {"input": [{"role": "user", "content": "p"}]}}) == "p"


def test_the_script_publishes_the_same_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_file(tmp_path, "  python_docs: {max_bytes: 20000}\n")
    main = script("raw_shards").main
    for output in ("a", "b"):
        main(["--recipe", str(recipe), "--dataset", "python_docs", "--output", f"results/t/{output}"])
    first, second = ((tmp_path / f"results/t/{output}/manifest.json").read_bytes() for output in ("a", "b"))
    assert first == second
    assert read_manifest(tmp_path / "results/t/a").statistics["rows"] > 5


def test_the_script_refuses_too_many_bad_rows_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\nnonsense\n')
    recipe = recipe_file(tmp_path, "  mine: {kind: files, paths: [rows.jsonl]}\n")
    with pytest.raises(UserError, match=r"mine, group 0: 1 of 2 rows are bad"):
        script("raw_shards").main(["--recipe", str(recipe), "--dataset", "mine", "--output", "results/t/a"])
    assert not list((tmp_path / "results").glob("**/*.zst"))


def test_the_script_refuses_an_empty_data_set_and_an_unknown_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n")
    recipe = recipe_file(tmp_path, "  mine: {kind: files, paths: [rows.jsonl]}\n")
    with pytest.raises(UserError, match="mine, group 0, has no rows"):
        script("raw_shards").main(["--recipe", str(recipe), "--dataset", "mine", "--output", "results/t/a"])
    with pytest.raises(UserError, match="no data set 'ours'; it has"):
        script("raw_shards").main(["--recipe", str(recipe), "--dataset", "ours", "--output", "results/t/a"])
