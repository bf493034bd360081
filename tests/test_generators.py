"""Generated tasks: solutions are right, splits are disjoint, rows depend on seed and index alone."""

import json
import random
import re
import subprocess
import sys
from itertools import islice, pairwise

import pytest

from nano3 import environments
from nano3.chat.request import messages_of
from nano3.chat.rows import read_chat
from nano3.chat.template import render
from nano3.data.generators import FAMILIES, FORMS, duplicates, generate, split_of
from nano3.data.generators import instruction_following as instruction_family
from nano3.data.generators.arithmetic import multiplication_trace
from nano3.data.generators.problem import COMPARISON, PREFERENCE
from nano3.errors import UserError

LEVELS = [(family, level) for family in FAMILIES for level in range(1, min(5, FAMILIES[family].LEVELS[1]) + 1)]
CONVERSATIONS = ("workplace", "banking")
JUDGED = ("open_chat", "comparison")  # by a reward model and by people
UNVERIFIED = (*JUDGED, *CONVERSATIONS)  # by one response
VERIFIED = [(family, level) for family, level in LEVELS if family not in UNVERIFIED]
# Where the content is judged, not only its form.
EXACT = [
    (family, level) for family, level in VERIFIED if not family.startswith(("structured", "instruction", "multi_turn"))
]


def rows(family, count, form="chat", level=(1, 3), seed=3, split="train"):
    return list(generate(family, rows=count, seed=seed, difficulty=level, split=split, form=form))


def response(row):
    """The first assistant turn after the last user turn, as the chat template renders it."""
    messages = row["messages"]
    message = messages[max(i for i, each in enumerate(messages) if each["role"] == "user") + 1]
    blocks = [f"<think>\n{message.get('reasoning_content', '')}\n</think>\n{message['content']}"]
    for call in message.get("tool_calls", []):
        arguments = json.loads(call["function"]["arguments"])
        parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in arguments.items())
        name = call["function"]["name"]
        blocks.append(f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
    return "\n".join(blocks) + "<|im_end|>\n"


@pytest.mark.parametrize(("family", "level"), VERIFIED)
def test_every_generated_answer_scores_one_and_is_well_formed(family, level):
    chats = rows(family, 150, level=(level, level))
    prompts = rows(family, 150, form="rl", level=(level, level))
    for chat, prompt in zip(chats, prompts, strict=True):
        reward = environments.verify(prompt, response(chat))
        assert reward.value == 1.0 and reward.well_formed, (reward, chat["messages"])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CONVERSATIONS])
def test_the_chat_template_turns_both_forms_into_one_conversation_whose_answer_scores(family):
    chats, prompts = rows(family, 60), rows(family, 60, form="rl")
    for chat, prompt in zip(chats, prompts, strict=True):
        checked = read_chat(chat, chat["id"])
        last = max(i for i, message in enumerate(checked.messages) if message["role"] == "user")
        thinks = "reasoning_content" in checked.messages[last + 1]
        # The template leaves a line break where it cuts reasoning out of the history; RL prompts never had any there.
        conversation = render(checked.messages, checked.tools).replace("<think></think>\n", "<think></think>")
        opening = render(*messages_of(prompt["responses_create_params"]), True, enable_thinking=thinks)
        assert conversation.startswith(opening)
        if family not in JUDGED:
            answer = ("" if thinks else "<think></think>") + conversation.removeprefix(opening)
            reward = environments.verify(prompt, answer)
            assert reward.value == 1.0 and reward.well_formed, (reward, answer)


def turn(message):
    """An assistant's message as the response that it was."""
    return response({"messages": [{"role": "user"}, message]})


def played(prompt, turns):
    """The episode of an RL row with these responses."""
    episode = environments.start(prompt)
    for each in turns:
        assert not episode.over
        episode.step(each)
    return episode


