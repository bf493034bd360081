"""What flows along a sequence and what must not: chunks, recurrence, cache, document boundaries."""

import itertools

import pytest
import torch

from nano3.model import attention
from nano3.model.cache import branch, empty_cache
from nano3.model.nemotron_h import NemotronH
from nano3.model.scan import find_boundaries, scan_backward, scan_forward
from test_model_parity import CONFIG, trained_looking

TOLERANCE = 1e-5  # of logits, relative to the largest where that exceeds one
CUTS = [0, 5, 16, 17, 37, 50]  # inside a chunk, at a chunk's edge, a document of one token, across two edges


def amplified(seed: int = 0, chunk_size: int = 16) -> NemotronH:
    """A model whose logits hang on the SSM state: large projections, no skip connection around the scan."""
    model = trained_looking(CONFIG.model_copy(update={"chunk_size": chunk_size}), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("in_proj.weight"):
                parameter.mul_(12 * 0.0173 / CONFIG.initializer_range)
            elif name.endswith(".D"):
                parameter.zero_()
    return model


@pytest.fixture(params=[trained_looking, amplified], ids=["usual", "amplified"])
def model(request):
    return request.param().eval()


@pytest.fixture
def ids():
    torch.manual_seed(2)
    return torch.randint(0, CONFIG.vocab_size, (3, 50))


@pytest.fixture(params=[0, 10**6], ids=["one by one", "masked"])
def way(request, monkeypatch):
    """Both ways in which attention keeps documents apart."""
    monkeypatch.setattr(attention, "MASKED_ROW", request.param)


def doc_ids_of(cuts: list[int], rows: int) -> torch.Tensor:
    lengths = torch.tensor([stop - start for start, stop in itertools.pairwise(cuts)])
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths).expand(rows, -1)


def recurrence(x, dt, A, B, C, D, state):
    """The definition, one token at a time."""
    r = x.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(r, 2), C.repeat_interleave(r, 2)
    outputs = []
    for t in range(x.shape[1]):
        update = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        state = state * torch.exp(dt[:, t] * A)[..., None, None] + update
        outputs.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(outputs, 1), state


def scan_against_recurrence(b, t, h, p, g, n, *, chunk_size, scale, device="cpu") -> tuple[float, float]:
    """Worst relative distance of the chunked scan's outputs, and of its gradients, from a float64 recurrence."""
    torch.manual_seed(0)
    dt = torch.nn.functional.softplus(scale * torch.randn(b, t, h) - 2)
    inputs = [torch.randn(b, t, h, p), dt, -torch.empty(h).uniform_(1, 16)]
    inputs += [torch.randn(b, t, g, n), torch.randn(b, t, g, n), torch.randn(h), torch.randn(b, h, p, n)]
    inputs = [value.to(device) for value in inputs]
    exact = [value.double().requires_grad_() for value in inputs]
    y, state = recurrence(*exact)
    dy, dstate = torch.randn(b, t, h, p, device=device), torch.randn(b, h, p, n, device=device)
    torch.autograd.backward((y, state), (dy.double(), dstate.double()))
    bounds = find_boundaries(None, t, chunk_size, 4, device)
    *inputs, initial = inputs
    ours, final, saved = scan_forward(*inputs, bounds, initial)
    gradients = scan_backward(dy, inputs[2], inputs[5], bounds, saved, dstate)
    apart = [relative(mine, variable.grad) for mine, variable in zip(gradients, exact, strict=True)]
    return max(relative(ours, y), relative(final, state)), max(apart)


@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("chunk_size", [8, 16, 64])
def test_the_chunked_scan_and_its_gradients_equal_the_recurrence(chunk_size, scale):
    outputs, gradients = scan_against_recurrence(2, 50, 6, 8, 2, 4, chunk_size=chunk_size, scale=scale)
    assert outputs < 1e-6 and gradients < 5e-5


def difference(logits, expected) -> float:
    return ((logits - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def relative(value, exact):
    return ((value - exact).abs().max() / exact.abs().max()).item()


def test_the_chunk_size_does_not_change_the_result(ids):
    with torch.no_grad():
        results = [amplified(chunk_size=size).eval()(ids) for size in (1, 7, 16, 50, 128)]
    assert all(difference(result, results[0]) <= TOLERANCE for result in results)


def test_reading_token_by_token_equals_reading_at_once(model, ids):
    cache = empty_cache(model.config, rows=3, capacity=4)
    with torch.no_grad():
        steps = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(ids.shape[1])], 1)
        assert difference(steps, model(ids)) <= TOLERANCE
    assert cache.length == 50


