"""The report page, its charts and its tables."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from data_jobs import script
from fake_results import make_results
from nano3.errors import UserError
from nano3.recipe import load_recipe
from nano3.report import figures, read, results
from nano3.report.page import busy_seconds, clock
from nano3.report.svg import Series, line_chart, number, thinned, ticks


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("full"))


def report(root, *more):
    output, recipe = root / "report.html", root.parent.parent / "tiny.yaml"
    script("report").main(["--recipe", str(recipe), "--output", str(output), *map(str, more)])
    return output.read_text()


class Checker(HTMLParser):
    """Every tag closed in order, every id once, and everything that is loaded from outside."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.outside = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.outside += [attributes[key] for key in ("src", "xlink:href") if key in attributes]
        self.outside += [tag] if tag in ("script", "link") else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open and not checker.outside
    assert len(checker.ids) == len(set(checker.ids))
    assert all(link[1:] in checker.ids for link in checker.links)


def test_the_page_is_one_valid_file_that_loads_nothing(full):
    page = report(full)
    check(page)
    assert "https://" not in page and "url(" not in page


def test_the_same_inputs_give_the_same_bytes(full):
    assert report(full) == report(full)


def test_paths_given_as_manifests_and_found_by_themselves_give_the_same_page(full):
    given = []
    for flag, names in (("--stages", read.STAGES), ("--evaluations", read.EVALUATIONS), ("--data", read.DATA)):
        given += [flag, *(full / name / "manifest.json" for name in names)]
    assert report(full, *given) == report(full)


@pytest.mark.parametrize("until", ["pretrain", "sft", "rl"])
def test_a_partial_recipe_gives_a_page_that_says_what_to_run(tmp_path, until):
    root = make_results(tmp_path, until=until, every=20)
    page = report(root)
    check(page)
    assert "Not built yet" in page and "snakemake results/tiny/evaluation/rlvr1" in page
    assert ("snakemake results/tiny/sft/model" in page) == (until == "pretrain")


def test_an_empty_recipe_gives_a_page_too(tmp_path):
    page = report(tmp_path / "results" / "tiny")
    check(page)
    assert page.count("Not built yet") > 5


def test_text_of_models_cannot_break_the_page(full, tmp_path):
    root = tmp_path / "results" / "tiny"
    shutil.copytree(full, root)
    file = root / "evaluation/sft/evaluation.json"
    content = json.loads(file.read_text())
    content["samples"][0]["response"] = "</think><script>alert(1)</script></div>"
    file.write_text(json.dumps(content))
    page = report(root)
    check(page)
    assert "&lt;script&gt;" in page


def test_every_number_of_the_reward_table_is_on_the_page(full):
    page = report(full)
    for text in ("47.0%", "42.5% to 51.5%", "n = 500", "▲ +18.0", "97.0%", "3.620"):
        assert text in page, text


def score(mean, half):
    return results.Score(100, 1, mean, mean - half, mean + half, 1.0, 1.0, 10.0)


def test_a_change_is_significant_only_when_its_interval_excludes_zero():
    assert results.change(score(0.5, 0.1), score(0.65, 0.1)).significant  # 0.15 > sqrt(2) * 0.1
    assert not results.change(score(0.5, 0.1), score(0.63, 0.1)).significant
    assert results.change(score(0.65, 0.1), score(0.5, 0.1)).difference == pytest.approx(-0.15)


def test_the_mean_over_environments_weighs_them_equally():
    both = results.overall({"a": score(0.2, 0.04), "b": score(0.6, 0.03)})
    assert both.mean == pytest.approx(0.4)
    assert both.high - both.mean == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("response", "opened", "expected"),
    [
        ("2 + 2\n</think>\n4<|im_end|>", True, ("2 + 2", "4")),
        ("never ends", True, ("never ends", "")),
        ("4<|im_end|>", False, ("", "4")),
        ("<think>\nwhy\n</think>\n4", False, ("why", "4")),
    ],
)
def test_thinking_and_answer_are_told_apart(response, opened, expected):
    assert results.split_answer(response, opened=opened) == expected


