#!/usr/bin/env python3
"""Ideas for budgets of bits, tried outside the program, in NumPy: exact first tokens, an exact
recent window, up-projections fitted anew to what the cache gives back, and groups of KV heads whose
size differs by layer and projection.

    scripts/budget_ideas.py sinks|refit|groups [--palu build/release/palu] [--work out/budget]
                                        [--only wiki-7m-mha] [--windows 4] [--budgets 1.5,1]

Needs numpy, sentencepiece and tokenizers. Every model is compressed without a window (--recent 0)
to what the exact tokens leave of the budget at 2048 tokens of context, from the statistics that
scripts/budget_tables.py keeps, too. KL is KL(dense || compressed) per token of the last quarter of
calib_mix.txt, which no calibration sees; rises of perplexity are over the dense model on the same
windows of 2048 tokens. "groups" compresses nothing: it takes the program's search, with the size of
groups chosen by layer and projection, as far as the predicted loss.
"""
import argparse
import json
import math
import pathlib
import shutil
import subprocess

import numpy as np

from budget_tables import Palu, statistics
from reproduce import ROOT, model_directory

CONTEXT = 2048
EXACT_BITS = 16
QUERIES = 256  # at once
# Steps of the best uniform quantisers of a normal variable (ops/cpu/latent_quantization.cc).
STEPS = {2: 0.9957, 3: 0.5860, 4: 0.3352, 8: 0.0308}


def read_safetensors(path):
    raw = np.fromfile(path, np.uint8)
    length = int(raw[:8].view("<u8")[0])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length].tobytes()).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        data = raw[begin:end]
        if entry["dtype"] == "BF16":
            data = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[entry["dtype"]]
            data = data.view(kind)
            if entry["dtype"] != "F64":
                data = data.astype(np.float32)
        tensors[name] = data.reshape(entry["shape"])
    return tensors


def encode(directory, text):
    if (directory / "tokenizer.model").exists():
        import sentencepiece
        tokenizer = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
        return np.array([tokenizer.bos_id()] + tokenizer.encode(text))
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    bos = json.loads((directory / "config.json").read_text())["bos_token_id"]
    return np.array([bos] + tokenizer.encode(text, add_special_tokens=False).ids)


def quantize(latents, tiers):
    """What the cache gives back (docs/cache-layout.md, "Tiers")."""
    out = np.empty_like(latents)
    begin = 0
    for width, bits in tiers:
        part = latents[:, begin:begin + width]
        rms = np.sqrt(np.mean(part ** 2, axis=1, keepdims=True)) + 1e-30
        first = np.round(160 + 12 * np.log2(rms * STEPS[bits]))
        best, error = None, np.inf
        for shift in range(-6, 5, 2):
            scale = 2 ** ((np.clip(first + shift, 0, 255) - 160) / 12)
            codes = np.clip(np.floor(part / scale + 2 ** (bits - 1)), 0, 2 ** bits - 1)
            value = (codes - (2 ** bits - 1) / 2) * scale
            squared = np.sum((value - part) ** 2, axis=1, keepdims=True)
            best = value if best is None else np.where(squared < error, value, best)
            error = np.minimum(error, squared)
        out[:, begin:begin + width] = best
        begin += width
    return out


