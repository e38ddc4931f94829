#!/usr/bin/env python3
"""Measures what the CPU pays to decode from latents in tiers, and prints the constants of
src/compress/decode_cost.cc.

    scripts/decode_costs.py [--palu build/release/palu] [--work out/decode_costs] [--threads 1]

Models of one layer and random weights decode from 4096 cached tokens and from none; the difference
is the time per cached token. Each model differs from the first in one thing, which gives its cost.
The fastest of the repetitions counts, because a shared machine only ever adds time.
"""
import argparse
import json
import math
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADS = 4
HEAD_DIM = 64
DEPTH = 4096
ROUNDS = 3


def config(k, v):
    """One layer whose keys and values have one group and the given tiers, [(width, bits)]."""
    names = [f"model.layers.0.self_attn.{side}_proj" for side in "kv"]
    return {
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 512, "vocab_size": 256,
        "intermediate_size": 64, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "kv_compression": {
            "method": "palu", "version": 3, "group_size": HEADS, "budget": 16,
            "ranks": {name: [sum(width for width, _ in tiers)]
                      for name, tiers in zip(names, (k, v))},
            "tiers": {name: {"per_group": [len(tiers)], "widths": [width for width, _ in tiers],
                             "bits": [bits for _, bits in tiers]}
                      for name, tiers in zip(names, (k, v))}}}


class Bench:
    def __init__(self, options):
        self.options = options
        options.work.mkdir(parents=True, exist_ok=True)

    def nanoseconds(self, k, v):
        """Per cached token and step."""
        path = self.options.work / "config.json"
        path.write_text(json.dumps(config(k, v)), encoding="utf-8")
        report = json.loads(subprocess.run(
            [self.options.palu, "bench", "--synthetic", path, "--prompt", "none", "--depth",
             f"0,{DEPTH}", "--generate", "32", "--repetitions", "7", "--threads",
             str(self.options.threads), "--format", "json", "--quiet"],
            check=True, capture_output=True, text=True).stdout)
        seconds = {row["depth"]: 1 / row["max"] for row in report["rows"]
                   if row["model"] == "palu"}
        return 1e9 * (seconds[DEPTH] - seconds[0]) / DEPTH


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/decode_costs")
    parser.add_argument("--threads", type=int, default=1)
    bench = Bench(parser.parse_args())
    one, wide, cut = [(128, 4)], [(256, 4)], [(16, 4)] * 8
    shapes = {"base": (one, one), "wide keys": (wide, one), "wide values": (one, wide),
              "cut keys": (cut, one), "cut values": (one, cut)}
    best = {name: math.inf for name in shapes}
    for _ in range(ROUNDS):
        for name, shape in shapes.items():
            best[name] = min(best[name], bench.nanoseconds(*shape))
    extra = {name: time - best["base"] for name, time in best.items()}
    print("nanoseconds per cached token: " +
          ", ".join(f"{name} {time:.0f}" for name, time in best.items()))
    print(f"kUpEntry = {extra['wide keys'] / (128 * HEADS * HEAD_DIM):.4f}")
    print(f"kKeyTier = {extra['cut keys'] / 7:.1f}")
    print(f"kValueLatent = {extra['wide values'] / (128 * HEADS):.3f}")
    print(f"kValueTier = {extra['cut values'] / 7:.1f}")


if __name__ == "__main__":
    main()
