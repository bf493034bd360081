"""Checkpoints, metrics files and validation measures."""

import json
import math
import random
import sys

import numpy as np
import pytest
import torch

from nano3.errors import UserError
from nano3.recipe.training import Optimizer
from nano3.train import checkpoint
from nano3.train.optimizer import adamw, flat_gradients
from nano3.train.tracking import Tracker, clock, read_rows, short
from nano3.train.validation import bits_per_byte, bytes_of_tokens
from train_toy import toy_tokenizer


def toy(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = adamw(model, Optimizer())
    flat_gradients(optimizer).fill_(1.0)
    optimizer.step()
    return model, optimizer


def save(directory, step, seed=0):
    model, optimizer = toy(seed)
    return checkpoint.save(directory, step, model=model, optimizer=optimizer, progress={"tokens": 10 * step})


def test_the_newest_checkpoint_is_found_and_the_last_two_are_kept(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    for step in (8, 9, 10):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_9"]
    found = checkpoint.newest(tmp_path)
    assert (found.step, found.progress) == (10, {"tokens": 100})


def test_a_half_written_checkpoint_is_not_taken(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step_2.tmp").mkdir()
    (tmp_path / "step_2.tmp" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path).step == 1
    assert save(tmp_path, 2).is_dir() and checkpoint.newest(tmp_path).step == 2


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "digests.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_message(tmp_path, file, capsys):
    save(tmp_path, 1)
    damaged = save(tmp_path, 2) / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert checkpoint.newest(tmp_path).step == 1
    assert "step_2 is damaged" in capsys.readouterr().out
    save(tmp_path, 2)
    assert checkpoint.newest(tmp_path).step == 2


def test_a_checkpoint_that_lacks_a_file_is_damaged(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "rng.safetensors").unlink()
    assert checkpoint.newest(tmp_path).step == 1


def test_restoring_brings_back_weights_moments_and_every_generator(tmp_path):
    model, optimizer = toy()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    np.random.standard_normal()  # leaves half a pair of normals in NumPy's state
    checkpoint.save(tmp_path, 1, model=model, optimizer=optimizer, progress={})
    drawn = random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()
    other, other_optimizer = toy(seed=5)
    checkpoint.restore(checkpoint.newest(tmp_path), model=other, optimizer=other_optimizer)
    assert drawn == (random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, other_optimizer.state[theirs][key]), key


def row(step):
    return {"step": step, "tokens": 8 * step, "loss": 1 / 3, "lr": 1e-3}


def test_metrics_after_the_checkpoint_are_cut_off_on_resume(tmp_path):
    def track(first_step, lengths, steps):
        tracker = Tracker(tmp_path, "toy", steps=4, first_step=first_step, lengths=lengths)
        for step in steps:
            tracker.train(row(step), seconds=0.5, tokens=8, peak_memory=100)
        marked = tracker.lengths()
        tracker.close()
        return marked

    marked = track(0, None, [1, 2])
    track(2, marked, [3])
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "torn')
    track(2, marked, [3, 4])
    assert [found["step"] for found in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [found["step"] for found in read_rows(tmp_path / "timing.jsonl")] == [1, 2, 3, 4]
    assert read_rows(tmp_path / "timing.jsonl")[0] == {
        "step": 1,
        "seconds": 0.5,
        "tokens_per_second": 16.0,
        "peak_memory_bytes": 100,
    }
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl has 0 bytes"):
        track(2, marked, [3])


def test_console_lines_come_every_interval_and_at_the_end(tmp_path, capsys):
    tracker = Tracker(tmp_path, "pretrain/phase1", steps=5, log_interval=2)
    for step in range(1, 6):
        tracker.train(row(step), seconds=0.001, tokens=12_300, peak_memory=0)
    tracker.valid({"step": 5, "tokens": 40, "loss": {"web": 2.0}, "bits_per_byte": {"web": 1.25}})
    tracker.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"[pretrain/phase1] step {step}/5" for step in (2, 4, 5, 5)]
    assert lines[0].startswith("[pretrain/phase1] step 2/5  tokens 16  loss 0.333  lr 1.0e-03  12.3M tok/s  eta 0:00")
    assert lines[-1].endswith("bits per byte:  web 1.250")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["split"] == "valid"


def test_a_terminal_gets_a_progress_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tracker = Tracker(tmp_path, "toy", steps=2)
    tracker.train(row(1), seconds=0.1, tokens=8, peak_memory=0)
    tracker.train(row(2), seconds=0.1, tokens=8, peak_memory=0)
    tracker.close()
    assert "2/2" in capsys.readouterr().out


def test_rows_reach_the_mirror_with_their_step(tmp_path):
    seen = []

    class Mirror:
        def log(self, row, step):
            seen.append((step, row.get("split"), row.get("tokens_per_second")))

    tracker = Tracker(tmp_path, "toy", steps=2, mirror=Mirror())
    tracker.train(row(1), seconds=0.5, tokens=8, peak_memory=0)
    tracker.valid({"step": 1, "tokens": 8, "loss": {"web": 2.0}})
    tracker.close()
    assert seen == [(1, None, 16.0), (1, "valid", None)]


def test_numbers_are_short_and_clocks_readable():
    assert [short(number) for number in (999, 12_300, 0.94e6, 25e12)] == ["999", "12.3k", "940.0k", "25.0T"]
    assert [clock(seconds) for seconds in (5, 65, 3700)] == ["0:05", "1:05", "1:01:40"]


def test_bits_per_byte_weigh_sequences_by_their_bytes():
    nats = torch.tensor([3.0, 1.0], dtype=torch.float64) * math.log(2)
    found = bits_per_byte(nats, torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert found["bits_per_byte"] == pytest.approx(1.0)
    # residuals of 1 and -1 bit: variance of the sum 2 * (1 + 1) / (2 - 1), over 4 bytes
    assert found["bits_per_byte_margin"] == pytest.approx(1.96 * math.sqrt(4) / 4)
    assert (found["bytes"], found["sequences"]) == (4, 2)


def test_the_interval_of_bits_per_byte_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        size = torch.from_numpy(draw.integers(50, 150, 40).astype(float))
        nats = size * torch.from_numpy(draw.normal(2.0, 0.5, 40)) * math.log(2)
        found = bits_per_byte(nats, size)
        inside += abs(found["bits_per_byte"] - 2.0) < found["bits_per_byte_margin"]
    assert 0.91 < inside / 400 < 0.98


def test_bytes_of_tokens_count_text_and_not_special_tokens():
    tokenizer = toy_tokenizer()
    lengths = bytes_of_tokens(tokenizer, 288)
    text = "Grüße, 世界\n"
    assert int(lengths[tokenizer.encode(text).ids].sum()) == len(text.encode())
    assert lengths[2] == 0 and lengths[12] == len("<think>") and lengths[287] == 0
