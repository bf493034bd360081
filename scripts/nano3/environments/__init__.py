"""Reward environments: one file each, all with verify(row, response) -> Reward.

A row is a NeMo-Gym example; agent_ref names the environment, verifier fields sit at the top level. `verify(row, "")`
is a cheap test of the row itself: it raises UserError when the row can't be scored.
"""

from nano3.environments import code_gen, instruction_following, math, mcqa, structured_outputs, tool_calls
from nano3.environments.fields import describe
from nano3.environments.reward import Reward
from nano3.errors import UserError

ENVIRONMENTS = {
    "code_gen_simple_agent": code_gen.verify,
    "math_with_judge_simple_agent": math.verify,
    "mcqa_simple_agent": mcqa.verify,
    "structured_outputs_simple_agent": structured_outputs.verify,
    "instruction_following_simple_agent": instruction_following.verify,
    "single_step_tool_use_with_argument_comparison_agent": tool_calls.verify,
}


def verify(row: dict, response: str) -> Reward:
    """Score a response with the environment that row["agent_ref"]["name"] names.

    response: the assistant's text after the prompt, special tokens readable; see text.split_response for what it
    may start with. Raises UserError for an unknown environment or a row that lacks its verifier fields.
    """
    name = (row.get("agent_ref") or {}).get("name")
    if name not in ENVIRONMENTS:
        known = ", ".join(sorted(ENVIRONMENTS))
        raise UserError(f"{describe(row)}: no environment is called {name!r}. agent_ref.name can be: {known}")
    return ENVIRONMENTS[name](row, response)


__all__ = ["ENVIRONMENTS", "Reward", "verify"]
