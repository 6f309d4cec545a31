"""Models on disk: a folder with the config as JSON and the weights as safetensors; and weights under Llama's names.

A table that several layers share is stored once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from membench.layers.models.model import Model
from membench.layers.spec import AttentionSpec, ModelSpec
from membench.layers.spec.quantities import DTypeName

CONFIG, WEIGHTS = "model.json", "model.safetensors"


def save(model: Model, folder: str | Path) -> None:
    """Write config and weights; needs ``safetensors``.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_stored_once(model), folder / WEIGHTS)
    (folder / CONFIG).write_text(model.spec.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load(folder: str | Path, device: torch.device | str = "cpu") -> Model:
    """The model that ``save`` wrote.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: the config makes no model, or the weights are not its.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    spec = ModelSpec.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    model = Model(spec, device=device)
    fill(model, load_file(folder / WEIGHTS, device=str(device)))
    return model


@torch.no_grad()
def fill(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Copy weights by name into a model.

    Raises:
        ValueError: names or shapes are others.
    """
    wanted, given = _stored_once(model), model.state_dict()
    weights = {name: tensor for name, tensor in weights.items() if name in wanted or name not in given}
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ValueError(f"the weights lack {_some(missing)}")
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise ValueError(f"the model has no {_some(unknown)}")
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(
                f"{name} is {tuple(weights[name].shape)} in the weights, {tuple(tensor.shape)} in the model"
            )
        tensor.copy_(weights[name])


def llama_spec(config: Mapping[str, Any], dtype: DTypeName = "float32") -> ModelSpec:
    """The config of a Llama checkpoint's ``config.json``, all blocks dense.

    Raises:
        KeyError: it lacks a size.
        ValueError: it asks for what these models have not: scaled rotary positions, biases, another activation.
    """
    for name, ours in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}.items():
        if config.get(name, ours) not in (ours, {"rope_type": "default"}):
            raise ValueError(f"{name} is {config[name]!r}; only {ours!r} is supported")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_parameters ask for {rope['rope_type']!r}; only 'default' is supported")
    return ModelSpec(
        vocab_size=config["vocab_size"],
        model_dim=width,
        num_blocks=config["num_hidden_layers"],
        attention=AttentionSpec(
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or width // heads,
            rope_theta=config.get("rope_theta") or rope.get("rope_theta", 10_000.0),
        ),
        ffn_hidden=config["intermediate_size"],
        tied=config.get("tie_word_embeddings", False),
        norm_eps=config["rms_norm_eps"],
        dtype=dtype,
    )


def from_llama(weights: Mapping[str, Tensor], *, tied: bool = False) -> dict[str, Tensor]:
    """A Llama checkpoint's weights under our names: q, k, v together, gate and up together.

    ``tied``: the head is the embedding, also where the checkpoint has it twice.

    Raises:
        KeyError: one is missing.
    """
    found = {"embedding": weights["model.embed_tokens.weight"], "norm": weights["model.norm.weight"]}
    if "lm_head.weight" in weights and not tied:
        found["head"] = weights["lm_head.weight"]
    blocks = {int(name.split(".")[2]) for name in weights if name.startswith("model.layers.")}
    for number in sorted(blocks):
        theirs, ours = f"model.layers.{number}", f"blocks.{number}"
        projections = [weights[f"{theirs}.self_attn.{each}_proj.weight"] for each in "qkv"]
        ffn = [weights[f"{theirs}.mlp.{each}_proj.weight"] for each in ("gate", "up")]
        found |= {
            f"{ours}.attention_norm": weights[f"{theirs}.input_layernorm.weight"],
            f"{ours}.ffn_norm": weights[f"{theirs}.post_attention_layernorm.weight"],
            f"{ours}.attention.qkv": torch.cat(projections),
            f"{ours}.attention.out": weights[f"{theirs}.self_attn.o_proj.weight"],
            f"{ours}.ffn.gate_up": torch.cat(ffn),
            f"{ours}.ffn.down": weights[f"{theirs}.mlp.down_proj.weight"],
        }
    return found


def to_llama(model: Model) -> dict[str, Tensor]:
    """The weights of a model whose blocks are all dense, under a Llama checkpoint's names."""
    ours, attention = model.state_dict(), model.spec.attention
    found = {"model.embed_tokens.weight": ours["embedding"], "model.norm.weight": ours["norm"]}
    if not model.spec.tied:
        found["lm_head.weight"] = ours["head"]
    for number in range(model.spec.num_blocks):
        theirs, block = f"model.layers.{number}", f"blocks.{number}"
        widths = [attention.query_width, attention.kv_width, attention.kv_width]
        projections = ours[f"{block}.attention.qkv"].split(widths)
        found |= {f"{theirs}.self_attn.{each}_proj.weight": part for each, part in zip("qkv", projections, strict=True)}
        gate, up = ours[f"{block}.ffn.gate_up"].chunk(2)
        found |= {
            f"{theirs}.input_layernorm.weight": ours[f"{block}.attention_norm"],
            f"{theirs}.post_attention_layernorm.weight": ours[f"{block}.ffn_norm"],
            f"{theirs}.self_attn.o_proj.weight": ours[f"{block}.attention.out"],
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": ours[f"{block}.ffn.down"],
        }
    return found


def _stored_once(model: Model) -> dict[str, Tensor]:
    """Parameters and buffers by their first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        found.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), (name, tensor))
    return dict(found.values())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
