"""The report page, its charts and its tables."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

import fake_alignment
from data_jobs import script
from fake_results import evaluation, make_results, write_recipe, write_stage
from nano3.errors import UserError
from nano3.recipe import load_recipe, stages
from nano3.report import figures, read, reinforcement, results, tables
from nano3.report.conversations import split_answer, turns_of
from nano3.report.page import busy_seconds, clock
from nano3.report.svg import Series, histograms, line_chart, number, thinned, ticks


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """With RLVR alone."""
    return make_results(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """With the whole of post-training."""
    return make_results(tmp_path_factory.mktemp("whole"), every=20, whole=True)


def recipe_of(root):
    return load_recipe(root.parent.parent / "tiny.yaml")


def evaluations_of(root):
    return [read.read_evaluation(root / "evaluation" / name, root) for name in stages.evaluated(recipe_of(root))]


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


@pytest.mark.parametrize("built", ["full", "whole"])
def test_the_page_is_one_valid_file_that_loads_nothing(built, request):
    page = report(request.getfixturevalue(built))
    check(page)
    assert "https://" not in page and "url(" not in page


def test_the_same_inputs_give_the_same_bytes(whole):
    assert report(whole) == report(whole)


def test_paths_given_as_manifests_and_found_by_themselves_give_the_same_page(whole):
    recipe, given = recipe_of(whole), []
    evaluations = [f"evaluation/{name}" for name in stages.evaluated(recipe)]
    paths = (stages.stage_paths(recipe), evaluations, stages.data_paths(recipe))
    for flag, names in zip(("--stages", "--evaluations", "--data"), paths, strict=True):
        given += [flag, *(whole / name / "manifest.json" for name in names)]
    assert report(whole, *given) == report(whole)
    assert len(paths[0]) == 9 and "rl/profile/rlvr1" in paths[2]


@pytest.mark.parametrize("until", ["pretrain", "sft", "rl"])
def test_a_partial_recipe_gives_a_page_that_says_what_to_run(tmp_path, until):
    root = make_results(tmp_path, until=until, every=20)
    page = report(root)
    check(page)
    run = "snakemake --profile profiles/local results/tiny"
    assert "Not built yet" in page and f"{run}/evaluation/rlvr1" in page
    assert (f"{run}/sft/model" in page) == (until == "pretrain")


def test_an_empty_recipe_gives_a_page_too(tmp_path):
    write_recipe(tmp_path, whole=True)
    page = report(tmp_path / "results" / "tiny")
    check(page)
    assert page.count("Not built yet") > 5


def copied(source, folder):
    root = folder / "results" / "tiny"
    shutil.copytree(source, root)
    shutil.copy(source.parent.parent / "tiny.yaml", folder)
    return root


def test_text_of_models_cannot_break_the_page(full, tmp_path):
    root = copied(full, tmp_path)
    file = root / "evaluation/sft/evaluation.json"
    content = json.loads(file.read_text())
    content["samples"][0]["response"] = "</think><script>alert(1)</script></div>"
    file.write_text(json.dumps(content))
    page = report(root)
    check(page)
    assert "&lt;script&gt;" in page


def cells_of(page, heading):
    """Rows of the first table after a heading: texts of their cells."""
    table = page[page.index(f">{heading}<") :].split("</table>")[0].split("<tbody>")[1]
    rows = re.findall(r"<tr.*?</tr>", table, re.S)
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.split(r"</t[hd]>", row)[:-1]]
            for row in rows]  # fmt: skip


def test_with_rlvr_alone_there_are_no_tables_of_later_stages(full):
    page = report(full)
    for text in ("47.0%", "42.5% to 51.5%", "n = 500", "+18.0", "97.0%", "3.620"):
        assert text in page, text
    for text in ("not offered", "Open conversations", "Length of the responses", "random order", "RLHF"):
        assert text not in page, text


def test_the_reward_table_holds_every_evaluation_with_its_marks(whole):
    (code, *_, last) = cells_of(report(whole), "Results")
    scores = [results.scores(each) for each in evaluations_of(whole)]
    assert code[0] == "code gen" and len(code) == 7
    for cell, found in zip(code[1:], scores, strict=True):
        one = found["code_gen"]
        text = f"{one.mean:.1%} {one.low:.1%} to {one.high:.1%}, n = 500"
        assert cell.startswith(text), (cell, text)
    assert code[4].endswith("▲ +17.5 on SFT ≈ −0.5 on RLVR 1")
    assert last[0] == "all environments" and last[1].startswith(f"{results.overall(scores[0]).mean:.1%}")


def test_the_length_table_says_how_much_rlhf_shortens_and_how_surely(whole):
    rows = cells_of(report(whole), "Length of the responses")
    assert [row[:2] for row in rows] == [
        ["all environments", "thinking"], ["", "answer"], ["", "both"],
        ["open conversations", "thinking"], ["", "answer"], ["", "both"],
    ]  # fmt: skip
    assert rows[3][5] == "44.0 ± 0.9 −33.3% (−35.0 to −31.7)"  # 66 before
    assert rows[2][5].startswith("32.0 ± 0.3 −25.6%")


def test_the_rate_of_tools_that_were_not_offered_is_shown_for_every_model(whole):
    rows = cells_of(report(whole), "Tools called that were not offered")
    assert [row[0] for row in rows] == list(tables.PROBES.values())
    assert rows[1][-1] == "4.0% 0.0% to 9.0%, n = 500 ▼ −58.0 on SFT ▼ −53.0 on RLVR 2"


def test_open_conversations_show_what_the_reward_model_prefers(whole):
    (won, *_) = cells_of(report(whole), "Open conversations")
    assert won[1:3] == ["–", "–"] and won[4] == "71.0% 61.0% to 80.0%, n = 100, 3.0% broken"


def test_every_stage_has_its_curves(whole):
    page = report(whole)
    for title in ("Ranking accuracy", "Broken verdicts", "Judge&#39;s score", "Thinking and answer", "Preference loss",
                  "Margin", "Accuracy", "Profiled pass rates", "Pass rate of the drawn prompts"):  # fmt: skip
        assert f"<h3>{title}</h3>" in page, title
    for stage in ("RLVR 1", "RLVR 2", "DPO"):
        assert f">{stage}, reward: workplace assistant</title>" in page
    rlhf = read.read_stage(whole / "rl/rlhf", whole)
    last = rlhf.valid[-1]["thinking_tokens"]
    assert f"thinking, held out from {number(rlhf.valid[0]['thinking_tokens'])} to {number(last)}" in page
    dpo = read.read_stage(whole / "rl/dpo", whole)
    assert f"{dpo.valid[-1]['hallucinated_tools/rate']:.0%}; 95% interval" in page


def test_the_curriculum_shows_the_profile_and_what_was_dropped(whole):
    rows = [json.loads(line) for line in (whole / "rl/profile/rlvr1/profile.jsonl").read_text().splitlines()]
    rates = [row["pass_rate"] for row in rows]
    text = f"{len(rates)} prompts profiled before the stage, mean pass rate {100 * sum(rates) / len(rates):.1f}%"
    assert f"{text}, {sum(rate == 1 for rate in rates)} solved and dropped" in report(whole)


def test_samples_of_every_stage_are_readable_conversations(whole):
    page = report(whole)
    trained = page[page.index("What the stages trained on") :]
    for stage in ("RLVR 1", "Reward model", "RLHF", "RLVR 2", "DPO"):
        assert f"<summary>{stage}</summary>" in trained
    assert "Right answer of step 40." in trained and "answer of step 1." not in trained
    assert "Pair 1 of hallucination" in trained and "Pair 3 of hallucination" not in trained
    assert "rlhf says: in water." in page and "How do I boil an egg?" in page


def test_a_run_in_random_order_is_compared_with_the_curriculum(whole, tmp_path):
    root = copied(whole, tmp_path)
    assert "Curriculum against random order" not in report(root)
    fake_alignment.make_random_order(root, recipe_of(root), write_stage, evaluation(1))
    page = report(root)
    check(page)
    rows = cells_of(page, "Curriculum against random order")
    assert rows[0][1].startswith("39.0%") and rows[0][2].startswith("29.0%")
    assert rows[0][3] == "▲ +10.0 +4.3 to +15.7" and rows[1][3].startswith("≈ +1.0")
    assert rows[-1][0] == "all environments" and "40 steps each" in page
    # Given among the evaluations it is no column of the others' tables.
    given = [root / "evaluation" / name for name in (*stages.evaluated(recipe_of(root)), "rlvr1_random")]
    assert len(cells_of(report(root, "--evaluations", *given), "Results")[0]) == 7


def score(mean, half):
    return results.Score(mean, mean - half, mean + half, 100, 100, 1, 1.0, 1.0, 10.0)


def test_a_change_is_significant_only_when_its_interval_excludes_zero():
    assert results.change(score(0.5, 0.1), score(0.65, 0.1)).significant  # 0.15 > sqrt(2) * 0.1
    assert not results.change(score(0.5, 0.1), score(0.63, 0.1)).significant
    assert results.change(score(0.65, 0.1), score(0.5, 0.1)).difference == pytest.approx(-0.15)


@pytest.mark.parametrize(
    ("after", "mark"),
    [(0.71, "higher"), (0.65, "rather_higher"), (0.6, "same"), (0.35, "rather_lower"), (0.29, "lower")],
)
def test_marks_tell_disjoint_intervals_from_those_whose_difference_is_significant(after, mark):
    assert results.change(score(0.5, 0.1), score(after, 0.1)).mark == mark


def test_a_shorter_mean_has_the_interval_of_the_ratio():
    change, margin = results.shortened(results.Length(100, 5), results.Length(70, 4))
    assert change == pytest.approx(-0.3)
    assert margin == pytest.approx(0.7 * (0.05**2 + (4 / 70) ** 2) ** 0.5)
    assert results.shortened(results.Length(100), results.Length(70, 4)) == (pytest.approx(-0.3), None)
    assert results.shortened(results.Length(0.02, 0.01), results.Length(70, 4)) is None


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
    assert split_answer(response, opened=opened) == expected


def test_earlier_turns_are_shown_and_the_opened_one_is_not():
    prompt = (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think></think>Hi"
        "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert [(turn["role"], turn["text"]) for turn in turns_of(prompt)] == [
        ("user", "Hello"), ("assistant", "Hi"), ("user", "And?"),
    ]  # fmt: skip
    assert turns_of("plain") == [{"role": "user", "thinking": "", "text": "plain"}]


def test_a_response_of_several_turns_is_taken_apart():
    response = (
        "why</think>call<|im_end|>\n<|im_start|>user\nresult<|im_end|>\n<|im_start|>assistant\n<think>\nso</think>done"
    )
    found = turns_of(response, after="<|im_start|>assistant\n<think>\n")
    assert [tuple(turn.values()) for turn in found] == [
        ("assistant", "why", "call"), ("user", "", "result"), ("assistant", "so", "done"),
    ]  # fmt: skip
    assert turns_of("<|im_end|>", after="x")[0]["text"] == ""  # nothing said is still an answer


def test_samples_put_the_answers_of_all_models_under_one_prompt(full):
    shown = results.samples(evaluations_of(full))
    assert [answer["name"] for answer in shown["math"][0]["answers"]] == ["Base", "SFT", "RLVR 1"]
    assert shown["math"][0]["turns"][-1]["role"] == "user"
    assert all(len(prompts) == 2 for prompts in shown.values())


def test_pretraining_stages_stand_end_to_end_on_one_axis(full):
    read_stages = [read.read_stage(full / name, full) for name in stages.stage_paths(recipe_of(full))[:3]]
    rows = figures.joined(read_stages)
    xs = [row["x"] for row in rows.train]
    pretrain = recipe_of(full).pretrain
    total = pretrain.phase1.tokens + pretrain.phase2.tokens + pretrain.long_context.tokens
    assert xs == sorted(xs) and xs[-1] == pytest.approx(total, rel=0.02)
    assert [label for _, label in rows.boundaries] == ["phase 1", "phase 2", "long context"]
    restarted = [read.Stage(**vars(read_stages[1]) | {"train": [{"step": 1, "tokens": 5, "loss": 1.0}], "valid": []})]
    joined = figures.joined([read_stages[0], *restarted])
    assert joined.train[-1]["x"] == read_stages[0].train[-1]["tokens"] + 5


def test_a_missing_evaluation_file_is_an_error_that_says_what_to_run(full, tmp_path):
    root = copied(full, tmp_path)
    (root / "evaluation/sft/evaluation.json").unlink()
    with pytest.raises(UserError, match="snakemake --profile profiles/local --force"):
        report(root)


def test_charts_stay_in_their_frame_and_skip_what_is_empty():
    svg = line_chart([Series("a", [(0, 1.0), (10, 3.0)])], title="A", x_label="step", y_label="loss")
    frame = [float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()]
    xs = [float(x) for x in re.findall(r'<path class="line[^"]*" d="M([\d.]+) ', svg)]
    assert all(0 <= x <= frame[0] for x in xs) and "loss over step: a from 1 to 3" in svg
    assert line_chart([Series("a", [])], title="A", x_label="x", y_label="y") == ""
    single = line_chart([Series("a", [(5, 2.0)])], title="A", x_label="x", y_label="y")
    assert "<circle" in single and "nan" not in single
    flat, labels = [Series("a", [(0, 0.0), (5, 0.0)])], {"title": "A", "x_label": "x", "y_label": "y"}
    zero = line_chart(flat, **labels, from_zero=True, percent=True)
    assert ">100%<" in zero and "-" not in "".join(re.findall(r'class="tick"[^>]*>([^<]*)<', zero))


@pytest.mark.parametrize("most", [1.0, 0.5, 0.1, 0.02, 0.004])
def test_marks_of_small_shares_have_the_decimals_that_tell_them_apart(most):
    points = [Series("a", [(0, 0.0), (5, most)])]
    svg = line_chart(points, title="A", x_label="x", y_label="y", from_zero=True, percent=True)
    marks = re.findall(r'class="tick"[^>]*>([^<]*%)<', svg)
    assert len(marks) >= 3 and len(set(marks)) == len(marks)


@pytest.mark.parametrize(
    ("accuracy", "n", "said"), [(0.35, 60, True), (0.6, 60, True), (0.65, 60, False), (0.6, 600, False)]
)
def test_the_report_says_when_a_reward_model_is_no_better_than_guessing(accuracy, n, said):
    held_out = [{"ranking_accuracy": 0.9, "n": n}, {"ranking_accuracy": accuracy, "n": n}]
    assert bool(reinforcement._guessing(held_out)) == said
    assert not reinforcement._guessing([])


def test_a_histogram_keeps_solved_prompts_apart_and_has_one_scale_for_all_rows():
    svg = histograms([("a", [0.0, 0.05, 0.3, 1.0]), ("b", [0.95, 1.0])], title="H", x_label="pass rate")
    assert "a, pass rate 0% to 10%: 50.0% of the prompts" in svg and "a, pass rate 30% to 40%: 25.0%" in svg
    assert "b, pass rate 90% to 100%: 50.0%" in svg and "b, pass rate 1: 50.0%" in svg
    heights = [float(h) for h in re.findall(r'<rect class="c[18]"[^>]* height="([\d.]+)"', svg)]
    assert len(heights) == 22 and max(heights) == 30 and heights[3] == 15


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
