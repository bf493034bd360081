"""Sampling text from a Nemotron-H model: batched, cached, and exactly repeatable.

Prompts of unequal length are aligned on the right; what stands before a prompt is a document of its own, so
nothing crosses from it into the prompt. Row i draws its random numbers from column i of one stream, so what a
row samples does not depend on when the others stop.
"""

import shutil
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nano3.errors import UserError
from nano3.model.cache import Cache, empty_cache, joined
from nano3.model.nemotron_h import NemotronH

SUM_BLOCK = 512  # tokens whose probabilities a GPU sums at a time
LOOK_EVERY = 16  # steps between two looks at what a compiled step has written: each costs as much as a small kernel
# Tokens of prompts read at once, padding included: memory grows with them, and more are slower where they leave the
# cache of a CPU.
PREFILL_TOKENS = {"cpu": 2**12, "cuda": 2**15}
COMPACT_AT = 0.75  # drop finished rows once no more than this share of the batch is still running


@dataclass(frozen=True)
class Completion:
    """What the model wrote after one prompt."""

    tokens: list[int]  # with the stop token, when it came to one
    logprobs: list[float]  # of each token under the model's own distribution (temperature 1, no top-p)
    finished: bool  # False: cut off at max_new_tokens


@torch.no_grad()
def generate(
    model: NemotronH,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop_ids: Sequence[int] = (),
    seed: int = 0,
    pad_id: int = 0,
    compiled: bool = False,
    columns: tuple[Sequence[int], int] | None = None,
) -> list[Completion]:
    """Continue every prompt until a stop token or `max_new_tokens`.

    Temperature 0 is greedy. The same model, prompts, settings, seed and thread count give the same bits.
    `compiled` fuses a step's many small operations with torch.compile: twice as fast on a CPU, after some ten seconds
    for every new number of rows; it needs a C++ compiler there. The rows are then spread over the threads, each of
    which computes its own alone: operations this small gain little from being shared out.
    columns: (the column of the random stream that each prompt's row draws from, how wide the stream is), for rows of a
    larger set: then what a row samples does not depend on which others are asked with it. None: row i has column i.
    Raises UserError for an empty prompt or settings out of range.
    """
    _check(model, prompts, max_new_tokens, temperature, top_p)
    if not prompts or max_new_tokens == 0:
        return [Completion([], [], False) for _ in prompts]
    decode = _compiled(model, temperature, top_p) if compiled else None
    own, width = (range(len(prompts)), len(prompts)) if columns is None else columns

    def continued(first: int, end: int) -> list[Completion]:
        drawn = own[first:end], width
        return _generate(
            model, prompts[first:end], drawn, max_new_tokens, temperature, top_p, stop_ids, seed, pad_id, decode
        )

    training = model.training
    model.eval()
    try:
        if not compiled or model.lm_head.weight.device.type != "cpu":
            return continued(0, len(prompts))
        return _by_thread(continued, len(prompts))
    finally:
        model.train(training)


