"""What environments need beyond their rows comes from the recipe: the judge and the workplace's tables."""

import importlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from chat_toy import save_raw
from nano3.artifacts import building, verify
from nano3.environments import Reward, judge, workplace_assistant
from nano3.environments.episode import Episode
from nano3.errors import UserError
from nano3.model import hf
from nano3.recipe import load_recipe, stages
from nano3.rl import local_judge, rlvr, rollout
from nano3.rl.rollout import rollouts
from nano3.train.tracking import read_rows
from rl_toy import toy_model, toy_rows, toy_tokenizer, toy_world
from test_judge import Server
from test_rl_conversations import call, diligent, scripted, work
from test_rl_stages import GRPO, undisturbed_and_rough

QUESTION = {
    "id": 1,
    "agent_ref": {"name": "equivalence_llm_judge_simple_agent"},
    "responses_create_params": {"input": [{"role": "user", "content": "Which river?"}]},
    "expected_answer": "the river Nile",
    "use_judge": True,
}
TABLES = {
    "emails": "email_id,subject\n47,lunch\n11,report\n",
    "calendar_events": "event_id,event_name\n00000002,standup\n",
    "analytics_data": "date_of_visit,visitor_id\n2023-11-01,7\n",
    "project_tasks": "task_id,task_name\n3,fix\n",
    "customer_relationship_manager_data": "customer_id,customer_name\n4,Cleo\n",
    "email_addresses": "email_address\nada@work.com\n",
}


@pytest.fixture(autouse=True)
def nothing_in_use_afterwards():
    yield
    judge.use(None)
    workplace_assistant.use(None)


def edited(file, **rl):
    """Change the rl section of a recipe file."""
    recipe = yaml.safe_load(file.read_text())
    recipe["rl"] |= rl
    file.write_text(yaml.safe_dump(recipe))


