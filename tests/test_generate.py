"""Generation: left padding, batching, stopping, sampling, and repeatability."""

import numpy as np
import pytest
import torch

from nano3.errors import UserError
from nano3.model import generate as module
from nano3.model.generate import generate, prefill, stream
from nano3.model.sampling import Draws, sample
from test_model_parity import CONFIG, trained_looking
from test_model_sequence import amplified

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], list(range(40)), [8, 8, 8]]


@pytest.fixture(params=[trained_looking, amplified], ids=["usual", "amplified"])
def model(request):
    return request.param().eval()


def full_logprobs(model, prompt, tokens) -> torch.Tensor:
    """log p of `tokens` after `prompt` from one pass over the whole text."""
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        logprobs = model(ids)[0].log_softmax(-1)
    return logprobs[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None]).squeeze(1)


def test_logprobs_are_those_of_a_full_forward_pass_whatever_the_temperature(model):
    for settings in ({}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 0}):
        for prompt, completion in zip(PROMPTS, generate(model, PROMPTS, max_new_tokens=24, **settings), strict=True):
            expected = full_logprobs(model, prompt, completion.tokens)
            assert (torch.tensor(completion.logprobs) - expected).abs().max() <= 1e-4


def test_padding_and_company_influence_nothing(model):
    with torch.no_grad():
        together, _ = prefill(model, PROMPTS, room=4, pad_id=0)
        for row, prompt in enumerate(PROMPTS):
            alone, _ = prefill(model, [prompt], room=4, pad_id=0)
            assert (together[row] - alone[0]).abs().max() <= 1e-5
        other, _ = prefill(model, PROMPTS, room=4, pad_id=33)
    assert (together - other).abs().max() <= 1e-5


def test_greedy_text_is_the_same_alone_and_in_a_batch(model):
    together = generate(model, PROMPTS, max_new_tokens=20, temperature=0)
    alone = [generate(model, [prompt], max_new_tokens=20, temperature=0)[0] for prompt in PROMPTS]
    assert [c.tokens for c in together] == [c.tokens for c in alone]


def test_greedy_text_is_the_argmax_of_full_forward_passes(model):
    tokens = generate(model, [PROMPTS[0]], max_new_tokens=12, temperature=0)[0].tokens
    text = list(PROMPTS[0])
    for token in tokens:
        with torch.no_grad():
            assert token == model(torch.tensor([text]))[0, -1].argmax()
        text.append(token)


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_text(model):
    first, again = (generate(model, PROMPTS * 4, max_new_tokens=20, seed=5, stop_ids=[0, 1, 2]) for _ in range(2))
    assert first == again
    assert first != generate(model, PROMPTS * 4, max_new_tokens=20, seed=6, stop_ids=[0, 1, 2])


def test_generation_leaves_the_global_generator_and_the_training_mode_alone(model):
    model.train()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    generate(model, PROMPTS, max_new_tokens=3)
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert model.expert_counts().sum() == 0


def test_a_row_stops_at_its_stop_token_and_keeps_it(model):
    stops = [2, 3, 5]
    completions = generate(model, PROMPTS * 8, max_new_tokens=30, seed=1, stop_ids=stops)
    assert {c.finished for c in completions} == {True, False}
    for c in completions:
        assert len(c.tokens) == len(c.logprobs)
        assert c.finished == (c.tokens[-1] in stops)
        assert not set(c.tokens[:-1]) & set(stops)
        assert c.finished or len(c.tokens) == 30


def test_dropping_finished_rows_changes_no_text(model, monkeypatch):
    settings = {"max_new_tokens": 30, "seed": 1, "stop_ids": [2, 3, 5, 7, 11, 13, 17]}
    dropped = generate(model, PROMPTS * 8, **settings)
    monkeypatch.setattr(module, "COMPACT_AT", 0.0)
    kept = generate(model, PROMPTS * 8, **settings)
    assert [c.tokens for c in dropped] == [c.tokens for c in kept]
    assert all(
        (torch.tensor(a.logprobs) - torch.tensor(b.logprobs)).abs().max() < 1e-4
        for a, b in zip(dropped, kept, strict=True)
    )


@pytest.mark.parametrize("rows", [1, 3, 8, 16])
def test_texts_that_begin_where_others_have_ended_are_the_same(model, rows):
    settings = {"max_new_tokens": 30, "seed": 1, "stop_ids": [2, 3, 5, 7, 11, 13, 17]}
    prompts = [[*prompt, i] for i in range(6) for prompt in (*PROMPTS, list(range(6, 40)) * 10)]  # 374 tokens at most
    at_once = generate(model, prompts, **settings, batch_rows=len(prompts))
    one_after_the_other = generate(model, prompts, **settings, batch_rows=rows)
    assert [c.tokens for c in one_after_the_other] == [c.tokens for c in at_once]
    for a, b in zip(one_after_the_other, at_once, strict=True):
        assert a.finished == b.finished
        assert (torch.tensor(a.logprobs) - torch.tensor(b.logprobs)).abs().max() < 1e-4
    prompt, completion = prompts[-1], one_after_the_other[-1]
    assert (torch.tensor(completion.logprobs) - full_logprobs(model, prompt, completion.tokens)).abs().max() <= 1e-4


def test_no_more_texts_are_written_at_once_than_asked_and_free_places_are_taken(model, monkeypatch):
    seen = []
    step = module.decode_step

    def watched(model, token, *rest):
        seen.append(len(token))
        return step(model, token, *rest)

    monkeypatch.setattr(module, "decode_step", watched)
    generate(model, PROMPTS * 10, max_new_tokens=30, seed=1, stop_ids=list(range(0, 60, 4)), batch_rows=8)
    assert max(seen) <= 8
    assert sum(rows > 4 for rows in seen) > len(seen) / 2  # and not only at the beginnings of five batches