def _by_thread(work: Callable[[int, int], list[Completion]], rows: int) -> list[Completion]:
    """`work(first, end)` on equal shares of the rows, one share a thread, and the results in order."""
    threads = torch.get_num_threads()
    shares = min(threads, rows)
    bounds = [rows * share // shares for share in range(shares + 1)]
    device, dtype, enabled = "cpu", torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def alone(first: int, end: int) -> list[Completion]:
        torch.set_num_threads(1)
        with torch.no_grad(), torch.autocast(device, dtype, enabled=enabled):  # threads inherit neither
            return work(first, end)

    try:
        with ThreadPoolExecutor(shares) as pool:
            return [completion for part in pool.map(alone, bounds[:-1], bounds[1:]) for completion in part]
    finally:
        torch.set_num_threads(threads)


def _generate(
    model, prompts, columns, max_new_tokens, temperature, top_p, stop_ids, seed, pad_id, decode
) -> list[Completion]:
    """columns: which random numbers of how many are these rows'; decode: the compiled step, None for the plain one."""
    device = model.lm_head.weight.device
    total, step_once = len(prompts), decode or decode_step
    stops = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
    stops[list(stop_ids)] = True
    tokens = torch.full((max_new_tokens, total), pad_id, dtype=torch.int64, device=device)
    logprobs = torch.zeros(max_new_tokens, total, device=device)
    stopped = torch.zeros(total, dtype=torch.bool, device=device)  # of all rows
    rows = torch.arange(total, device=device)  # the rows still computed: compiled steps keep their number
    check = LOOK_EVERY if decode else 1

    logits, cache = prefill(model, prompts, max_new_tokens, pad_id)
    for step, uniform in enumerate(_uniforms(seed, max_new_tokens, *columns, device)):
        uniform = uniform if decode else uniform[rows]
        if step == 0:
            chosen, logprob = choose(logits, temperature, top_p, uniform)  # [r], [r]
        else:
            cache.reserve(1)
            chosen, logprob = step_once(model, chosen, cache, temperature, top_p, uniform)
            cache.advance(1)
        tokens[step].index_copy_(0, rows, chosen)
        logprobs[step].index_copy_(0, rows, logprob)
        if (step + 1) % check:
            continue
        stopped |= stops[tokens[step + 1 - check : step + 1]].any(0)
        alive = total - int(stopped.sum())
        if alive == 0:
            break
        if decode is None and alive <= COMPACT_AT * len(rows):
            keep = (~stopped[rows]).nonzero().squeeze(1)
            rows, chosen = rows[keep], chosen[keep]
            cache.select(keep)

    ends = stops[tokens].int()  # what a row wrote after its stop does not count
    lengths = torch.where(ends.any(0), ends.argmax(0) + 1, max_new_tokens)
    tokens, logprobs, finished = tokens.T.tolist(), logprobs.T.tolist(), ends.any(0).tolist()
    return [Completion(tokens[i][:n], logprobs[i][:n], finished[i]) for i, n in enumerate(lengths.tolist())]


def _uniforms(seed: int, steps: int, own: Sequence[int], width: int, device) -> Iterator[Tensor]:
    """The random numbers of every step, [rows] float64: columns `own` of a stream that is `width` wide."""
    draws, own = torch.Generator().manual_seed(seed), torch.tensor(own)
    for start in range(0, steps, LOOK_EVERY):
        block = torch.rand(min(LOOK_EVERY, steps - start), width, generator=draws, dtype=torch.float64)
        yield from block[:, own].to(device)


def choose(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample from logits [r, V]: the tokens [r] int64 and their log-probabilities under the model itself [r]."""
    own = logits.log_softmax(-1)
    chosen = sample(own, temperature, top_p, uniform)
    return chosen, own.gather(1, chosen[:, None]).squeeze(1)


def decode_step(
    model: NemotronH, token: Tensor, cache: Cache, temperature: float, top_p: float, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Read one token per row [r] and sample the next; `cache` has room and is advanced by the caller."""
    logits = F.linear(model.step(token, cache), model.lm_head.weight).float()
    return choose(logits, temperature, top_p, uniform)


def can_compile() -> bool:
    """Whether torch.compile has something to compile with: a GPU, or a C++ compiler on PATH."""
    return torch.cuda.is_available() or any(map(shutil.which, ("c++", "g++", "clang++")))


def _compiled(model: NemotronH, temperature: float, top_p: float) -> Callable:
    """`decode_step` of this model through torch.compile, made once. Raises UserError where nothing can compile it.

    Of the checks that torch.compile makes before every call only those of the shapes stay: the hundreds that look
    through the model take as long as an eighth of a step. So there is one function, with a code object
    of its own, for every model and setting: what they would tell apart."""
    if not can_compile():
        raise UserError(
            "compiled generation needs a C++ compiler and found neither c++, g++ nor clang++ on PATH.\n"
            "  Install one (Debian: apt-get install g++), or generate without `compiled`."
        )
    functions = _COMPILED.setdefault(model, {})
    if (temperature, top_p) not in functions:
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # row counts, capacities
        own = types.FunctionType(decode_step.__code__.replace(), decode_step.__globals__)
        options = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe, "size_asserts": False}
        options["deterministic"] = torch.are_deterministic_algorithms_enabled()
        if model.lm_head.weight.device.type == "cpu":
            options["cpp_wrapper"] = True  # calls between kernels cost as much as the kernels themselves
        functions[temperature, top_p] = torch.compile(own, dynamic=False, options=options)
    return functions[temperature, top_p]


_COMPILED: weakref.WeakKeyDictionary[NemotronH, dict[tuple[float, float], Callable]] = weakref.WeakKeyDictionary()


def stream(
    model: NemotronH,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop_ids: Sequence[int] = (),
    seed: int = 0,
) -> Iterator[int]:
    """Yield the tokens after one prompt as they are sampled, the stop token included."""
    _check(model, [prompt], max_new_tokens, temperature, top_p)
    draws = torch.Generator().manual_seed(seed)
    stops = set(stop_ids)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits, cache = prefill(model, [prompt], max_new_tokens, 0)
        for _ in range(max_new_tokens):
            uniform = torch.rand(1, generator=draws, dtype=torch.float64).to(logits.device)
            chosen = sample(logits.log_softmax(-1), temperature, top_p, uniform)
            yield int(chosen)
            if int(chosen) in stops:
                return
            with torch.no_grad():
                logits = model(chosen[:, None], cache=cache)[:, 0]
    finally:
        model.train(training)


def prefill(model: NemotronH, prompts: Sequence[Sequence[int]], room: int, pad_id: int) -> tuple[Tensor, Cache]:
    """Read all prompts: logits of the token after each [b, V] and the cache, with room for more tokens.

    Equal prompts, as the groups of GRPO have them, are read once."""
    device = model.lm_head.weight.device
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    copies = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)  # [b] into the distinct ones
    distinct, longest = list(places), max(map(len, prompts))
    rows = max(1, PREFILL_TOKENS[device.type] // longest)
    parts = [
        read(model, distinct[first : first + rows], longest, room, pad_id) for first in range(0, len(distinct), rows)
    ]
    last, cache = torch.cat([states for states, _ in parts]), joined([cache for _, cache in parts])
    if len(copies) > len(distinct):
        last = last[copies]
        cache.select(copies)
    model.prepare_decoding(cache)
    return F.linear(last, model.lm_head.weight).float(), cache


def read(
    model: NemotronH, prompts: Sequence[Sequence[int]], longest: int, room: int = 0, pad_id: int = 0
) -> tuple[Tensor, Cache]:
    """States of the last tokens of prompts, padded on the left to `longest` [b, D], and the cache; differentiable."""
    device = model.lm_head.weight.device
    starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    real = None
    if bool((starts > 0).any()):
        real = torch.arange(longest, device=device) >= starts[:, None]
    cache = empty_cache(
        model.config,
        len(prompts),
        longest + min(room, 256),
        starts=starts,
        dtype=model.embeddings.weight.dtype,
        device=device,
    )
    doc_ids = None if real is None else real.long()  # 0 padding, 1 prompt
    return model.hidden(ids, doc_ids=doc_ids, cache=cache, only_last=True, real=real)[:, -1], cache


def sample(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> Tensor:
    """One token per row: logits or log-probabilities [b, V] float32, uniform [b] float64 in [0, 1) -> [b] int64.

    Inverts the cumulative distribution, so one random number decides a token. `top_p` keeps the smallest set of most
    likely tokens whose probability reaches it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(running_sum(ordered, torch.float32) - ordered >= top_p, 0)
        return order.gather(1, _invert(ordered, uniform)[:, None]).squeeze(1)
    return _invert(probs, uniform)


def running_sum(probs: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of probabilities [b, V] up to and including each place, in `dtype`.

    On a GPU as whole multiples of 2^-52, whose sums are the same bits in any order, and float64: torch vouches for no
    cumulative sum of floats there. And in blocks: torch 2.11 can't compile a long sum over few rows."""
    if probs.device.type == "cpu":
        return probs.cumsum(-1, dtype=dtype)
    whole = F.pad((probs.double() * 2**52).long(), (0, -probs.shape[-1] % SUM_BLOCK))
    within = whole.unflatten(-1, (-1, SUM_BLOCK)).cumsum(-1)  # [b, blocks, SUM_BLOCK]
    totals = within[..., -1]
    sums = within + (totals.cumsum(-1) - totals)[..., None]
    return sums.flatten(-2)[:, : probs.shape[-1]].double() * 2**-52


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    cumulative = running_sum(probs, torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=probs.shape[-1] - 1)


def _check(model, prompts, max_new_tokens: int, temperature: float, top_p: float) -> None:
    empty = [i for i, prompt in enumerate(prompts) if len(prompt) == 0]
    if empty:
        raise UserError(f"prompt {empty[0]} is empty; a prompt needs at least one token, e.g. the BOS token")
    largest, vocabulary = max((max(prompt) for prompt in prompts), default=0), model.config.vocab_size
    if largest >= vocabulary:
        raise UserError(
            f"token {largest} is outside the model's vocabulary of {vocabulary}: is it another tokenizer's?"
        )
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")
    if temperature < 0 or not 0 < top_p <= 1:
        raise UserError(
            f"temperature {temperature} and top_p {top_p}: expected temperature >= 0 (0 is greedy) and 0 < top_p <= 1"
        )