@pytest.mark.parametrize(("family", "level"), [each for each in LEVELS if each[0] in CONVERSATIONS])
def test_every_generated_conversation_can_be_played_and_scores_one(family, level):
    chats = rows(family, 150, level=(level, level))
    prompts = rows(family, 150, form="rl", level=(level, level))
    for chat, prompt in zip(chats, prompts, strict=True):
        turns = [turn(message) for message in chat["messages"] if message["role"] == "assistant"]
        episode = played(prompt, turns)
        assert episode.over and episode.reward().value == 1.0, episode
        # Tools and user say what the chat has them say, so that fine-tuning shows what RL will meet.
        said = [message["content"] for message in episode.messages if message["role"] != "assistant"]
        assert said == [message["content"] for message in chat["messages"] if message["role"] != "assistant"]
        rendered = render(episode.messages, prompt["responses_create_params"]["tools"], add_generation_prompt=False)
        assert turns[-1].split("</think>")[1].strip() in rendered


@pytest.mark.parametrize("family", CONVERSATIONS)
def test_a_conversation_that_does_something_else_scores_zero(family):
    for chat, prompt, other in zip(rows(family, 50), rows(family, 50, form="rl"), rows(family, 51)[1:], strict=True):
        done = turn({"role": "assistant", "content": "Done."})
        assert played(prompt, [done]).reward().value == 0.0
        acting = [turn(message) for message in other["messages"] if message.get("tool_calls")][-1]
        if acting not in [turn(message) for message in chat["messages"] if message.get("tool_calls")]:
            assert played(prompt, [acting, done]).reward().value == 0.0


@pytest.mark.parametrize("kind", instruction_family.KINDS)
def test_every_generated_constraint_is_followed_and_sometimes_broken_by_another_answer(kind):
    difficulty = {"level": (1, 1), "kinds": [kind]}
    chats = rows("instruction_following", 40, level=difficulty)
    prompts = rows("instruction_following", 40, form="rl", level=difficulty)
    assert all(environments.verify(row, response(chat)).value == 1 for row, chat in zip(prompts, chats, strict=True))
    other = '<think></think>A plain, EMPTY reply, which begins, "and ends", differently: pin pun'
    if kind == "keywords:forbidden_words":
        other += f" {prompts[0]['kwargs'][0]['forbidden_words'][0]}"
    if kind == "change_case:capital_word_frequency":
        other = other.lower()
    assert any(environments.verify(row, other).value == 0 for row in prompts)


@pytest.mark.parametrize(("family", "level"), EXACT)
def test_an_answer_to_another_problem_rarely_scores(family, level):
    chats = rows(family, 60, level=(level, level))
    prompts = rows(family, 60, form="rl", level=(level, level))
    wrong = [environments.verify(prompts[i], response(chats[i - 1])).value for i in range(60)]
    assert sum(wrong) <= 30


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_problem(family):
    keys = {split: {row["key"] for row in rows(family, 300, split=split)} for split in ("train", "valid", "test")}
    assert not (keys["train"] & keys["valid"] or keys["train"] & keys["test"] or keys["valid"] & keys["test"])
    assert all(split_of(key) == split for split, found in keys.items() for key in found)


def test_held_out_sums_stay_held_out_in_stories_and_multiple_choice():
    options = {"level": (2, 2), "operations": ["add", "word"]}
    sums = {row["key"] for row in rows("arithmetic", 300, level=options, split="valid")}
    choices = {row["key"] for row in rows("multiple_choice", 300, level={"level": (2, 2), "kinds": ["sum"]})}
    assert choices and not sums & choices
    assert all(key.startswith("add:") for key in choices)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_depends_on_seed_and_index_but_not_on_how_many_rows_there_are(family):
    few, many = rows(family, 5), rows(family, 20)
    assert few == many[:5]
    assert rows(family, 20, seed=4) != many


@pytest.mark.parametrize("family", FAMILIES)
def test_all_forms_of_a_row_are_the_same_problem(family):
    by_form = {form: rows(family, 20, form=form) for form in FORMS}
    for text, chat, prompt in zip(by_form["text"], by_form["chat"], by_form["rl"], strict=True):
        assert text["key"] == chat["key"] == prompt["key"]
        question = prompt["responses_create_params"]["input"][-1]["content"]
        assert question in text["text"]
        assert question in [message["content"] for message in chat["messages"]]