def world(root, rows, *, tables=None, **rl):
    """A toy world with these prompts, for training and held out; returns the arguments of rlvr1 and the others."""
    arguments = toy_world(root, **GRPO | {"max_new_tokens": 300})
    edited(Path(arguments[1]), **rl)
    with building(root / "results" / "toy" / "rl" / "prompts", kind="rl/prompts", config={}) as artifact:
        for split in ("train", "valid"):
            (artifact.path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if tables is not None:
            workplace_assistant.write_tables(tables, artifact.path / "workplace_tables")
    return arguments


def run(name, arguments, monkeypatch, output="rl/rlvr1"):
    monkeypatch.syspath_prepend("scripts")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    arguments = [*arguments]
    place = arguments.index("--output") + 1
    arguments[place] = str(Path(arguments[place]).parent.parent / output)
    importlib.import_module(name).main(arguments)
    return Path(arguments[place])


def answers(monkeypatch, chat):
    """The policy answers right or wrong in turn, in words that only a judge can compare."""
    said = ("</think>\nThat long river in Egypt<|im_end|>", "</think>\nThe Amazon<|im_end|>")
    return scripted(monkeypatch, chat, *(lambda prompt, text=text: text for text in said))[1]


class Judging(Server):
    """Says what is true about a river; knows a key."""

    def __init__(self):
        super().__init__("[[SAME]]")
        handler = self.http.RequestHandlerClass

        def do_POST(request):
            body = request.rfile.read(int(request.headers["Content-Length"])).decode()
            self.requests.append((request.path, dict(request.headers), body))
            verdict = "[[SAME]]" if "Egypt" in body else "[[DIFFERENT]]"
            reply = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
            request.send_response(200)
            request.send_header("Content-Length", str(len(reply)))
            request.end_headers()
            request.wfile.write(reply)

        handler.do_POST = do_POST

    def section(self, **more):
        return {"kind": "endpoint", "url": f"http://127.0.0.1:{self.http.server_port}/v1", "model": "m", **more}


def test_every_program_that_scores_asks_the_recipes_judge_with_the_key_from_the_environment(
    tmp_path, chat, monkeypatch
):
    answers(monkeypatch, chat)
    monkeypatch.setenv("MY_JUDGE", "secret")
    with Judging() as server:
        arguments = world(tmp_path, [QUESTION], judge=server.section(key_env="MY_JUDGE", max_tokens=64))
        output = run("rlvr1", arguments, monkeypatch)
        trained = len(server.requests)
        evaluated = run("evaluate", arguments, monkeypatch, "evaluation/sft")
    assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer secret"}
    assert json.loads(server.requests[0][2])["max_tokens"] == 64
    assert trained > 0 and len(server.requests) > trained
    rows = read_rows(output / "metrics.jsonl")
    assert {row["reward/equivalence_llm_judge"] for row in rows} == {0.5}
    measured = json.loads((evaluated / "evaluation.json").read_text())["environments"]
    assert measured["equivalence_llm_judge"]["mean"] == 0.5
    assert "judged the same in both orders" in (output / "samples.jsonl").read_text()
    everything = [*output.rglob("*"), *(tmp_path / "results" / "toy" / ".work").rglob("*")]
    assert not any(b"secret" in file.read_bytes() for file in everything if file.is_file())


@pytest.mark.parametrize(
    ("program", "output"), [("rlvr1", "rl/rlvr1"), ("evaluate", "evaluation/sft"), ("rl_profile", "rl/profile/rlvr1")]
)
def test_a_row_that_needs_a_judge_stops_a_program_before_anything_is_sampled(
    tmp_path, chat, monkeypatch, program, output
):
    asked = answers(monkeypatch, chat)
    arguments = world(tmp_path, [*toy_rows(2), QUESTION])
    recipe = yaml.safe_load(Path(arguments[1]).read_text())
    edited(Path(arguments[1]), rlvr1=recipe["rl"]["rlvr1"] | {"curriculum": {}})
    with pytest.raises(UserError, match=r"row 1 .*needs a judge.*\n?.*rl\.judge"):
        run(program, arguments, monkeypatch, output)
    assert not asked


def raw_rows(tmp_path, rows, **prompts):
    """Arguments of scripts/rl_prompts.py on these rows."""
    recipe = yaml.safe_load(Path("config/recipes/tiny.yaml").read_text())
    recipe["rl"]["prompts"] |= {"max_prompt_tokens": 3000, **prompts}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with building(tmp_path / "tokenizer", kind="tokenizer", config={}) as artifact:
        toy_tokenizer().save(str(artifact.path / "tokenizer.json"))
    raw = [str(save_raw(tmp_path / name, name, rows)) for name in ("rl_train", "rl_valid")]
    places = ["--output", str(tmp_path / "out"), "--tokenizer", str(tmp_path / "tokenizer")]
    return ["--recipe", str(tmp_path / "recipe.yaml"), *places, "--raw", *raw]


def make_prompts(arguments, monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    importlib.import_module("rl_prompts").main(arguments)


def test_prompts_that_need_a_judge_or_its_key_are_refused_when_they_are_made(tmp_path, monkeypatch):
    arguments = raw_rows(tmp_path, [*toy_rows(2), QUESTION])
    with pytest.raises(UserError, match=r"needs a judge.*rl\.judge"):
        make_prompts(arguments, monkeypatch)
    section = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m", "key_env": "MY_JUDGE"}
    edited(tmp_path / "recipe.yaml", judge=section)
    monkeypatch.delenv("MY_JUDGE", raising=False)
    with pytest.raises(UserError, match=r"rl\.judge\.key_env names the environment variable MY_JUDGE.*not set"):
        make_prompts(arguments, monkeypatch)
    monkeypatch.setenv("MY_JUDGE", "k")
    make_prompts(arguments, monkeypatch)
    assert verify(tmp_path / "out").statistics["splits"]["train"]["rows"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: oracle}", r"rl\.judge: .*'endpoint', 'model'"),
        ("{kind: endpoint, model: m}", r"rl\.judge\.url: this key is required"),
        ("{kind: endpoint, model: m, url: example.com}", r"rl\.judge\.url: .*https"),
        ("{kind: endpoint, model: m, url: 'http://a/v1', key_env: sk-123}", r"rl\.judge\.key_env: "),
        ("{kind: endpoint, model: m, url: 'http://a/v1', key: k}", r"unknown key 'key'"),
        ("{kind: model, pth: x}", r"unknown key 'pth'; did you mean 'path'"),
    ],
)
def test_a_wrong_judge_is_an_error_that_names_the_key(tmp_path, text, message):
    (tmp_path / "tiny.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\nrl: {{judge: {text}}}")
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "mine.yaml")


