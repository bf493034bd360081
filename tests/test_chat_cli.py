"""The terminal chat: streaming, history, thinking, commands, errors."""

import io
import subprocess
import sys

import pytest

from data_jobs import script
from fake_results import save_toy_model
from nano3 import cli
from nano3.chat.template import chat_template
from nano3.chat.terminal import Chat, Sampling, decode, open_chat, split_thinking
from nano3.errors import UserError
from rl_toy import toy_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("chat")
    save_toy_model(directory)
    return directory


def chat_that_says(monkeypatch, *answers, **options):
    """A Chat whose model writes the given texts, one a turn; prompts are collected in chat.prompts."""
    from nano3.model import generate

    tokenizer = toy_tokenizer()
    left, prompts = list(answers), []

    def stream(model, prompt, **settings):
        prompts.append(tokenizer.decode(prompt, skip_special_tokens=False))
        yield from tokenizer.encode(left.pop(0), add_special_tokens=False).ids[: settings["max_new_tokens"]]

    monkeypatch.setattr(generate, "stream", stream)

    class Model:
        class config:
            max_position_embeddings = 300

    chat = Chat(Model, tokenizer, chat_template(), [11], Sampling(), **options)
    chat.prompts = prompts
    return chat


def test_characters_of_several_tokens_are_never_broken():
    tokenizer = toy_tokenizer()
    text = "naïve 模型 🙂!"
    pieces = list(decode(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids))
    assert "".join(pieces) == text and "模" in pieces and not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_text_do_not_hold_the_stream_up():
    tokenizer = toy_tokenizer()
    lead = tokenizer.encode("🙂", add_special_tokens=False).ids[0]
    letter = tokenizer.encode("a", add_special_tokens=False).ids[0]
    assert next(decode(tokenizer, [lead, letter])).endswith("a")
    assert "".join(decode(tokenizer, [letter, lead])) == "a\ufffd"


@pytest.mark.parametrize("cut", range(1, 12))
def test_the_end_of_thinking_is_found_however_it_is_cut(cut):
    text = "2 < 3</think>\nyes"
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    found = list(split_thinking(pieces, starts_inside=True))
    assert "".join(piece for piece, inside in found if inside) == "2 < 3"
    assert "".join(piece for piece, inside in found if not inside) == "\nyes"


def test_history_goes_through_the_chat_template(monkeypatch):
    chat = chat_that_says(monkeypatch, "because</think>\nfour<|im_end|>", "five<|im_end|>", system="Be short.")
    assert "".join(piece for piece, inside in chat.ask("2 + 2?") if not inside).strip() == "four"
    assert chat.messages[1] == {"role": "assistant", "content": "four", "reasoning_content": "because"}
    chat.think = False
    list(chat.ask("and 5?"))
    first, second = chat.prompts
    assert first.endswith("<think>\n") and "Be short." in first
    assert second.endswith("<think></think>") and "<think></think>four" in second.replace("\n", "")
    assert "because" not in second


def test_a_stopped_answer_stays_in_the_history(monkeypatch):
    chat = chat_that_says(monkeypatch, "one two three<|im_end|>", think=False)
    pieces = chat.ask("count")
    next(pieces)
    pieces.close()
    assert chat.messages[-1]["content"] == "o"


def test_a_conversation_that_no_longer_fits_says_reset_and_keeps_its_history(monkeypatch):
    chat = chat_that_says(monkeypatch, "x")
    with pytest.raises(UserError, match="/reset"):
        list(chat.ask("word " * 80))
    assert chat.messages == []


def test_max_new_tokens_never_leaves_the_context(monkeypatch):
    chat = chat_that_says(monkeypatch, "y" * 500, think=False)
    list(chat.ask("hi"))
    assert len(chat.messages[-1]["content"]) == 300 - len(toy_tokenizer().encode(chat.prompts[0]).ids)


def test_commands_and_questions_come_from_a_pipe(monkeypatch, capsys):
    chat = chat_that_says(monkeypatch, "thought</think>\nfirst<|im_end|>", "second<|im_end|>")
    module = script("chat")
    monkeypatch.setattr(module, "open_chat", lambda *arguments, **options: chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/think\n\nagain\n/reset\n/wrong\n/quit\nnever\n"))
    module.main(["somewhere"])
    output = capsys.readouterr()
    assert output.out == "<think>\nthought\n</think>\nfirst\nsecond\n"
    assert "thinking is off" in output.err and "new conversation" in output.err and "/wrong" in output.err
    assert chat.messages == []


def test_thinking_is_dimmed_on_a_terminal(monkeypatch, capsys):
    chat = chat_that_says(monkeypatch, "thought</think>\nfirst<|im_end|>")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    script("chat").answer(chat, "hello")
    assert capsys.readouterr().out == "\x1b[2mthought\x1b[0m\nfirst\n"


def test_a_directory_that_is_no_model_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"not a model to chat with.*config\.json and no tokenizer\.json"):
        open_chat(tmp_path, Sampling())


def test_a_model_without_a_chat_template_is_a_clear_error(model, tmp_path):
    import shutil

    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model/tokenizer_config.json").write_text("{}")
    (tmp_path / "model/chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(UserError, match="no chat template"):
        open_chat(tmp_path / "model", Sampling())


def test_the_real_command_answers_one_prompt(model):
    command = [sys.executable, "scripts/chat.py", str(model), "--prompt", "Hi", "--max-new-tokens", "8", "--no-think"]
    written = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    chat = open_chat(model, Sampling(max_new_tokens=8), think=False)
    assert chat.stop_ids == [2, 11]
    assert written.strip("\n") == "".join(piece for piece, _ in chat.ask("Hi")).strip("\n") != ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "error: nowhere is not a model to chat with"),
        (["nowhere", "--max-new-tokens", "0"], "expected a whole number from 1 up, found '0'"),
        (["nowhere", "--prompt", " "], "--prompt is empty"),
    ],
)
def test_mistakes_are_told_on_the_error_stream(arguments, expected):
    done = subprocess.run([sys.executable, "scripts/chat.py", *arguments], capture_output=True, text=True)
    assert done.returncode and expected in done.stderr and not done.stdout


def test_a_python_without_the_packages_is_told_to_activate_its_environment():
    def main():
        import no_such_package.deeper  # noqa: F401

    with pytest.raises(SystemExit, match=r"has no package 'no_such_package'.\n  Activate the environment"):
        cli.run(main)

    def broken():
        import nano3.no_such_module  # noqa: F401

    with pytest.raises(ModuleNotFoundError):  # a fault of ours is no fault of the environment
        cli.run(broken)