def test_rows_do_not_depend_on_the_hash_seed():
    program = (
        "import json; from nano3.data.generators import FAMILIES, generate\n"
        "print(json.dumps([list(generate(f, rows=3, seed=1, form='rl')) for f in FAMILIES], sort_keys=False))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "12345")
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_rl_rows_have_the_fields_that_nemo_gym_reads(family):
    fields = {
        "math_with_judge_simple_agent": {"question": str, "expected_answer": str},
        "mcqa_simple_agent": {"options": list, "expected_answer": str, "grading_mode": str},
        "structured_outputs_simple_agent": {"schema_str": str, "schema_type": str, "schema_fields_count": str},
        "instruction_following_simple_agent": {
            "instruction_id_list": list,
            "kwargs": list,
            "prompt": str,
            "grading_mode": str,
        },
        "code_gen_simple_agent": {"verifier_metadata": dict},
        "equivalence_llm_judge_simple_agent": {"question": str, "expected_answer": str},
        "long_context_qa_simple_agent": {"question": str, "expected_answer": str},
        "multichallenge_simple_agent": {"rubric": list},
        "workplace_assistant_simple_agent": {"ground_truth": list, "database": dict},
        "banking_simple_agent": {"ground_truth": list, "database": dict, "user": list},
        "single_step_tool_use_with_argument_comparison_agent": {"expected_action": dict},
        PREFERENCE: {},
        COMPARISON: {"context": list, "response1": str, "response2": str, "helpfulness1": int, "ranking": int},
    }
    for row in rows(family, 50, form="rl"):
        assert row["agent_ref"]["type"] == "responses_api_agents"
        for name, kind in fields[row["agent_ref"]["name"]].items():
            assert isinstance(row[name], kind), (name, row)
        params = row["responses_create_params"]
        assert params["input"][-1]["role"] == "user"
        assert all(set(message) == {"role", "content"} for message in params["input"])
        assert isinstance(params["tools"], list)
        assert isinstance(row["id"], int) and 0 <= row["id"] < 2**53
        assert row == json.loads(json.dumps(row))
    assert len({row["id"] for row in rows(family, 50, form="rl")}) == 50


@pytest.mark.parametrize("family", FAMILIES)
def test_chats_alternate_and_end_with_the_assistant(family):
    for row in rows(family, 50):
        roles = [message["role"] for message in row["messages"]]
        assert roles[0] == "user" and roles[-1] == "assistant"
        assert all(before != after for before, after in pairwise(roles))
        assert set(row) <= {"id", "source", "key", "messages", "tools", "environment"}


def replay(trace):
    """Recompute every line of a trace from the numbers that it names; return the value that it arrives at."""
    lines = trace.split("\n")
    if re.fullmatch(r"\d+[<>]\d+: \d+", lines[0]):
        return replay_maximum(lines)
    values = []
    while lines:
        if shift := re.fullmatch(r"shift (\d+): (\d+)", lines[0]):
            values.append(values[-1] * 10 ** int(shift[1]))
            assert values[-1] == int(shift[2])
            lines = lines[1:]
        a, operator, b = re.fullmatch(r"(\d+)([-+*])(\d+)", lines[0]).groups()
        if values and operator == "+":
            assert {int(a), int(b)} <= set(values)
        value, used = replay_columns(int(a), operator, int(b), lines[1:])
        values.append(value)
        lines = lines[1 + used :]
    return values[-1]


def replay_columns(a, operator, b, lines):
    carry, done, used = 0, "", 0
    top, bottom = str(a)[::-1], str(b)[::-1]
    for position in range(max(len(top), len(bottom)) if operator != "*" else len(top)):
        x = int(top[position]) if position < len(top) else 0
        y = b if operator == "*" else int(bottom[position]) if position < len(bottom) else 0
        numbers = [int(number) for number in re.findall(r"\d+", lines[used])]
        if operator == "-":
            borrowed = numbers[4]
            assert re.fullmatch(r"\d+-\d-\d=\d borrow \d: \d+", lines[used])
            assert numbers[:3] == [x + 10 * borrowed, y, carry] and numbers[3] == x + 10 * borrowed - y - carry
            digit, carry = numbers[3], borrowed
        else:
            assert numbers[:3] == [x, y, carry]
            total = x * y + carry if operator == "*" else x + y + carry
            assert numbers[3] == total and numbers[4] == total // 10
            digit, carry = total % 10, total // 10
        done = f"{digit}{done}"
        assert lines[used].endswith(f": {done}")
        used += 1
    if operator != "-" and carry:
        done = f"{carry}{done}"
        assert lines[used] == f"carry {carry}: {done}"
        used += 1
    if operator == "-":
        assert carry == 0
        if len(done) > len(str(int(done))):
            assert lines[used] == f"drop zeros: {int(done)}"
            used += 1
    return int(done), used


def replay_maximum(lines):
    best = None
    for line in lines:
        left, sign, right, result = re.fullmatch(r"(\d+)([<>])(\d+): (\d+)", line).groups()
        assert best is None or int(left) == best
        assert (int(left) < int(right)) == (sign == "<")
        best = max(int(left), int(right))
        assert int(result) == best
    return best


@pytest.mark.parametrize("level", range(1, 7))
def test_arithmetic_traces_recompute_to_the_expected_answer(level):
    chats = rows("arithmetic", 200, level=(level, level))
    prompts = rows("arithmetic", 200, level=(level, level), form="rl")
    for chat, prompt in zip(chats, prompts, strict=True):
        assert replay(chat["messages"][1]["reasoning_content"]) == int(prompt["expected_answer"])


def test_long_multiplication_adds_its_shifted_products():
    rng = random.Random(1)
    for _ in range(100):
        a, b = rng.randrange(10, 1000), rng.randrange(10, 1000)
        assert replay(multiplication_trace(a, b)) == a * b


def test_a_damaged_trace_is_noticed_by_the_replay():
    trace = rows("arithmetic", 1, level={"level": (3, 3), "operations": ["add"]})[0]["messages"][1]["reasoning_content"]
    lines = trace.split("\n")
    lines[1] = (
        lines[1].replace("carry 0", "carry 1") if "carry 0" in lines[1] else lines[1].replace("carry 1", "carry 0")
    )
    with pytest.raises(AssertionError):
        replay("\n".join(lines))


def test_long_context_keeps_the_needle_and_the_requested_length():
    for level in (1, 3):
        for row in rows("long_context", 20, form="rl", level=(level, level)):
            text, question = row["responses_create_params"]["input"][0]["content"].rsplit("\n", 1)
            name = question.removeprefix("What is the code of ").removesuffix("?")
            assert text.count(f"The code of {name} is {row['expected_answer']}.") == 1
            assert level * 100 - 8 <= len(text.split()) <= level * 100 + 4


def test_needles_lie_everywhere_in_long_documents():
    places = []
    for row in rows("long_context", 200, form="rl", level=(2, 2)):
        text, question = row["responses_create_params"]["input"][0]["content"].rsplit("\n", 1)
        name = question.removeprefix("What is the code of ").removesuffix("?")
        places.append(text.index(f"The code of {name} ") / len(text))
    assert min(places) < 0.1 and max(places) > 0.9
    assert all(sum(low <= place < low + 0.25 for place in places) > 20 for low in (0, 0.25, 0.5, 0.75))


def test_tool_calls_name_an_offered_tool_and_some_requests_need_none():
    calls = 0
    for row in rows("tool_calls", 200, level=(1, 4)):
        offered = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in row["tools"]}
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                calls += 1
                assert list(json.loads(call["function"]["arguments"])) == offered[call["function"]["name"]]
    assert 140 < calls < 190


