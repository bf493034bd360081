"""JSON lines: round trips, and errors that name file and line."""

import pytest

from nano3.data.bad_rows import BadRows
from nano3.data.jsonl import JsonlWriter, read_jsonl, write_jsonl
from nano3.errors import UserError

ROWS = [{"id": str(i), "text": "Zeile ü \u2028\n" * (i % 7)} for i in range(500)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_rows_survive_writing_and_reading_and_equal_rows_give_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        assert write_jsonl(tmp_path / f"{name}{suffix}", ROWS) == 500
    assert list(read_jsonl(tmp_path / f"a{suffix}")) == ROWS
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_concatenated_frames_are_read_to_the_end(tmp_path, suffix):
    write_jsonl(tmp_path / f"one{suffix}", ROWS)
    both = tmp_path / f"both{suffix}"
    both.write_bytes((tmp_path / f"one{suffix}").read_bytes() * 2)
    assert len(list(read_jsonl(both))) == 1000


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_compressed_file_that_was_cut_off_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    write_jsonl(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"rows{suffix} is cut off"):
        list(read_jsonl(path))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_an_error(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=r"damaged or not a .* file"):
        list(read_jsonl(path))


def test_a_bad_line_is_named_by_file_and_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3: not valid JSON"):
        list(read_jsonl(path))


def test_bad_lines_are_counted_by_reason_where_they_are_tolerated(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n[1]\nnull\n{"a": 2}\n\xff\xfe\n')
    bad = BadRows()
    assert [row["a"] for row in read_jsonl(path, bad)] == [1, 2]
    assert bad.counts == {"not a JSON object": 2, "not valid JSON": 1}
    assert "line 2" in bad.samples["not a JSON object"][0]


def test_a_missing_file_is_an_error_without_a_traceback(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_a_last_line_without_newline_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    assert len(list(read_jsonl(path))) == 2


def test_a_writer_counts_bytes_before_compression(tmp_path):
    with JsonlWriter(tmp_path / "rows.jsonl.zst") as out:
        out.write({"a": 1})
    assert out.bytes == len('{"a": 1}\n')
