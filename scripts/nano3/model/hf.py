"""Hugging Face `nemotron_h` directories: write one that stock transformers loads, and read one.

On disk a model is what NVIDIA publishes: names start with `backbone.`, every routed expert has its own two
matrices, `config.json` says `nemotron_h`. Our model keeps the experts of a layer stacked as [experts, width, hidden]
for both matrices; on disk the second one is stored transposed, [hidden, width].

Transformers' chunked scan clamps the time step from below by the config's `time_step_min`, though the key was meant for
initialisation and its own one-token path does not clamp. The exported config therefore says 0.0, which changes
nothing (softplus is positive), and our true value stands beside it in the key `nano3`, which transformers keeps
and ignores.
"""

import json
import shutil
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nano3.errors import UserError
from nano3.model.config import ATTENTION, MAMBA, MOE, ModelConfig
from nano3.model.nemotron_h import FLOAT32, NemotronH

LAYER_TYPES = {MAMBA: "linear_attention", MOE: "moe", ATTENTION: "full_attention"}
EXTRAS = "nano3"  # the config.json key of what plain transformers has no faithful field for


def save(
    model: NemotronH,
    directory: str | Path,
    *,
    bos: int = 1,
    eos: int = 2,
    pad: int = 0,
    generation_eos: int | list[int] = 11,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write config.json, generation_config.json and model.safetensors into `directory`.

    `eos` ends a pretraining document; generation stops at `generation_eos`. Matrices are stored as `dtype`;
    A_log, D, dt_bias, the router and its expert bias always stay float32.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = export_config(model.config, bos=bos, eos=eos, pad=pad, dtype=dtype)
    _write_json(directory / "config.json", config)
    generation = {"bos_token_id": bos, "eos_token_id": generation_eos, "pad_token_id": pad}
    _write_json(directory / "generation_config.json", {"_from_model_config": False, **generation})
    weights = directory / "model.safetensors"
    save_file(export_state(model, dtype=dtype), weights, metadata={"format": "pt"})
    shutil.copymode(directory / "config.json", weights)  # safetensors makes files that nobody else can read


def load(directory: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> NemotronH:
    """The model in `directory`: one written by `save`, or any Hugging Face `nemotron_h` of this architecture.

    Weights keep their stored type unless `dtype` is given. Sharded files (`model.safetensors.index.json`) work too.
    """
    directory = Path(directory)
    config = import_config(_read_json(directory / "config.json"), directory)
    model = _shapes_of(config)
    state = import_state(_read_tensors(directory, device), config, directory)
    if dtype is not None:
        state = {name: value if name.endswith(FLOAT32) else value.to(dtype) for name, value in state.items()}
    model.load_state_dict(state, assign=True)
    for module in model.modules():  # buffers that no file holds
        for name, value in module._buffers.items():
            if value is not None and value.is_meta:
                module._buffers[name] = torch.zeros(value.shape, dtype=value.dtype, device=device)
    return model.requires_grad_(True)


def _shapes_of(config: ModelConfig) -> NemotronH:
    """The model without values, on the meta device. Initialising would not only be in vain: there it needs torch's
    compiler, whose import takes a second."""
    with torch.device("meta"), _NoInitialisation():
        return NemotronH(config)


class _NoInitialisation(TorchFunctionMode):
    """Turns the functions of torch.nn.init into ones that leave a tensor as it is."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


# config.json


def export_config(config: ModelConfig, *, bos: int = 1, eos: int = 2, pad: int = 0, dtype=torch.float32) -> dict:
    """config.json of this model. Every value is finite JSON, readable by any transformers that knows nemotron_h."""
    shape = config.model_dump(exclude={"pattern", "time_step_min"})
    return {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        **shape,
        "hybrid_override_pattern": config.pattern,
        "layers_block_type": [LAYER_TYPES[letter] for letter in config.pattern],
        "num_hidden_layers": config.num_layers,
        "time_step_min": 0.0,
        "intermediate_size": config.moe_intermediate_size,
        "expand": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "mlp_hidden_act": "relu2",
        "mamba_hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "use_conv_bias": True,
        "mamba_proj_bias": False,
        "residual_in_fp32": False,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "dtype": str(dtype).removeprefix("torch."),
        EXTRAS: {"time_step_min": config.time_step_min},
    }


def import_config(raw: dict, where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json, ours or another's. Raises UserError for what this architecture has not."""
    if raw.get("model_type") != "nemotron_h":
        raise UserError(f"{where}: model_type is {raw.get('model_type')!r}, expected 'nemotron_h'")
    for key, expected in {
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "n_shared_experts": 1,
        "moe_latent_size": None,
        "tie_word_embeddings": False,
        "mlp_hidden_act": "relu2",
        "use_conv_bias": True,
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "num_nextn_predict_layers": 0,
    }.items():
        if raw.get(key, expected) != expected:
            raise UserError(f"{where}: {key} is {raw[key]!r}; this model only has {key}: {expected!r}")
    fields = {name: raw[name] for name in ModelConfig.model_fields if name in raw}
    fields["pattern"] = _pattern(raw, where)
    if fields.get("time_step_min") == 0:
        del fields["time_step_min"]
    fields |= raw.get(EXTRAS, {})
    missing = [n for n, f in ModelConfig.model_fields.items() if f.is_required() and n not in fields]
    if missing:
        raise UserError(f"{where}: missing {', '.join(missing)}")
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{where}: {problems}") from None


def _pattern(raw: dict, where) -> str:
    if "hybrid_override_pattern" in raw:
        return raw["hybrid_override_pattern"]
    letters = {name: letter for letter, name in LAYER_TYPES.items()} | {"mamba": MAMBA, "attention": ATTENTION}
    try:
        return "".join(letters[name] for name in raw["layers_block_type"])
    except KeyError as error:
        raise UserError(
            f"{where}: layers_block_type must list {', '.join(letters)}; missing or unknown: {error}"
        ) from None


# weights


def export_state(model: NemotronH, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The state dict under its names on disk, contiguous, on the CPU."""
    state = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().to(torch.float32 if name.endswith(FLOAT32) else dtype)
        disk_name = name if name.startswith("lm_head.") else f"backbone.{name}"
        if ".experts." in name:
            stem, matrix = disk_name.rsplit(".", 1)
            for index, expert in enumerate(value):
                expert = expert.T if matrix == "down_proj" else expert
                state[f"{stem}.{index}.{matrix}.weight"] = expert.contiguous().clone()
        else:
            state[disk_name] = value.contiguous().clone()
    return state


def import_state(disk: dict[str, Tensor], config: ModelConfig, where: str | Path = "checkpoint") -> dict[str, Tensor]:
    """The inverse of `export_state`; names and shapes are checked against the config."""
    expected = _shapes_of(config).state_dict()
    left = {name: value for name, value in disk.items() if not name.startswith("mtp.")}
    state = {}
    for name, like in expected.items():
        disk_name = name if name.startswith("lm_head.") else f"backbone.{name}"
        if ".experts." in name:
            stem, matrix = disk_name.rsplit(".", 1)
            names = [f"{stem}.{index}.{matrix}.weight" for index in range(config.n_routed_experts)]
            _require(names, left, where)
            experts = [left.pop(n).T if matrix == "down_proj" else left.pop(n) for n in names]
            state[name] = torch.stack(experts)
        else:
            _require([disk_name], left, where)
            state[name] = left.pop(disk_name)
        if state[name].shape != like.shape:
            found, wanted = tuple(state[name].shape), tuple(like.shape)
            raise UserError(f"{where}: {disk_name} has shape {found}, config.json makes it {wanted}")
        if name.endswith(FLOAT32):
            state[name] = state[name].float()
    if left:
        raise UserError(f"{where}: {len(left)} unknown tensors, the first: {', '.join(sorted(left)[:5])}")
    return state


def _require(names: list[str], tensors: dict, where) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise UserError(f"{where}: {len(missing)} tensors are missing, the first: {missing[0]}")


def _read_tensors(directory: Path, device: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(_read_json(index)["weight_map"].values()))
    tensors = {}
    for name in names:
        if not (directory / name).exists():
            raise UserError(f"{directory} has no {name}; expected a Hugging Face model directory")
        tensors |= load_file(directory / name, device=device)
    return tensors


def _read_json(path: Path) -> dict:
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a Hugging Face model directory")
    return json.loads(path.read_text())


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