def test_what_a_row_samples_depends_on_its_stream_and_on_no_other_row(model):
    settings = {"max_new_tokens": 70, "seed": 3}
    among, _, other, again = generate(
        model, [PROMPTS[0], [7], PROMPTS[0], PROMPTS[0]], streams=[5, 0, 6, 5], **settings
    )
    (alone,) = generate(model, [PROMPTS[0]], streams=[5], **settings)
    assert among.tokens == again.tokens == alone.tokens != other.tokens


def test_random_streams_are_uniform_and_unlike_each_other():
    rows, places = np.arange(40), range(500)
    drawn = Draws(7, range(40))
    numbers = torch.stack([drawn.take(rows, np.full(40, place)) for place in places], 1)  # [40, 500]
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.var() - 1 / 12) < 0.003
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.2
    assert len(set(numbers.flatten().tolist())) == numbers.numel()
    late = Draws(7, [39])  # what was drawn before, by whom, and in what company does not matter
    assert [late.take(np.array([0]), np.array([place])).item() for place in places] == numbers[39].tolist()
    assert Draws(8, [39]).take(np.array([0]), np.array([0])) != numbers[39, 0]


def test_prompts_read_in_parts_give_the_same_text(model, monkeypatch):
    prompts = [[5, 9, 2], [7], [5, 9, 2], list(range(3, 23)), [4, 4], list(range(9, 40))]
    whole = generate(model, prompts, max_new_tokens=20, seed=2)
    monkeypatch.setitem(module.PREFILL_TOKENS, "cpu", 64)
    calls = []
    monkeypatch.setattr(module, "read", lambda *given, read=module.read: calls.append(len(given[1])) or read(*given))
    parts = generate(model, prompts, max_new_tokens=20, seed=2)
    assert calls == [3, 2]  # three short ones in 64 tokens, then 2 x 31
    assert [c.tokens for c in parts] == [c.tokens for c in whole]
    for a, b in zip(parts, whole, strict=True):
        assert (torch.tensor(a.logprobs) - torch.tensor(b.logprobs)).abs().max() < 1e-4


def test_the_cache_grows_past_its_first_capacity(model):
    completion = generate(model, [[5]], max_new_tokens=400, temperature=0)[0]
    assert len(completion.tokens) == 400
    expected = full_logprobs(model, [5], completion.tokens)
    assert (torch.tensor(completion.logprobs) - expected).abs().max() <= 1e-4


def test_samples_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    uniform = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    drawn = sample(logits.expand(20_000, -1), 1.0, 1.0, uniform)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, logits[0].softmax(-1), atol=1e-3)
    drawn = sample(logits.expand(20_000, -1), 0.5, 1.0, uniform)
    assert torch.allclose(torch.bincount(drawn, minlength=4) / 20_000, (2 * logits[0]).softmax(-1), atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25])
    uniform = torch.linspace(0, 1, 1_001, dtype=torch.float64)[:-1]
    for top_p, kept in ((0.5, {1}), (0.51, {1, 3}), (0.75, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        drawn = sample(probs.log().expand(1_000, -1), 1.0, top_p, uniform)
        assert set(drawn.tolist()) == kept


def test_streaming_gives_the_text_of_generate(model):
    settings = {"max_new_tokens": 15, "seed": 4, "stop_ids": [2, 3]}
    assert list(stream(model, PROMPTS[0], **settings)) == generate(model, [PROMPTS[0]], **settings)[0].tokens


def test_nothing_to_do_is_not_an_error(model):
    assert generate(model, [], max_new_tokens=5) == []
    assert generate(model, [[1]], max_new_tokens=0)[0].tokens == []


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1]], {"temperature": -1}, "temperature"),
        ([[1]], {"top_p": 0.0}, "top_p"),
        ([[CONFIG.vocab_size]], {}, "vocabulary"),
    ],
)
def test_impossible_requests_are_refused(model, prompts, settings, message):
    with pytest.raises(UserError, match=message):
        generate(model, prompts, max_new_tokens=3, **settings)


@pytest.mark.skipif(not module.can_compile(), reason="no C++ compiler on PATH")
def test_a_compiled_step_writes_the_same_text_beyond_the_first_capacity():
    model = trained_looking().eval()
    settings = {"max_new_tokens": 120, "temperature": 0}  # 40 + 120 tokens: more than one block of keys and values
    eager, compiled = generate(model, PROMPTS, **settings), generate(model, PROMPTS, **settings, compiled=True)
    assert [c.tokens for c in compiled] == [c.tokens for c in eager]
    for one, other in zip(compiled, eager, strict=True):
        assert torch.tensor(one.logprobs).sub(torch.tensor(other.logprobs)).abs().max() <= 1e-4
    # Compiled steps look for stops now and then: rows that stop between two looks, at unlike places, end where they do.
    settings["stop_ids"] = sorted({completion.tokens[20 + row] for row, completion in enumerate(eager)})
    ends = [next(i for i, t in enumerate(c.tokens) if t in settings["stop_ids"]) + 1 for c in eager]
    assert any(end % module.LOOK_EVERY for end in ends)
    for stopped in (generate(model, PROMPTS, **settings), generate(model, PROMPTS, **settings, compiled=True)):
        assert [c.tokens for c in stopped] == [c.tokens[:end] for c, end in zip(eager, ends, strict=True)]
        assert all(c.finished for c in stopped)


def test_compiling_without_a_compiler_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "can_compile", lambda: False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        generate(trained_looking(), PROMPTS, max_new_tokens=2, compiled=True)