class Dense:
    def __init__(self, directory):
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = read_safetensors(directory / "model.safetensors")
        self.head_dim = self.config["head_dim"]
        self.layers = self.config["num_hidden_layers"]

    def weight(self, layer, name):
        return self.tensors[f"model.layers.{layer}.{name}.weight"]

    def norm(self, x, weight):
        scale = np.sqrt(np.mean(x ** 2, axis=1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * weight

    def rotate(self, x):
        half = self.head_dim // 2
        angles = np.outer(np.arange(len(x)), self.config["rope_theta"] ** (-np.arange(half) / half))
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        x = x.reshape(len(x), -1, self.head_dim)
        low, high = x[..., :half], x[..., half:]
        rotated = [low * cos - high * sin, high * cos + low * sin]
        return np.concatenate(rotated, -1, dtype=np.float32)

    def inputs(self, layer, hidden):
        return self.norm(hidden, self.weight(layer, "input_layernorm"))

    def keys_values(self, layer, x):
        return x @ self.weight(layer, "self_attn.k_proj").T, x @ self.weight(layer,
                                                                           "self_attn.v_proj").T

    def step(self, layer, hidden, x, stored, exact=None, sinks=0, recent=0):
        """The layer's output. stored, exact: keys and values that queries meet; exact ones for the
        first `sinks` tokens and for the last `recent` ones before a query, itself included."""
        q = self.rotate(x @ self.weight(layer, "self_attn.q_proj").T) / math.sqrt(self.head_dim)
        keys, values = self.rotate(stored[0]), stored[1].reshape(len(x), -1, self.head_dim)
        if exact is not None:  # as corrections of what is stored
            more_keys = self.rotate(exact[0]) - keys
            more_values = exact[1].reshape(values.shape) - values
        out = np.empty_like(q)
        for begin in range(0, len(x), QUERIES):
            end = min(begin + QUERIES, len(x))
            near = max(0, begin - recent + 1)
            distance = np.arange(begin, end)[:, None] - np.arange(near, end)
            is_exact = (np.arange(near, end) < sinks) | (distance < recent)
            for h in range(q.shape[1]):
                kv = h * keys.shape[1] // q.shape[1]
                rows = q[begin:end, h]
                scores = rows @ keys[:end, kv].T
                if exact is not None:
                    first = min(sinks, near)
                    scores[:, :first] += rows @ more_keys[:first, kv].T
                    scores[:, near:] += np.where(is_exact, rows @ more_keys[near:end, kv].T, 0)
                scores[:, near:][distance < 0] = -np.inf
                p = np.exp(scores - scores.max(axis=1, keepdims=True))
                p /= p.sum(axis=1, keepdims=True)
                out[begin:end, h] = p @ values[:end, kv]
                if exact is not None:
                    out[begin:end, h] += p[:, :first] @ more_values[:first, kv]
                    p = np.where(is_exact, p[:, near:], 0)
                    out[begin:end, h] += p @ more_values[near:end, kv]
        hidden = hidden + out.reshape(len(x), -1) @ self.weight(layer, "self_attn.o_proj").T
        x = self.norm(hidden, self.weight(layer, "post_attention_layernorm"))
        gate = x @ self.weight(layer, "mlp.gate_proj").T
        up = x @ self.weight(layer, "mlp.up_proj").T
        return hidden + (gate / (1 + np.exp(-gate)) * up) @ self.weight(layer, "mlp.down_proj").T

    def embed(self, ids):
        return self.tensors["model.embed_tokens.weight"][ids]

    def log_probabilities(self, hidden):
        head = self.tensors.get("lm_head.weight", self.tensors["model.embed_tokens.weight"])
        logits = self.norm(hidden, self.tensors["model.norm.weight"]) @ head.T
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


class Compressed:
    def __init__(self, dense, directory):
        self.dense = dense
        self.tensors = read_safetensors(directory / "model.safetensors")
        self.tiers = json.loads((directory / "config.json").read_text())["kv_compression"]["tiers"]

    def name(self, layer, side):
        return f"model.layers.{layer}.self_attn.{side}_proj"

    def latents(self, layer, x):
        """As read back, of keys and of values; there is one group."""
        read = []
        for side in "kv":
            name = self.name(layer, side)
            if name not in self.tiers:  # shared
                return read * 2
            tiers = list(zip(self.tiers[name]["widths"], self.tiers[name]["bits"]))
            h = x @ self.tensors[name + ".VT.weight"].T + self.tensors[name + ".VT.bias"]
            read.append(quantize(h, tiers))
        return read

    def keys_values(self, layer, x):
        return [h @ self.tensors[self.name(layer, side) + ".U.0.weight"].T +
                self.tensors[self.name(layer, side) + ".bias"]
                for side, h in zip("kv", self.latents(layer, x))]


def run_dense(dense, ids):
    hidden = dense.embed(ids)
    for layer in range(dense.layers):
        x = dense.inputs(layer, hidden)
        hidden = dense.step(layer, hidden, x, dense.keys_values(layer, x))
    return dense.log_probabilities(hidden)


def run(model, ids, sinks=0, recent=0):
    dense = model.dense
    hidden = dense.embed(ids)
    for layer in range(dense.layers):
        x = dense.inputs(layer, hidden)
        exact = dense.keys_values(layer, x) if sinks or recent else None
        hidden = dense.step(layer, hidden, x, model.keys_values(layer, x), exact, sinks, recent)
    return dense.log_probabilities(hidden)


def refit(model, windows, target, ridge):
    """Up-projections and biases by least squares, layer after layer, on the compressed model's own
    inputs: towards the projections of these inputs ("own") or of the dense model's ("dense")."""
    dense = model.dense
    hidden = [dense.embed(ids) for ids in windows]
    reference = [h.copy() for h in hidden]
    for layer in range(dense.layers):
        x = [dense.inputs(layer, h) for h in hidden]
        x_dense = [dense.inputs(layer, h) for h in reference]
        read = [model.latents(layer, rows) for rows in x]
        wanted = [dense.keys_values(layer, rows) for rows in (x if target == "own" else x_dense)]
        for i, side in enumerate("kv"):
            name = model.name(layer, side)
            h = np.concatenate([r[i] for r in read]).astype(np.float64)
            up, bias = model.tensors[name + ".U.0.weight"], model.tensors[name + ".bias"]
            missing = np.concatenate([w[i] for w in wanted]) - (h @ up.T + bias)
            h = np.hstack([h, np.ones((len(h), 1))])
            gram = h.T @ h
            gram[np.diag_indices_from(gram)] += ridge * len(h)  # latents have variance 1
            change = np.linalg.solve(gram, h.T @ missing)
            model.tensors[name + ".U.0.weight"] = (up + change[:-1].T).astype(np.float32)
            model.tensors[name + ".bias"] = (bias + change[-1]).astype(np.float32)
        hidden = [dense.step(layer, h, rows, model.keys_values(layer, rows))
                  for h, rows in zip(hidden, x)]
        reference = [dense.step(layer, h, rows, dense.keys_values(layer, rows))
                     for h, rows in zip(reference, x_dense)]


class Trial:
    def __init__(self, options, name):
        self.options, self.name = options, name
        self.source = model_directory(name)
        self.dense = Dense(self.source)
        calib = (ROOT / "data/calib_mix.txt").read_text(encoding="utf-8")
        self.calibration = encode(self.source, calib[:len(calib) // 4])
        held_out = encode(self.source, calib[3 * len(calib) // 4:])
        wikitext = encode(self.source, (ROOT / "data/wikitext2_test.txt").read_text("utf-8"))
        self.texts = [ids[:options.windows * CONTEXT].reshape(-1, CONTEXT)
                      for ids in (wikitext, held_out)]
        self.truth = [[run_dense(self.dense, ids) for ids in text] for text in self.texts]

    def compress(self, bits):
        out = self.options.work / f"{self.name}-ideas"
        stats = statistics(Palu(self.options.palu), self.options.work, self.name, 0)
        subprocess.run([self.options.palu, "compress", self.source, out, "--force", "--budget",
                        str(bits), "--recent", "0", "--stats", stats, "--quiet"], check=True)
        model = Compressed(self.dense, out)
        shutil.rmtree(out)
        return model

    def row(self, label, bits, model, **exact):
        """Rises on both texts and KL on the second."""
        cells = []
        for text, truth in zip(self.texts, self.truth):
            kl, gain = [], []
            for ids, p in zip(text, truth):
                q = run(model, ids, **exact)
                kl.append(np.sum(np.exp(p[:-1]) * (p[:-1] - q[:-1]), axis=1))
                at = np.arange(CONTEXT - 1), ids[1:]
                gain.append(p[:-1][at] - q[:-1][at])
            cells.append(f"{100 * math.expm1(np.mean(gain)):+.2f} %")
        print(f"| {self.name} | {label} | {bits:.3f} | {' | '.join(cells)} | {np.mean(kl):.5f} |",
              flush=True)


def sinks(trial, budget):
    for first, recent in [(0, 0), (1, 0), (4, 0), (0, 1), (0, 16), (0, 32), (4, 32), (0, 64)]:
        tokens = first + recent
        tiers = (budget - EXACT_BITS * tokens / CONTEXT) / (1 - tokens / CONTEXT)
        trial.row(f"{budget:g} bits, {first} first and {recent} last tokens exact", tiers,
                  trial.compress(tiers), sinks=first, recent=recent)


def refits(trial, budget):
    windows = trial.calibration[:trial.options.fit_windows * 1024].reshape(-1, 1024)
    trial.row(f"{budget:g} bits", budget, trial.compress(budget))
    for target in ("own", "dense"):
        for ridge in (0.0, 0.1):
            model = trial.compress(budget)
            refit(model, windows, target, ridge)
            trial.row(f"{budget:g} bits, refitted to {target} inputs, ridge {ridge:g}", budget,
                      model)


# Of the program's search (src/compress/budget_search.cc).
DISTORTION = {8: 0.0000925, 4: 0.01154, 3: 0.03744, 2: 0.1188, 0: 1.5}
BLOCK, TIER_BITS, DAMPING, RECENT = 16, 8, 0.05, 16
WINDOW_BITS = EXACT_BITS * RECENT / CONTEXT
TOKENS = 64 * 1024  # that the statistics are of


def lower(packed):
    n = int((math.sqrt(8 * len(packed) + 1) - 1) / 2)
    full = np.zeros((n, n))
    full[np.tril_indices(n)] = packed
    return full + np.tril(full, -1).T


class Unit:
    """A latent: the least cost at a price per bit, and what that loses and takes."""

    def __init__(self, weight, input_factor, moment):
        moment = moment + DAMPING * np.mean(np.diag(moment)) * np.eye(len(moment))
        energy = np.linalg.svd(np.linalg.cholesky(moment).T @ weight @ input_factor,
                               compute_uv=False) ** 2
        energy = np.pad(energy, (0, -len(energy) % BLOCK))
        self.blocks = energy.reshape(-1, BLOCK).sum(1) / 2

    def plan(self, price):
        bits = list(DISTORTION)
        states = None  # per bits of the last block: cost, loss, bits taken
        for block in self.blocks:
            following = []
            for c, b in enumerate(bits):
                loss = block * DISTORTION[b]
                taken = BLOCK * (b + WINDOW_BITS) if b else 0
                if states is None:
                    before = (0, 0, 0) if b else (math.inf, 0, 0)
                    opened = TIER_BITS if b else 0
                else:
                    opens = TIER_BITS if b else 0
                    before, opened = min(
                        ((s, opens if i < c else 0) for i, s in enumerate(states[:c + 1])),
                        key=lambda s: s[0][0] + price * s[1])
                following.append((before[0] + loss + price * (taken + opened), before[1] + loss,
                                  before[2] + taken + opened))
            states = following
        return min(states)


def grouped(layers, sizes, budget):
    """Predicted loss, and the sizes that the layers' keys and values, or both together, take."""
    def choose(price):
        loss, taken, chosen = 0, 0, []
        for layer in layers:
            best = {}
            for side in ("k", "v", "shared"):
                best[side] = min(
                    (tuple(map(sum, zip(*(unit.plan(price) for unit in layer[side, size])))), size)
                    for size in sizes)
            apart = best["k"][0][0] + best["v"][0][0]
            parts = [best["shared"]] if best["shared"][0][0] < apart else [best["k"], best["v"]]
            loss += sum(part[0][1] for part in parts)
            taken += sum(part[0][2] for part in parts)
            chosen.append("/".join(str(part[1]) for part in parts))
        return loss, taken, chosen

    low, high = 1e-12, 1e2
    for _ in range(50):
        price = math.sqrt(low * high)
        low, high = (low, price) if choose(price)[1] <= budget else (price, high)
    return choose(high)


def groups(options, name, budgets):
    source = model_directory(name)
    dense = Dense(source)
    stats = read_safetensors(statistics(Palu(options.palu), options.work, name, RECENT))
    heads = dense.config.get("num_key_value_heads", dense.config["num_attention_heads"])
    sizes = [size for size in range(1, heads + 1) if heads % size == 0]
    layers = []
    for i in range(dense.layers):
        mean = stats[f"layers.{i}.mean"]
        factor = np.linalg.cholesky(lower(stats[f"layers.{i}.gram"]) / TOKENS
                                    - np.outer(mean, mean))
        moment = lower(stats[f"layers.{i}.output_grad"])
        weight = np.concatenate([dense.weight(i, "self_attn.k_proj"),
                                 dense.weight(i, "self_attn.v_proj")]).astype(np.float64)
        layer, kv = {}, len(weight) // 2
        for size in sizes:
            width = size * dense.head_dim
            for side, begins in (("k", [0]), ("v", [kv]), ("shared", [0, kv])):
                units = []
                for at in range(0, kv, width):
                    rows = np.concatenate([np.arange(b + at, b + at + width) for b in begins])
                    units.append(Unit(weight[rows], factor, moment[np.ix_(rows, rows)]))
                layer[side, size] = units
        layers.append(layer)
    for budget in budgets:
        bits = budget * 2 * dense.layers * heads * dense.head_dim
        for some in [[size] for size in sizes] + [sizes]:
            loss, taken, chosen = grouped(layers, some, bits)
            label = "heads " + " or ".join(map(str, some))
            print(f"| {name} | {budget:g} bits, {label} | {taken / bits * budget:.3f} "
                  f"| {100 * math.expm1(loss):.2f} % | {', '.join(chosen)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idea", choices=["sinks", "refit", "groups"])
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/budget")
    parser.add_argument("--only", choices=["wiki-7m-mha", "wiki-18m-gqa"])
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    parser.add_argument("--fit-windows", type=int, default=32, help="of 1024 tokens, to refit on")
    parser.add_argument("--budgets", default="1.5,1")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    budgets = list(map(float, options.budgets.split(",")))
    if options.idea == "groups":
        print("| model | setting | bits/element | predicted rise | heads per group, layer by layer |")
        print("|---|---|---|---|---|", flush=True)
        for name in ("wiki-7m-mha", "wiki-18m-gqa"):
            if options.only in (None, name):
                groups(options, name, budgets)
        return
    print("| model | setting | bits of tiers | WikiText-2 | held-out text | KL |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in ("wiki-7m-mha", "wiki-18m-gqa"):
        if options.only in (None, name):
            trial = Trial(options, name)
            for budget in budgets:
                (sinks if options.idea == "sinks" else refits)(trial, budget)


if __name__ == "__main__":
    main()
