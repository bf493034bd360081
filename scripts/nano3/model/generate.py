"""Sampling text from a Nemotron-H model: batched, cached, and exactly repeatable.

Prompts of unequal length are aligned on the right; what stands before a prompt is a document of its own, so
nothing crosses from it into the prompt. Every row draws from a random stream of its own, so what it samples does not
depend on the others, nor on when they stop.
"""

import itertools
import shutil
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nano3.errors import UserError
from nano3.model.cache import Cache, empty_cache, joined
from nano3.model.nemotron_h import NemotronH
from nano3.model.padding import of_like_length
from nano3.model.sampling import Draws, choose, sample

LOOK_EVERY = 16  # steps between two looks at what a compiled step has written: each costs as much as a small kernel
# Tokens of prompts read at once, padding included: memory grows with them, and more are slower where they leave the
# cache of a CPU.
PREFILL_TOKENS = {"cpu": 2**12, "cuda": 2**15}
COMPACT_AT = 0.75  # drop finished rows once no more than this share of the batch is still running
LIKE_LENGTH = 2  # how many times as long as the shortest the longest of prompts read together may be,
SHORT_PROMPT = 128  # and this many tokens more: short prompts are cheaper padded than in batches of their own
BATCH_ROWS = 256  # texts written at once


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
    streams: Sequence[int] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[Completion]:
    """Continue every prompt until a stop token or `max_new_tokens`.

    Temperature 0 is greedy. The same model, prompts, settings, seed and thread count give the same bits.
    `compiled` fuses a step's many small operations with torch.compile: twice as fast on a CPU, after some ten seconds
    for every new number of rows; it needs a C++ compiler there. The rows are then spread over the threads, each of
    which computes its own alone: operations this small gain little from being shared out.
    streams: the number of each prompt's random stream; None: 0, 1, ... Equal numbers sample alike.
    batch_rows: texts written at once, at most. Where texts have ended others begin.
    Raises UserError for an empty prompt or settings out of range.
    """
    _check(model, prompts, max_new_tokens, temperature, top_p)
    if not prompts or max_new_tokens == 0:
        return [Completion([], [], False) for _ in prompts]
    decode = _compiled(model, temperature, top_p) if compiled else None
    streams = range(len(prompts)) if streams is None else streams

    def continued(first: int, end: int) -> list[Completion]:
        own = prompts[first:end], streams[first:end]
        return _generate(model, *own, max_new_tokens, temperature, top_p, stop_ids, seed, pad_id, batch_rows, decode)

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


@dataclass
class _Running:
    """The rows that are being written: which prompts they follow, their last tokens, and the model's memory of them."""

    rows: np.ndarray  # [r] int64: indices of the prompts
    begun: np.ndarray  # [r] int64: the step in which the row's first token was sampled
    token: Tensor  # [r] int64
    alive: Tensor  # [r] bool: not stopped yet
    cache: Cache

    def keep(self, chosen: Tensor) -> "_Running":
        """Only these rows (indices [k] int64)."""
        self.cache.select(chosen)
        own = chosen.cpu().numpy()
        return _Running(self.rows[own], self.begun[own], self.token[chosen], self.alive[chosen], self.cache)

    def join(self, more: "_Running") -> "_Running":
        return _Running(
            np.concatenate([self.rows, more.rows]),
            np.concatenate([self.begun, more.begun]),
            torch.cat([self.token, more.token]),
            torch.cat([self.alive, more.alive]),
            joined([self.cache, more.cache]),
        )


