#!/usr/bin/env python3
"""Writes a model directory of Llama-2-7B's shape with random bf16 weights, to time compression.

    scripts/random_model.py OUT TOKENIZER.model [--layers 32]

Weights are normal with deviation 0.02, norms 1. Needs PyTorch; a GPU is used where there is one.
"""
import argparse
import json
import pathlib
import shutil
import struct

import torch

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 4096, 11008, 32, 32000


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (HIDDEN,)
        for name in "qkvo":
            yield f"{layer}.self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{layer}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_weights(path, layers):
    header, end = {}, 0
    for name, shape in shapes(layers):
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes(layers):
            if len(shape) == 1:
                tensor = torch.ones(shape)
            else:
                tensor = 0.02 * torch.randn(shape, generator=generator, device=device)
            file.write(tensor.bfloat16().cpu().view(torch.int16).numpy().tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "vocab_size": VOCABULARY,
        "num_hidden_layers": options.layers, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2,
    }
    (options.out / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copy(options.tokenizer, options.out / "tokenizer.model")
    write_weights(options.out / "model.safetensors", options.layers)


if __name__ == "__main__":
    main()
