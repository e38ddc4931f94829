#!/usr/bin/env python3
"""How far the signs of singular vectors move perplexity at 2 bits: the rows of the published code's
results with 2-bit latents, without rotation and at full rank with it, under random signs.

    scripts/sign_draws.py [--palu build/release/palu] [--work out/signs] [--only wiki-7m-mha]
                          [--rows REGEX] [--draws 12] [--share 1] [--seed 1] [--threads 0]

Needs numpy. Singular vectors are unique up to their sign, and an SVD's choice is an accident of its
arithmetic. Every draw flips each latent's sign with probability 1/2, in A and U alike, before the
rotation if there is one, so that without quantisation nothing changes. Factors are float32, as the
published code's are. With --share below 1 draws are measured on that first part of the text, and
scaled by what the model with the SVD's own signs has on the whole text over what it has on the part.
"""
import argparse
import json
import math
import pathlib
import re
import statistics

import numpy as np

from reproduce import Palu, ROOT, model_directory, parse_row, relative

ROWS = r"r0\.[75] gs4 2bit had=False|full rank 2bit"


class Factors:
    """The factors of a compressed model with one group per projection, open for changes."""

    def __init__(self, directory):
        self.data = np.memmap(directory / "model.safetensors", np.uint8, "r+")
        length = int(self.data[:8].view("<u8")[0])
        header = json.loads(self.data[8:8 + length].tobytes())
        tensors = {}
        for name, entry in header.items():
            if not re.search(r"\.(VT|U\.\d+)\.weight$", name):
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            # Not aligned in the file, so read and written as a copy.
            tensors[name] = (begin, end, entry["shape"])
        self.places = tensors
        self.pairs = [(name, name.replace("VT", "U.0")) for name in tensors if ".VT." in name]
        if len(self.places) != 2 * len(self.pairs):
            raise SystemExit(f"{directory}: expected one group per projection")
        self.original = {name: self.read(name) for name in tensors}

    def read(self, name):
        begin, end, shape = self.places[name]
        return self.data[begin:end].copy().view("<f4").reshape(shape)

    def write(self, name, values):
        begin, end, _ = self.places[name]
        self.data[begin:end] = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)

    def set_signs(self, draw, rotate):
        """draw(rank): the signs of a projection's latents."""
        for down, up in self.pairs:
            a, u = self.original[down], self.original[up]
            signs = draw(len(a)).astype(np.float32)
            a, u = signs[:, None] * a, u * signs
            if rotate:
                h = hadamard(len(a))
                a, u = h @ a, u @ h.T
            self.write(down, a)
            self.write(up, u)
        self.data.flush()


def hadamard(order):
    """Sylvester's matrix, orthogonal; what palu compress takes for powers of two."""
    if order & (order - 1):
        raise SystemExit(f"expected a power of two as rank, found {order}")
    h = np.ones((1, 1))
    while len(h) < order:
        h = np.block([[h, h], [h, -h]])
    return (h / math.sqrt(order)).astype(np.float32)


def perplexity(palu, model, text):
    return json.loads(palu.run("ppl", model, "--text", text, "--json"))["perplexity"]


def first_part(text, share, work):
    if share >= 1:
        return text
    whole = text.read_bytes()
    part = work / "part.txt"
    part.write_bytes(whole[:whole.rfind(b"\n", 0, int(share * len(whole))) + 1])
    return part


def measure(palu, source, stats, work, row, options):
    arguments, label = parse_row(row)
    rotate = row["tag"].startswith("full rank") or "had=True" in row["tag"]
    arguments = [a for a in arguments if a not in ("--hadamard", "--no-hadamard")]
    out = work / source.name
    palu.run("compress", source, out, "--force", "--stats", stats, "--no-hadamard", "--factor-type",
             "f32", *arguments)
    factors = Factors(out)
    text = ROOT / "data/wikitext2_test.txt"
    part = first_part(text, options.share, work)
    factors.set_signs(np.ones, rotate)
    ours = perplexity(palu, out, text)
    scale = ours / perplexity(palu, out, part) if part != text else 1
    random = np.random.default_rng(options.seed)
    draws = []
    for _ in range(options.draws):
        factors.set_signs(lambda rank: random.choice((-1.0, 1.0), rank), rotate)
        draws.append(scale * perplexity(palu, out, part))
    mean, deviation = statistics.mean(draws), statistics.stdev(draws)
    print(f"| {source.name} | {label} | {row['ppl']:.2f} | {ours:.2f} | {mean:.2f} "
          f"| {100 * deviation / mean:.1f} % | {min(draws):.2f}..{max(draws):.2f} "
          f"| {relative(row['ppl'], mean):+.1f} % | {(row['ppl'] - mean) / deviation:+.1f} |",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/signs")
    parser.add_argument("--only", help="one model instead of both")
    parser.add_argument("--rows", default=ROWS, help="rows whose tag matches")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--share", type=float, default=1.0, help="of the text, for the draws")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    palu = Palu(options.palu, 1)
    palu.threads = options.threads or palu.threads
    print("| model | setting | reference | SVD's signs | mean of draws | deviation | lowest..highest "
          "| reference over mean | in deviations |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in ("wiki-7m-mha", "wiki-18m-gqa"):
        source = model_directory(name)
        if source is None or options.only not in (None, name):
            continue
        reference = json.loads((ROOT / f"tests/data/golden/reference_palu_{name}.json").read_text())
        stats = options.work / f"{name}.stats.safetensors"
        palu.run("compress", source, options.work / "calibrated", "--force", "--ratio", 0.5, "--stats",
                 stats, "--calib", ROOT / "data/calib_mix.txt")
        for row in reference["rows"]:
            if re.search(options.rows, row["tag"]):
                measure(palu, source, stats, options.work, row, options)


if __name__ == "__main__":
    main()