def _generate(
    model, prompts, streams, max_new_tokens, temperature, top_p, stop_ids, seed, pad_id, most, decode
) -> list[Completion]:
    """most: rows at a time; decode: the compiled step, None for the plain one.

    Rows that have stopped make room for prompts that wait, shortest first. Compiled steps keep their number of rows:
    there the next prompts follow when all rows have stopped."""
    device, total = model.lm_head.weight.device, len(prompts)
    stops = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)
    stops[list(stop_ids)] = True
    # one place more than needed: for rows that are still computed when they are full
    tokens = torch.full((max_new_tokens + 1, total), pad_id, dtype=torch.int64, device=device)
    logprobs = torch.zeros(max_new_tokens + 1, total, device=device)
    draws = Draws(seed, streams)
    waiting = sorted(range(total), key=lambda i: len(prompts[i]))
    running, step = None, 0

    def write(running: _Running, sampled: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """One token for each row, from one random number for each."""
        age = np.minimum(step - running.begun, max_new_tokens)
        running.token, logprob = sampled(draws.take(running.rows, np.minimum(age, max_new_tokens - 1)).to(device))
        place = tuple(torch.from_numpy(each).to(device) for each in (age, running.rows))
        tokens.index_put_(place, running.token)
        logprobs.index_put_(place, logprob)
        running.alive &= ~stops[running.token] & torch.from_numpy(age + 1 < max_new_tokens).to(device)

    while waiting or running is not None:
        if running is not None:
            running = _left(model, running, step, max_new_tokens, elastic=decode is None)
        if waiting and _has_room(running, len(prompts[waiting[0]]), most, elastic=decode is None):
            new = _next(waiting, prompts, most - (0 if running is None else len(running.rows)))
            logits, cache = prefill(model, [prompts[i] for i in new], max_new_tokens, pad_id)
            alive = torch.ones(len(new), dtype=torch.bool, device=device)
            fresh = _Running(np.array(new), np.full(len(new), step), alive.long(), alive, cache)
            write(fresh, partial(choose, logits, temperature, top_p))
            if running is None:
                running = fresh
            else:
                running = running.join(fresh)
                model.prepare_decoding(running.cache)
        if running is not None:
            step += 1
            running.cache.reserve(1)
            write(running, partial(decode or decode_step, model, running.token, running.cache, temperature, top_p))
            running.cache.advance(1)

    ends = stops[tokens[:max_new_tokens]].int()  # what a row wrote after its stop does not count
    lengths = torch.where(ends.any(0), ends.argmax(0) + 1, max_new_tokens).tolist()
    tokens, logprobs, finished = tokens.T.tolist(), logprobs.T.tolist(), ends.any(0).tolist()
    return [Completion(tokens[i][:n], logprobs[i][:n], finished[i]) for i, n in enumerate(lengths)]


def _left(model, running: _Running, step: int, max_new_tokens: int, *, elastic: bool) -> _Running | None:
    """The rows that go on, or most of them: dropping the others has its price. None when all have stopped."""
    if step - running.begun.max() >= max_new_tokens - 1:
        return None
    if not elastic and step % LOOK_EVERY:
        return running
    alive = int(running.alive.sum())
    if alive and elastic and alive <= COMPACT_AT * len(running.rows):
        running = running.keep(running.alive.nonzero().squeeze(1))
        model.prepare_decoding(running.cache)
    return running if alive else None


def _has_room(running: _Running | None, length: int, most: int, *, elastic: bool) -> bool:
    """Whether waiting prompts of this length are read now: when half of the places are free or, as all rows are padded
    to the longest, nearly all if the prompts are much longer than the texts that are being written."""
    if running is None:
        return True
    rows = len(running.rows)
    if not elastic or rows > most // 2:
        return False
    longest = running.cache.length - int(running.cache.starts.min())
    return length <= longest + SHORT_PROMPT or rows <= most // 8


def _next(waiting: list[int], prompts: Sequence[Sequence[int]], room: int) -> list[int]:
    """Take prompts of like length from the front."""
    longest = LIKE_LENGTH * len(prompts[waiting[0]]) + SHORT_PROMPT
    new = [i for i in waiting[:room] if len(prompts[i]) <= longest]
    del waiting[: len(new)]
    return new


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
    draws, stops = Draws(seed, [0]), set(stop_ids)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits, cache = prefill(model, [prompt], max_new_tokens, 0)
        for place in range(max_new_tokens):
            uniform = draws.take(np.array([0]), np.array([place])).to(logits.device)
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
    parts = list(of_like_length(dict.fromkeys(map(tuple, prompts)), len, PREFILL_TOKENS[device.type]))
    places = {prompt: place for place, prompt in enumerate(itertools.chain(*parts))}
    copies = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)  # [b] into the distinct ones
    were_read = [read(model, part, room, pad_id) for part in parts]
    last, cache = torch.cat([states for states, _ in were_read]), joined([cache for _, cache in were_read])
    if copies.tolist() != list(range(len(places))):
        last = last[copies]
        cache.select(copies)
    model.prepare_decoding(cache)
    return F.linear(last, model.lm_head.weight).float(), cache


def read(model: NemotronH, prompts: Sequence[Sequence[int]], room: int = 0, pad_id: int = 0) -> tuple[Tensor, Cache]:
    """States of the last tokens of prompts [b, D], padded on the left, and the cache; differentiable."""
    device, longest = model.lm_head.weight.device, max(map(len, prompts))
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
