"""One generated problem, the split it belongs to, and its forms: document, chat, RL prompt, comparison."""

import hashlib
import json
import random
from dataclasses import dataclass, field

from nano3.errors import UserError

SPLITS = ("train", "valid", "test")
FORMS = ("text", "chat", "rl")  # of every family; comparisons also come as "preference"

MATH = "math_with_judge_simple_agent"
MCQA = "mcqa_simple_agent"
STRUCTURED_OUTPUTS = "structured_outputs_simple_agent"
INSTRUCTION_FOLLOWING = "instruction_following_simple_agent"
CODE = "code_gen_simple_agent"
TOOL_USE = "single_step_tool_use_with_argument_comparison_agent"
OPEN_QA = "equivalence_llm_judge_simple_agent"
LONG_CONTEXT_QA = "long_context_qa_simple_agent"
MULTI_TURN = "multichallenge_simple_agent"
WORKPLACE = "workplace_assistant_simple_agent"
BANKING = "banking_simple_agent"
COMPARISON = "genrm_compare_simple_agent"  # the reward model itself
PREFERENCE = "genrm_simple_agent"  # judged by a reward model, not by a verifier

# What a wordy writer says around the working.
_OPENINGS = (
    "Okay, let me think about this step by step.",
    "Let me see what is asked here first.",
    "Right, so I have to find out what is wanted.",
)
_CLOSINGS = (
    "Wait, let me check that once more. Yes, that looks right.",
    "Let me look at it again to be sure. It is right.",
    "Is that all? I think so, so I will write the answer.",
)


@dataclass(frozen=True)
class Problem:
    """A problem with its solution.

    key: canonical name of the problem, equal for every wording of it; its hash decides the split.
    messages: the whole chat, solution included. verifier: the fields its environment reads.
    hasty: the chat as a hasty writer would have it, without the working or with half the request forgotten; empty for
    families that have no such form.
    conversation: whether the prompt is the first user turn alone, since all that follows is played.
    """

    key: str
    messages: list[dict]
    environment: str
    verifier: dict = field(default_factory=dict)
    tools: list[dict] = field(default_factory=list)
    hasty: list[dict] = field(default_factory=list)
    conversation: bool = False


def split_of(key: str) -> str:
    """train, valid or test: 18, 1 and 1 of 20 keys. Depends on the key alone, so splits never share a problem."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 20
    return {0: "valid", 1: "test"}.get(bucket, "train")


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str, reasoning: str = "") -> dict:
    message = {"role": "assistant", "content": content}
    return message | {"reasoning_content": reasoning} if reasoning else message


def call(name: str, arguments: dict, said: str = "", reasoning: str = "") -> dict:
    """An assistant's turn that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))}
    return assistant(said, reasoning) | {"tool_calls": [{"id": "call_0", "type": "function", "function": function}]}


def result(content: str) -> dict:
    """What a tool says to the call before."""
    return {"role": "tool", "tool_call_id": "call_0", "content": content}


def tool(name: str, description: str, parameters: dict[str, str]) -> dict:
    """A tool in the OpenAI function format. parameters: name -> JSON Schema type, all required."""
    properties = {parameter: {"type": kind} for parameter, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def row(problem: Problem, *, form: str, source: str, name: str, hasty: bool = False, wordy: bool = False) -> dict:
    """The problem as a row of `form`. name: unique within its data set, e.g. "arithmetic/train/7/0".

    hasty: give the chat as a hasty writer would have it, where the family has such a form. wordy: with words around
    the working that say nothing."""
    common = {"id": name, "source": source, "key": problem.key}
    if form == "text":
        return common | {"text": document(problem)}
    if form == "preference":
        if problem.environment != COMPARISON:
            raise UserError(f"{source} has no form 'preference'; only tasks/comparison has")
        return common | problem.verifier
    if form == "chat":
        tools = {"tools": problem.tools} if problem.tools else {}
        messages = problem.hasty if hasty and problem.hasty else problem.messages
        if wordy:
            messages = _padded(messages, random.Random(f"{name}/padding"))
        return common | {"messages": messages, **tools, "environment": problem.environment}
    return {
        # NeMo-Gym's instruction_following server wants an integer here.
        "id": int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big"),
        "dataset": source,
        "key": problem.key,
        "agent_ref": {"type": "responses_api_agents", "name": problem.environment},
        "responses_create_params": {"input": prompt(problem), "tools": [flat(tool) for tool in problem.tools]},
        **problem.verifier,
    }


def _padded(messages: list[dict], rng: random.Random) -> list[dict]:
    """The messages with words before and after all reasoning."""
    return [
        message | {"reasoning_content": f"{rng.choice(_OPENINGS)}\n{reasoning}\n{rng.choice(_CLOSINGS)}"}
        if (reasoning := message.get("reasoning_content"))
        else message
        for message in messages
    ]


def prompt(problem: Problem) -> list[dict]:
    """The messages before the answer that is scored: up to the last user turn, thinking left out as in chat history."""
    turns = [index for index, message in enumerate(problem.messages) if message["role"] == "user"]
    last = turns[0] if problem.conversation else turns[-1]
    return [{"role": message["role"], "content": message["content"]} for message in problem.messages[: last + 1]]


def flat(tool: dict) -> dict:
    """A tool as the Responses API has it, without the `function` level of chat completions."""
    return {"type": "function", **tool["function"]}


def document(problem: Problem) -> str:
    """The problem as a pretraining document: questions and answers with the working in between."""
    lines = []
    for tool in problem.tools:
        function = tool["function"]
        lines.append(f"Tool: {function['name']}({', '.join(function['parameters']['properties'])})")
    for message in problem.messages:
        if message["role"] == "user":
            lines.append(f"Question: {message['content']}")
            continue
        if message.get("reasoning_content"):
            lines.append(message["reasoning_content"])
        for call in message.get("tool_calls", ()):
            lines.append(f"Call: {call['function']['name']} {call['function']['arguments']}")
        if message["content"]:
            lines.append(f"{'Result' if message['role'] == 'tool' else 'Answer'}: {message['content']}")
    return "\n".join(lines)