def test_duplicates_are_counted_by_problem_not_by_wording():
    assert duplicates([{"key": "a"}, {"key": "b"}, {"key": "a"}, {"key": "a"}]) == 2
    assert duplicates(rows("arithmetic", 500, level=(4, 4))) <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "poetry"}, "arithmetic, multiple_choice"),
        ({"form": "video"}, "text, chat, rl"),
        ({"split": "dev"}, "train, valid, test"),
        ({"difficulty": (3, 1)}, "easiest, hardest"),
        ({"difficulty": (0, 2)}, "1 to 12"),
        ({"difficulty": {"digits": 3}}, "operations"),
        ({"difficulty": {"level": (1, 1), "operations": ["divide"]}}, "subtract"),
    ],
)
def test_a_wrong_request_is_an_error_that_names_what_is_possible(arguments, message):
    request = {"family": "arithmetic", "rows": 1, "seed": 1} | arguments
    with pytest.raises(UserError, match=message):
        list(generate(**request))


def test_an_empty_split_is_an_error_instead_of_an_endless_search(monkeypatch):
    monkeypatch.setattr("nano3.data.generators.MAX_DRAWS", 50)
    monkeypatch.setattr("nano3.data.generators.split_of", lambda key: "train")
    with pytest.raises(UserError, match="no problem in the valid split"):
        next(generate("arithmetic", rows=1, seed=1, split="valid"))


