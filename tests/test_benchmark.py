"""The benchmark measures what it says on both models, and its ratios are those of its seconds."""

import json

import benchmark_model


def test_every_task_is_timed_for_both_models_and_ratios_follow_from_seconds(tmp_path, capsys):
    output = tmp_path / "benchmark.json"
    sizes = ["--batch", "1", "2", "--length", "16", "--steps", "1", "--repetitions", "2", "--precisions", "fp32"]
    generation = ["--generate-batch", "2", "--prompt", "8", "--new-tokens", "4", "--eager"]
    report = benchmark_model.main([*sizes, *generation, "--threads", "1", "--output", str(output)])
    printed = capsys.readouterr().out
    assert json.loads(output.read_text()) == report
    assert list(report["results"]) == ["training on 16", "training on 32", "generation of 2"]
    for task, models in report["results"].items():
        ours, theirs = models["nano3"]["seconds"], models["transformers"]["seconds"]
        assert len(ours) == len(theirs) == 2 and task in printed
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        assert models["nano3"]["ratio_range"] == ratios and models["nano3"]["ratio"] == sum(ratios) / 2
        assert models["transformers"]["ratio"] == 1
