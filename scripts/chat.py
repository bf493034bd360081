"""Talk to a finished model in the terminal.

  python scripts/chat.py results/tiny/rl/final
  python scripts/chat.py results/tiny/rl/final --prompt "What is a bee?" --no-think
  printf 'What is 2 + 3?\\nAnd 4 + 5?\\n' | python scripts/chat.py results/tiny/rl/final

Commands inside the chat: /think turns thinking on and off, /reset forgets the conversation, /help, /quit.
Ctrl-C stops an answer, Ctrl-D ends the chat."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from nano3 import cli
from nano3.chat.terminal import Chat, Sampling, open_chat
from nano3.errors import UserError

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
HELP = "/think  thinking on or off    /reset  forget the conversation    /help  this line    /quit  end"


def main(argv: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.prompt is not None and not options.prompt.strip():
        parser.error("--prompt is empty; leave it out to chat, or ask something")
    sampling = Sampling(options.temperature, options.top_p, options.max_new_tokens, options.seed)
    chat = open_chat(options.model, sampling, think=options.think, system=options.system)
    if options.prompt is not None:
        answer(chat, options.prompt)
    elif sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and history for input()
        size = sum(parameter.numel() for parameter in chat.model.parameters())
        print(f"{options.model}: {size / 1e6:,.1f} million parameters. {HELP}", file=sys.stderr)
        _converse(chat, lambda: input("\n> "))
    else:
        _converse(chat, sys.stdin.readline)


def _converse(chat: Chat, read_line) -> None:
    while True:
        try:
            line = read_line()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if not line and not sys.stdin.isatty():
            return  # end of the pipe
        line = line.strip()
        if line in {"/quit", "/exit"}:
            return
        if line.startswith("/"):
            print(_command(chat, line), file=sys.stderr)
        elif line:
            try:
                answer(chat, line)
            except UserError as problem:
                print(problem, file=sys.stderr)


def _command(chat: Chat, line: str) -> str:
    if line == "/think":
        chat.think = not chat.think
        return f"thinking is {'on' if chat.think else 'off'}"
    if line == "/reset":
        chat.reset()
        return "new conversation"
    return HELP if line == "/help" else f"unknown command {line}. {HELP}"


def answer(chat: Chat, question: str) -> None:
    """Print one answer while it is made; thinking is dimmed on a terminal and in <think> tags elsewhere."""
    styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    opened, closed = (DIM, f"{PLAIN}\n") if styled else ("<think>\n", "\n</think>\n")
    inside = False
    at_start = True  # of the answer proper: the line breaks that a template puts there are not shown
    pieces = chat.ask(question)
    try:
        for piece, thinking in pieces:
            if thinking != inside:
                sys.stdout.write(opened if thinking else closed)
                inside = thinking
            if not thinking and at_start:
                piece = piece.lstrip("\n")
                at_start = not piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()
    finally:
        sys.stdout.write(closed if inside else "\n")
        sys.stdout.flush()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, found {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face directory, e.g. results/tiny/rl/final")
    parser.add_argument("--prompt", help="ask this one question, print the answer and exit")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--think", action=argparse.BooleanOptionalAction, default=True, help="reason before the answer")
    usual = Sampling()
    parser.add_argument("--temperature", type=float, default=usual.temperature, help="0: greedy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=usual.top_p, help="nucleus sampling (default: %(default)s, off)")
    parser.add_argument(
        "--max-new-tokens", type=_positive, default=usual.max_new_tokens, help="longest answer (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="of the sampling (default: %(default)s)")
    return parser


if __name__ == "__main__":
    cli.run(main)