def test_samples_put_the_answers_of_all_models_under_one_prompt(full):
    evaluations = [read.read_evaluation(full / name, full) for name in read.EVALUATIONS]
    shown = results.samples(evaluations)
    assert [answer["model"] for answer in shown["math"][0]["answers"]] == ["Base", "SFT", "RLVR"]
    assert shown["math"][0]["turns"][-1][0] == "user"
    assert all(len(prompts) == 2 for prompts in shown.values())


def test_pretraining_stages_stand_end_to_end_on_one_axis(full):
    stages = [read.read_stage(full / name, full) for name in read.PRETRAINING]
    rows = figures._joined(stages)
    xs = [row["x"] for row in rows.train]
    pretrain = load_recipe("config/recipes/tiny.yaml").pretrain
    total = pretrain.phase1.tokens + pretrain.phase2.tokens + pretrain.long_context.tokens
    assert xs == sorted(xs) and xs[-1] == pytest.approx(total, rel=0.02)
    assert [label for _, label in rows.boundaries] == ["phase 1", "phase 2", "long context"]
    restarted = [read.Stage(**vars(stages[1]) | {"train": [{"step": 1, "tokens": 5, "loss": 1.0}], "valid": []})]
    joined = figures._joined([stages[0], *restarted])
    assert joined.train[-1]["x"] == stages[0].train[-1]["tokens"] + 5


def test_a_missing_evaluation_file_is_an_error_that_says_what_to_run(full, tmp_path):
    root = tmp_path / "results" / "tiny"
    shutil.copytree(full, root)
    (root / "evaluation/sft/evaluation.json").unlink()
    with pytest.raises(UserError, match="snakemake --force"):
        report(root)


def test_charts_stay_in_their_frame_and_skip_what_is_empty():
    svg = line_chart([Series("a", [(0, 1.0), (10, 3.0)])], title="A", x_label="step", y_label="loss")
    frame = [float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()]
    xs = [float(x) for x in re.findall(r'<path class="line[^"]*" d="M([\d.]+) ', svg)]
    assert all(0 <= x <= frame[0] for x in xs) and "loss over step: a from 1 to 3" in svg
    assert line_chart([Series("a", [])], title="A", x_label="x", y_label="y") == ""
    single = line_chart([Series("a", [(5, 2.0)])], title="A", x_label="x", y_label="y")
    assert "<circle" in single and "nan" not in single


def test_ticks_are_round_and_cover_the_range():
    assert ticks(0, 1, 5) == [0, 0.25, 0.5, 0.75, 1]
    found = ticks(1.83, 7.2, 5)
    assert found[0] <= 1.83 and found[-1] >= 7.2
    assert ticks(3, 3, 5)[0] < 3 < ticks(3, 3, 5)[-1]


def test_thinning_keeps_the_mean_and_the_last_point():
    points = [(i, float(i)) for i in range(1000)]
    thin = thinned(points, 100)
    assert len(thin) == 100 and thin[-1][0] == 999
    assert sum(y for _, y in thin) / 100 == pytest.approx(499.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.00123, "0.00123"),
        (1234, "1,234"),
        (31_577_940_288, "31.6B"),
        (25e12, "25T"),
        (3e-4, "3e-4"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_wall_time_counts_parallel_jobs_once(tmp_path):
    spans = (("10:00:00", "10:01:00"), ("10:00:30", "10:02:00"), ("11:00:00", "11:00:10"))
    for index, (start, end) in enumerate(spans):
        folder = tmp_path / str(index)
        folder.mkdir()
        record = {"started": f"2026-01-01T{start}+00:00", "finished": f"2026-01-01T{end}+00:00"}
        (folder / "provenance.json").write_text(json.dumps(record))
    assert busy_seconds([tmp_path / str(i) for i in range(3)]) == 130
    assert (clock(95), clock(7), clock(3700)) == ("1 min 35 s", "7.0 s", "1 h 2 min")
