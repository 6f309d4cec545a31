"""Engines that decode a model: ours, transformers' Llama, ctranslate2. All are given the same weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from membench.layers.models.checkpoint import fill, to_llama
from membench.layers.models.model import Model
from membench.layers.spec.quantities import ITEM_BYTES, DTypeName

After = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """``generate(prompt, count, after)`` gives so many tokens, greedily, and calls ``after`` when it has each.

    ``exact``: in fp32, whose tokens all must agree on. ``weight_bytes`` are those of a number of a matrix.
    """

    name: str
    generate: Callable[[list[int], int, After], list[int]]
    weight_bytes: int
    exact: bool


def our_engine(model: Model, dtype: DTypeName) -> Engine:
    """This project's decoder with its KV cache."""
    copy = Model(model.spec.with_dtype(dtype)).eval()
    fill(copy, model.state_dict())

    @torch.no_grad()
    def generate(prompt: list[int], count: int, after: After) -> list[int]:
        copy.start(sequences=1, capacity=len(prompt) + count)
        logits, found = copy.next_logits(torch.tensor([prompt])), []
        for number in range(count):
            token = logits.argmax(dim=-1)
            found.append(int(token))
            after()
            if number + 1 < count:
                logits = copy.next_logits(token[:, None])
        return found

    return Engine(f"membench {dtype}", generate, ITEM_BYTES[dtype], exact=dtype == "float32")


def llama_of(model: Model) -> Any:
    """The same model as transformers has it."""
    import transformers

    spec = model.spec
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.model_dim,
        intermediate_size=spec.ffn_hidden,
        num_hidden_layers=spec.num_blocks,
        num_attention_heads=spec.attention.heads,
        num_key_value_heads=spec.attention.kv_heads,
        head_dim=spec.attention.head_dim,
        rms_norm_eps=spec.norm_eps,
        rope_theta=spec.attention.rope_theta,
        tie_word_embeddings=spec.tied,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    missing, unknown = theirs.load_state_dict(to_llama(model), strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"transformers' Llama has other weights: {missing}, {unknown}")
    return theirs


@dataclass(frozen=True, slots=True)
class _EachToken:
    """A streamer of transformers: told of the prompt, then of each token."""

    after: After

    def put(self, value: Tensor) -> None:
        if value.numel() == 1:
            self.after()

    def end(self) -> None:
        """Nothing is kept."""


def transformers_engine(model: Model, way: str) -> Engine:
    """transformers' own greedy ``generate``: eager; compiled, with a static cache; or eager in torchao's int8."""
    theirs = llama_of(model)
    theirs.generation_config.eos_token_id = None
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    if way == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(theirs, Int8WeightOnlyConfig())
    if way == "compiled":
        options["cache_implementation"] = "static"
        theirs.forward = torch.compile(theirs.forward, dynamic=False)

    @torch.no_grad()
    def generate(prompt: list[int], count: int, after: After) -> list[int]:
        ids: Tensor = torch.tensor([prompt])
        found = theirs.generate(ids, max_new_tokens=count, min_new_tokens=count, streamer=_EachToken(after), **options)
        return found[0, len(prompt) :].tolist()

    return Engine(f"transformers {way}", generate, 1 if way == "int8" else 4, exact=way != "int8")


def ctranslate2_engine(model: Model, folder: Path, compute: str) -> Engine:
    """ctranslate2's generator, of the Llama converted by its own converter; the tokenizer is made up."""
    import ctranslate2

    target = folder / f"ctranslate2_{compute}"
    source = folder / "llama"
    if not source.exists():
        llama_of(model).save_pretrained(source)
        _made_up_tokenizer(source, model.spec.vocab_size)
    ctranslate2.converters.TransformersConverter(str(source)).convert(str(target), quantization=compute)
    generator = ctranslate2.Generator(str(target), compute_type=compute, intra_threads=torch.get_num_threads())

    def generate(prompt: list[int], count: int, after: After) -> list[int]:
        words = [f"t{token}" for token in prompt]
        (found,) = generator.generate_batch(
            [words],
            max_length=count,
            min_length=count,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            suppress_sequences=[],
            callback=lambda step: after(),
        )
        return list(found.sequences_ids[0])

    return Engine(f"ctranslate2 {compute}", generate, 4 if compute == "float32" else 1, exact=compute == "float32")


def _made_up_tokenizer(folder: Path, vocab_size: int) -> None:
    """A tokenizer whose word for token i is ``ti``."""
    from tokenizers import Tokenizer, models

    words = {f"t{token}": token for token in range(vocab_size)}
    Tokenizer(models.WordLevel(words, unk_token="t0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0", "bos_token": "t0", "eos_token": "t1"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