def test_the_judge_is_part_of_what_scores_depend_on_but_not_where_it_is_found(tmp_path):
    (tmp_path / "tiny.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())

    def configs(text):
        (tmp_path / "mine.yaml").write_text(f"extends: tiny\n{text}")
        recipe = load_recipe(tmp_path / "mine.yaml")
        return (
            stages.rl_config(recipe, "rlvr1"),
            stages.evaluation_config(recipe, "rlvr1"),
            stages.rl_prompts_config(recipe),
        )

    here, there, other = (
        configs(f"rl: {{judge: {{kind: endpoint, url: 'http://{host}/v1', model: {model}, key_env: K}}}}")
        for host, model in (("a", "m"), ("b", "m"), ("a", "n"))
    )
    assert here == there
    assert all(one != two for one, two in zip(here, other, strict=True))
    assert not any("judge" in config for config in configs(""))


# A judge on this machine


def saved_judge(directory):
    hf.save(toy_model(seed=4), directory)
    toy_tokenizer().save(str(directory / "tokenizer.json"))
    return {"kind": "model", "path": str(directory), "max_new_tokens": 20}


def test_a_local_model_judges_one_question_after_the_other(tmp_path, chat, monkeypatch):
    (tmp_path / "judge").mkdir()
    active, most, models = [], [], set()
    counting = threading.Lock()

    def policy(prompt):
        if "Two answers" not in prompt:
            return "</think>\nThat long river in Egypt<|im_end|>"
        with counting:
            active.append(1)
            most.append(len(active))
        time.sleep(0.01)
        with counting:
            active.pop()
        return "[[DIFFERENT]]?\n</think>\n[[SAME]]<|im_end|>"

    scripted(monkeypatch, chat, policy)
    generate = importlib.import_module("nano3.model.generate").generate

    def watched(model, prompts, **settings):
        models.add((id(model), "Two answers" in chat.text(prompts[0])))
        return generate(model, prompts, **settings)

    monkeypatch.setattr("nano3.model.generate.generate", watched)
    arguments = world(tmp_path, [QUESTION], judge=saved_judge(tmp_path / "judge"))
    output = run("rlvr1", arguments, monkeypatch)
    rows = read_rows(output / "metrics.jsonl")
    assert {row["reward"] for row in rows} == {1.0}
    assert max(most) == 1 and len(most) > 8
    assert len({identity for identity, _ in models}) == 2 == len(models)


def test_what_a_local_judge_says_depends_on_the_question_alone(tmp_path):
    saved_judge(tmp_path)
    asked = local_judge.load(tmp_path, max_new_tokens=20, temperature=1.0, device="cpu")

    def say(text):
        try:
            return asked([{"role": "user", "content": text}])
        except judge.JudgeFailed as failure:
            return str(failure)

    questions = [f"question {i}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(say, questions))
    assert together == [say(text) for text in questions]
    assert {"did not end within 20 tokens"} <= {text.removeprefix("the judge ") for text in together}
    assert "has room for a question of" in say("x" * 5000)


def test_a_local_judge_that_is_not_there_is_an_error_that_names_the_key(tmp_path, chat, monkeypatch):
    answers(monkeypatch, chat)
    arguments = world(tmp_path, [QUESTION], judge={"kind": "model", "path": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"rl\.judge\.path .*nowhere"):
        run("rlvr1", arguments, monkeypatch)


# The workplace's tables


def tables(directory, **changes):
    directory.mkdir(exist_ok=True)
    for name, text in (TABLES | changes).items():
        (directory / f"{name}.csv").write_text(text)
    return directory


def published(id=1):
    """A row as it is published: without a database."""
    return {key: value for key, value in work(id).items() if key != "database"}


def test_rows_without_a_database_are_played_on_the_recipes_tables(tmp_path, chat, monkeypatch):
    make_prompts(
        raw_rows(tmp_path, [published(), work(2)], workplace_tables=str(tables(tmp_path / "tables"))), monkeypatch
    )
    made = workplace_assistant.read_tables(tmp_path / "out" / "workplace_tables")
    assert made == workplace_assistant.read_tables(tmp_path / "tables")
    assert "workplace_tables/emails.jsonl" in verify(tmp_path / "out").files
    scripted(monkeypatch, chat, diligent, lambda text: call("email_delete_email", email_id="11"))
    arguments = world(tmp_path / "toy", [published()], tables=made)
    output = run("rlvr1", arguments, monkeypatch)
    rows = read_rows(output / "metrics.jsonl")
    assert {row["reward/workplace_assistant"] for row in rows} == {0.5}
    assert {row["turns"] for row in rows} == {(3 + 6) / 2}
    trajectory = read_rows(output / "samples.jsonl")[0]
    assert trajectory["turns"] == 3 and '"subject":"lunch"' in trajectory["response"]


def test_profiles_and_pairs_are_made_from_whole_conversations(tmp_path, chat, monkeypatch):
    model, _ = scripted(monkeypatch, chat, diligent, lambda text: call("email_delete_email", email_id="11"))
    rows = [published(1), published(2)]
    arguments = world(tmp_path, rows, tables=workplace_assistant.read_tables(tables(tmp_path / "tables")))
    recipe = yaml.safe_load(Path(arguments[1]).read_text())
    mining = {"generations": 2, "max_new_tokens": 300, "pairs": 8, "valid": 0.0}
    short = {"learning_rate": 1e-3, "max_new_tokens": 300, "validation": GRPO["validation"]}
    edited(
        Path(arguments[1]),
        rlvr1=recipe["rl"]["rlvr1"] | {"curriculum": {"generations": 4}},
        dpo={"pairs": mining, **short},
    )
    profile = read_rows(run("rl_profile", arguments, monkeypatch, "rl/profile/rlvr1") / "profile.jsonl")
    assert [row["pass_rate"] for row in profile] == [0.5, 0.5]
    whole = rollouts(model, chat, rows[:1], max_new_tokens=300, generations=2, temperature=1.0, top_p=1.0, seed=0)
    assert [len(each.turns) for each in whole] == [3, 6]
    assert profile[0]["response_tokens"] == sum(each.tokens for each in whole) / 2
    pairs = read_rows(run("dpo_pairs", arguments, monkeypatch, "rl/dpo_pairs") / "train.jsonl")
    assert [(pair["group"], pair["rewards"]) for pair in pairs] == [("with_tools", [1.0, 0.0])] * 2
    better, worse = (entry["completion"][0]["content"] for entry in pairs[0]["completions"])
    assert "email_search_emails" in better and "email_delete_email" in worse


def test_rows_without_a_database_and_recipes_without_tables_are_told_the_key(tmp_path, chat, monkeypatch):
    with pytest.raises(UserError, match=r"names no database.*rl\.prompts\.workplace_tables"):
        make_prompts(raw_rows(tmp_path, [published()]), monkeypatch)
    with pytest.raises(UserError, match=r"nowhere/emails\.csv does not exist.*workplace_tables"):
        make_prompts(raw_rows(tmp_path, [published()], workplace_tables=str(tmp_path / "nowhere")), monkeypatch)
    answers(monkeypatch, chat)
    with pytest.raises(UserError, match=r"names no database.*rl\.prompts\.workplace_tables"):
        run("rlvr1", world(tmp_path / "toy", [published()]), monkeypatch)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("emails", "subject\nlunch\n", r"emails\.csv, record 0: there is no column 'email_id'"),
        ("project_tasks", "task_id,task_name\n3\n", r"project_tasks\.csv, record 0: expected a value"),
        ("project_tasks", "task_id,task_name\n3,a,b\n", r"project_tasks\.csv, record 0: expected a value"),
    ],
)
def test_a_broken_table_is_an_error_that_names_file_and_record(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        workplace_assistant.read_tables(tables(tmp_path / "tables", **{name: text}))


def test_tables_may_be_jsonl_under_our_names(tmp_path):
    directory = tables(tmp_path / "tables")
    (directory / "emails.csv").unlink()
    (directory / "emails.jsonl").write_text('{"id": "5", "subject": "tea"}\n')
    assert workplace_assistant.read_tables(directory)["emails"] == [{"id": "5", "subject": "tea"}]
    (directory / "emails.jsonl").write_text('{"id": ')
    with pytest.raises(UserError, match=r"emails\.jsonl can't be read"):
        workplace_assistant.read_tables(directory)


# Exact resume


def test_a_run_on_conversations_survives_three_interruptions_bit_for_bit(tmp_path, monkeypatch):
    """An untrained model ends its turns at any of many letters, and is paid for one of them."""

    def step(episode, response):
        episode.steps += 1
        episode.messages += [{"role": "assistant", "content": response[:9]}, {"role": "user", "content": "And?"}]
        episode.over = episode.steps == 1 + len(response) % 3

    def reward(episode):
        said = "".join(message["content"] for message in episode.messages[1:])
        return Reward(min(1.0, 4 * said.count("e") / max(1, len(said))), "counted", True)

    monkeypatch.setattr(Episode, "step", step)
    monkeypatch.setattr(Episode, "reward", reward)
    monkeypatch.setattr(rollout, "STOP_TOKENS", (*rollout.STOP_TOKENS, *"abcdefghijklmnop"))
    rows = [*toy_rows(3), *({**published(i), "responses_create_params": {"input": "Hi"}} for i in range(3, 9))]

    def conversations(root):
        arguments = world(root, rows, tables=workplace_assistant.read_tables(tables(tmp_path / "tables")))
        edited(Path(arguments[1]), rlvr1=GRPO | {"generations_per_prompt": 4, "max_new_tokens": 60})
        return arguments

    calm, rough = undisturbed_and_rough("rlvr1", rlvr, conversations, tmp_path, monkeypatch)
    assert verify(calm).files == verify(rough).files
    steps = [row for row in read_rows(calm / "metrics.jsonl") if "split" not in row]
    assert all(row["turns"] > 1 for row in steps if "turns" in row) and any("turns" in row for row in steps)
    assert any(row["grad_norm"] > 0 for row in steps)