def test_a_text_may_be_read_into_the_cache_in_pieces_of_any_length(model, ids):
    cache = empty_cache(model.config, rows=3, capacity=50)
    with torch.no_grad():
        pieces = [model(part, cache=cache) for part in ids.split([20, 1, 2, 18, 9], dim=1)]
        assert difference(torch.cat(pieces, 1), model(ids)) <= TOLERANCE


@pytest.mark.parametrize("cuts", [(20, 50), (1, 30, 31, 50), (2, 5, 50), (49, 50)], ids=str)
def test_gradients_flow_through_the_cache(model, ids, cuts):
    """Reading in pieces is the same function of the weights, whatever the pieces."""

    def gradients(logits_of) -> dict[str, torch.Tensor]:
        model.zero_grad()
        logits_of().logsumexp(-1).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    def in_pieces() -> torch.Tensor:
        cache = empty_cache(model.config, rows=3, capacity=0)
        return torch.cat([model(ids[:, a:b], cache=cache) for a, b in itertools.pairwise((0, *cuts))], 1)

    pieces, whole = gradients(in_pieces), gradients(lambda: model(ids))
    worst = {name: relative(pieces[name], whole[name]) for name in whole}
    assert {name: value for name, value in worst.items() if not value <= 5e-5} == {}


def test_a_branch_goes_on_alone(model, ids):
    cache = empty_cache(model.config, rows=3, capacity=50)
    with torch.no_grad():
        model(ids[:, :20], cache=cache)
        twin = branch(cache, torch.tensor([2, 0, 2]))
        found = model(ids[[0, 1, 2], 20:], cache=twin)
        again = model(ids[:, 20:], cache=cache)  # what the branch read is not in here
        expected = model(torch.cat([ids[[2, 0, 2], :20], ids[:, 20:]], 1))[:, 20:]
        assert difference(found, expected) <= TOLERANCE
        assert difference(again, model(ids)[:, 20:]) <= TOLERANCE


def test_state_never_crosses_a_document_boundary(model, ids, way):
    with torch.no_grad():
        packed = model(ids, doc_ids=doc_ids_of(CUTS, 3))
        alone = torch.cat([model(ids[:, a:b]) for a, b in itertools.pairwise(CUTS)], 1)
        assert difference(packed, alone) <= TOLERANCE
        assert difference(packed, model(ids)) > 1e-3


def test_rows_may_have_different_boundaries(model, ids, way):
    cuts = [[0, 50], [0, 16, 32, 48, 50], [0, 1, 2, 3, 50]]
    doc_ids = torch.cat([doc_ids_of(c, 1) for c in cuts])
    with torch.no_grad():
        packed = model(ids, doc_ids=doc_ids)
        for row, own in enumerate(cuts):
            alone = [model(ids[row : row + 1, a:b]) for a, b in itertools.pairwise(own)]
            assert difference(packed[row], torch.cat(alone, 1)[0]) <= TOLERANCE


def test_changing_another_document_changes_nothing_but_rounding(model, ids, way):
    changed = ids.clone()
    changed[:, :17] = (changed[:, :17] + 1) % CONFIG.vocab_size
    with torch.no_grad():
        before, after = (model(x, doc_ids=doc_ids_of(CUTS, 3)) for x in (ids, changed))
    assert difference(before[:, 17:], after[:, 17:]) <= TOLERANCE


def test_gradients_never_cross_a_document_boundary(model, ids, way):
    def gradients(logits_of) -> dict[str, torch.Tensor]:
        model.zero_grad()
        logits_of().logsumexp(-1).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    packed = gradients(lambda: model(ids, doc_ids=doc_ids_of(CUTS, 3)))
    alone = gradients(lambda: torch.cat([model(ids[:, a:b]) for a, b in itertools.pairwise(CUTS)], 1))
    worst = {name: relative(packed[name], alone[name]) for name in packed}
    assert {name: value for name, value in worst.items() if not value <= 5e-5} == {}


def test_doc_ids_of_one_document_change_nothing(model, ids):
    with torch.no_grad():
        assert difference(model(ids, doc_ids=torch.full_like(ids, 7)), model(ids)) <= TOLERANCE


def test_the_future_cannot_be_felt(model, ids):
    with torch.no_grad():
        assert difference(model(ids[:, :30]), model(ids)[:, :30]) <= TOLERANCE


def test_a_repeated_training_step_gives_the_same_bits(ids):
    def step() -> list[torch.Tensor]:
        model = trained_looking().train()
        logits = model(ids, doc_ids=doc_ids_of(CUTS, 3))
        (logits.logsumexp(-1).mean() + model.balance_loss()).backward()
        return [logits, *(p.grad for p in model.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))