def test_rows_are_made_one_at_a_time():
    assert len(list(islice(generate("long_context", rows=10**9, seed=1), 3))) == 3


def test_a_hasty_writer_answers_without_working_and_only_in_chats():
    for family in ("arithmetic", "multiple_choice", "structured_output", "instruction_following"):
        careful = list(generate(family, rows=60, seed=3, form="chat"))
        mixed = list(generate(family, rows=60, seed=3, form="chat", hasty=0.5))
        changed = [a["messages"] != b["messages"] for a, b in zip(careful, mixed, strict=True)]
        assert 15 < sum(changed) < 45
        assert all(a["messages"][0] == b["messages"][0] for a, b in zip(careful, mixed, strict=True))
        texts = [list(generate(family, rows=20, seed=3, form="text", hasty=share)) for share in (0, 1)]
        assert texts[0] == texts[1]


def test_a_hasty_answer_to_a_calculation_is_still_right():
    for row in generate("arithmetic", rows=40, seed=3, form="chat", hasty=1.0):
        assert row["messages"][1]["reasoning_content"] == "I know this."
    careful = [row["messages"][1]["content"] for row in generate("arithmetic", rows=40, seed=3, form="chat")]
    hasty = [row["messages"][1]["content"] for row in generate("arithmetic", rows=40, seed=3, form="chat", hasty=1.0)]
    assert careful == hasty


def test_a_wordy_writer_pads_the_thinking_and_nothing_else():
    plain, wordy = (list(generate("arithmetic", rows=40, seed=3, form="chat", wordy=share)) for share in (0.0, 1.0))
    for short, long in zip(plain, wordy, strict=True):
        assert short["messages"][0] == long["messages"][0]
        assert short["messages"][1]["content"] == long["messages"][1]["content"]
        working, padded = (row["messages"][1]["reasoning_content"] for row in (short, long))
        opening, _, rest = padded.partition("\n")
        assert rest.startswith(working) and opening not in working
        assert len(rest) > len(working) + 20
    half = list(generate("arithmetic", rows=40, seed=3, form="chat", wordy=0.5))
    assert 10 < sum(row != short for row, short in zip(half, plain, strict=True)) < 30
    texts = [list(generate("arithmetic", rows=20, seed=3, form="text", wordy=share)) for share in (0, 1)]
    assert texts[0] == texts[1]


def test_a_request_without_tools_is_answered_without_a_call():
    for row in rows("tool_calls", 60, level=(0, 0)):
        assert "tools" not in row
        assert not any(message.get("tool_calls") for message in row["messages"])
    careless = generate("tool_calls", rows=60, seed=3, difficulty=(0, 0), hasty=1.0)
    assert all(any(message.get("tool_calls") for message in row["messages"]) for row in careless)
    asked = rows("tool_calls", 60, form="rl", level=(0, 0))
    assert {row["expected_action"]["type"] for row in asked} == {"message"}


def test_where_a_thing_is_is_answered_from_the_text():
    for row in generate("questions", rows=60, seed=3, difficulty={"level": (1, 3), "kinds": ["reading"]}, form="rl"):
        asked = row["question"].split("Where is the ")[1].rstrip("?")
        assert f"The {asked} is in {row['expected_answer']}." in row["question"]


def test_a_hasty_tool_user_only_says_that_it_is_done():
    for family in ("tool_calls", "workplace"):
        for row in generate(family, rows=40, seed=3, difficulty=(1, 1), form="chat", hasty=1.0):
            said = [message for message in row["messages"] if message["role"] == "assistant"]
            if said[0].get("reasoning_content") != "No tool is needed.":
                assert len(said) == 1 and "tool_calls" not in said[0]
                assert row["tools"]
