"""The trainer's log-probabilities of responses: what the generator found, and the gradients of each sequence alone."""

import contextlib
import random

import pytest
import torch

from nano3.model.padding import of_like_length
from nano3.rl import logprobs
from nano3.rl.logprobs import response_logprobs, token_logprobs
from nano3.rl.rollout import rollouts
from rl_toy import toy_model, toy_rows

EXACT = contextlib.nullcontext()
PROMPT_LENGTHS = (1, 2, 3, 21, 40, 70)  # shorter than the convolution, and longer than a chunk
RESPONSE_LENGTHS = (0, 1, 2, 3, 17, 40)


@pytest.fixture(scope="module")
def texts():
    """Prompts, each with several responses."""
    random.seed(0)
    ids = {n: [random.randrange(288) for _ in range(n)] for n in PROMPT_LENGTHS}
    pairs = [(ids[n], [random.randrange(288) for _ in range(m)]) for n in PROMPT_LENGTHS for m in RESPONSE_LENGTHS]
    return [prompt for prompt, _ in pairs], [response for _, response in pairs]


def weight(response: int, offset: int) -> float:
    """What the loss makes of a token: another thing of each."""
    return ((3 * response + offset) % 7 - 3) / 10


def alone(model, prompts, responses):
    """Log-probabilities and gradients of every sequence by itself."""
    model.zero_grad()
    found = {}
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logits = model(torch.tensor([[*prompt, *response]]))[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(response, dtype=torch.int64)[:, None])[:, 0]
        sum((weight(i, j) * value for j, value in enumerate(own)), own.new_zeros((), requires_grad=True)).backward()
        found |= {(i, j): value for j, value in enumerate(own.tolist())}
    return found, {name: p.grad.clone() for name, p in model.named_parameters()}


def together(model, prompts, responses, *, micro_batch_tokens, at_once=False):
    model.zero_grad()
    found, losses = {}, []
    for batch in response_logprobs(
        model, prompts, responses, micro_batch_tokens=micro_batch_tokens, arithmetic=EXACT, at_once=at_once
    ):
        where = batch.where()
        losses.append((batch.logprobs * torch.tensor([weight(i, j) for i, j in where])).sum())
        if not at_once:
            losses.pop().backward()
        assert not found.keys() & set(where)
        found |= dict(zip(where, batch.logprobs.tolist(), strict=True))
    if at_once:
        sum(losses).backward()
    return found, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("pattern", ["ME*", "M*EM*E", "EM", "*E"])
@pytest.mark.parametrize(("micro_batch_tokens", "at_once"), [(1, False), (150, False), (10_000, False), (150, True)])
def test_values_and_gradients_are_those_of_each_sequence_alone(texts, pattern, micro_batch_tokens, at_once):
    model = toy_model(pattern=pattern).train()
    expected, gradients = alone(model, *texts)
    found, own = together(model, *texts, micro_batch_tokens=micro_batch_tokens, at_once=at_once)
    assert found == pytest.approx(expected, abs=2e-5)
    apart = {name: ((own[name] - g).norm() / g.norm()).item() for name, g in gradients.items()}
    assert {name: value for name, value in apart.items() if not value < 2e-5} == {}


def test_a_prompts_gradient_takes_part(texts, monkeypatch):
    """The comparison above notices when nothing goes back through the prompts."""
    model = toy_model().train()
    _, gradients = alone(model, *texts)
    monkeypatch.setattr(logprobs.Memory, "backward", lambda self: None)
    _, own = together(model, *texts, micro_batch_tokens=150)
    name = "embeddings.weight"
    assert (own[name] - gradients[name]).norm() / gradients[name].norm() > 0.01


@pytest.mark.parametrize("micro_batch_tokens", [60, 300, 10_000])
def test_the_trainer_finds_what_the_generator_found(chat, micro_batch_tokens):
    model = toy_model().eval()
    settings = {"generations": 3, "max_new_tokens": 10, "temperature": 1.0, "top_p": 1.0}
    rolled = rollouts(model, chat, toy_rows(5), seed=1, **settings)
    expected = {(i, j): value for i, each in enumerate(rolled) for j, value in enumerate(each.logprobs)}
    with torch.no_grad():
        texts = [each.prompt for each in rolled], [each.response for each in rolled]
        for batch in response_logprobs(model, *texts, micro_batch_tokens=micro_batch_tokens, arithmetic=EXACT):
            for value, where in zip(batch.logprobs.tolist(), batch.where(), strict=True):
                assert abs(value - expected.pop(where)) < 1e-4  # a ratio within 1.0001
    assert expected == {}


def test_each_prompt_is_read_once_and_counts_once_for_the_experts(monkeypatch):
    seen = []
    real = logprobs.read
    monkeypatch.setattr(
        logprobs, "read", lambda model, ids, *args, **more: seen.append(ids) or real(model, ids, *args, **more)
    )
    model = toy_model(pattern="M*EM").train()
    prompts = [[5] * 10] * 8 + [[6] * 14] * 8
    responses = [[7] * (1 + i) for i in range(16)]
    for batch in response_logprobs(model, prompts, responses, micro_batch_tokens=1000, arithmetic=EXACT):
        batch.logprobs.sum().backward()
    assert seen == [[(5,) * 10, (6,) * 14]]
    read = 10 + 14 + sum(len(response) - 1 for response in responses)  # the last token of each is only predicted
    assert model.expert_counts().sum() == read * model.config.num_experts_per_tok


def test_no_graph_is_made_without_gradients():
    model = toy_model().train()
    with torch.no_grad():
        for batch in response_logprobs(model, [[1, 2]], [[3, 4]], micro_batch_tokens=10, arithmetic=EXACT):
            assert not batch.logprobs.requires_grad


def test_batches_hold_texts_of_like_length_within_a_limit():
    lengths = [40, 500, 30, 61, 62, 450, 30, 700]
    batches = list(of_like_length(range(8), lengths.__getitem__, 1000))
    assert batches == [[2, 6, 0, 3], [4], [5, 1], [7]]  # 1.5 x 30 + 16 = 61
    assert list(of_like_length(range(8), lengths.__getitem__, 10)) == [[2], [6], [0], [3], [4], [5], [1], [7]]
    assert list(of_like_length([], len, 10)) == []


def test_empty_responses_are_left_out():
    def found(responses):
        return list(response_logprobs(toy_model(), [[1], [1, 2]], responses, micro_batch_tokens=10, arithmetic=EXACT))

    assert found([[], []]) == []
    (batch,) = found([[], [3]])
    assert batch.response.tolist() == [1] and batch.offset.tolist() == [0]


def test_logits_in_blocks_give_the_same_values_and_gradients(monkeypatch):
    torch.manual_seed(0)
    states, head = torch.randn(23, 8), torch.randn(50, 8)
    targets = torch.randint(50, (23,))
    results = []
    for limit in (2**26, 200):
        monkeypatch.setattr(logprobs, "BLOCK_LOGITS", limit)
        leaves = states.clone().requires_grad_(), head.clone().requires_grad_()
        found = token_logprobs(*leaves, targets)
        (found * torch.arange(23)).sum().backward()
        results.append((found.detach(), leaves[0].grad, leaves[1].grad))
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(whole, blocks)
    expected = (states @ head.T).log_softmax(-1)[torch.arange(23), targets]
    torch.testing.assert_close(results[0][0], expected)
