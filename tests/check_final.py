"""The final model in transformers, as it is, against our own: logits, greedy text and chat template.

    python tests/check_final.py results/tiny/rl/final

Prints the figures; exits 1 if one is broken.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nano3.chat.template import render, template_of
from nano3.model import hf
from nano3.model.generate import generate

NEW_TOKENS = 64
CHAT = [
    {"role": "user", "content": "Add 95 and 42."},
    {"role": "assistant", "content": "137", "reasoning_content": "95+42"},
    {"role": "user", "content": "Which number is even?\nA) 13\nB) 28\nC) 7\nD) 31"},
]
TOOLS = [{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}]


def main(directory: Path) -> bool:
    """Compare; True if everything holds."""
    torch.set_num_threads(2)
    ours = hf.load(directory).eval()
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)

    switches = [{}, {"enable_thinking": False}, {"reasoning_budget": 20}, {"tools": TOOLS}]
    same_text = all(
        render(CHAT, options.get("tools"), add_generation_prompt=True, template=template_of(directory), **other)
        == tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False, **options)
        for options in switches
        for other in [{key: value for key, value in options.items() if key != "tools"}]
    )
    prompt = tokenizer(render(CHAT, add_generation_prompt=True), add_special_tokens=False).input_ids
    tokens = torch.tensor([(prompt * (512 // len(prompt) + 1))[:512]])
    with torch.no_grad():
        difference = (ours(tokens) - theirs(tokens).logits).abs().max().item()
    [mine] = generate(ours, [prompt], max_new_tokens=NEW_TOKENS, temperature=0.0, stop_ids=[], seed=0)
    greedy = theirs.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=-1
    )[0, len(prompt) :].tolist()
    checks = {
        f"largest difference of 512 x {ours.config.vocab_size} logits: {difference:.1e} <= 1e-4": difference <= 1e-4,
        f"greedy text of {NEW_TOKENS} tokens is identical": mine.tokens == greedy,
        f"chat template renders identically in {len(switches)} cases": same_text,
    }
    for text, holds in checks.items():
        print(f"{'ok    ' if holds else 'BROKEN'}  {text}")
    return all(checks.values())


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
