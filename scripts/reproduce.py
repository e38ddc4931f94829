#!/usr/bin/env python3
"""Compresses the two wiki models in every way of the published code's results and prints our
perplexity beside the reference's, as Markdown tables.

    scripts/reproduce.py [--palu build/release/palu] [--work out/reproduce] [--only wiki-7m-mha]
                         [--jobs 2] [--rows REGEX]

Fails when a perplexity differs from the reference by more than 0.5 % (2 % with quantised latents,
0.1 % for the dense model), a Fisher mean by more than 1 %, or a rank at all. Calibration runs once
per model; --jobs measures that many rows side by side and shares the processors among them.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from safetensors_header import read_tensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r"palu (whiten|plain-svd) (\w+) r([\d.]+) gs(\d+)(?: (\d)bit had=(True|False))?$")
FULL_RANK = re.compile(r"full rank (\d)bit had")
SEARCH = {"fisher_uniform": "fisher-uniform", "fisher": "fisher", "uniform": "uniform"}


def model_directory(name):
    """In the repository, or beside it for the model that is too large for it."""
    for directory in (ROOT / "models" / name, ROOT.parent / "shared" / "models" / name):
        if directory.exists():
            return directory
    return None


class Palu:
    def __init__(self, program, jobs):
        self.program = program
        self.threads = max(1, (os.cpu_count() or 1) // jobs)

    def run(self, *arguments, threads=None):
        command = [str(self.program), *map(str, arguments), "--quiet", "--threads",
                   str(threads or self.threads)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def perplexity(self, model):
        output = self.run("ppl", model, "--text", ROOT / "data/wikitext2_test.txt", "--json")
        return json.loads(output)["perplexity"]


def relative(ours, reference):
    return 100 * (ours / reference - 1)


def parse_row(row):
    """Arguments of palu compress, and the row's name in the table."""
    full = FULL_RANK.match(row["tag"])
    if full:
        bits = full.group(1)
        return ["--ratio", "1", "--bits", bits], f"full rank, {bits} bit + Hadamard"
    match = ROW.match(row["tag"])
    if not match:
        raise SystemExit(f"unknown row of the reference: {row['tag']}")
    decompose, search, ratio, group, bits, hadamard = match.groups()
    arguments = ["--ratio", ratio, "--group-size", group, "--search", SEARCH[search],
                 "--decompose", "whiten" if decompose == "whiten" else "svd"]
    label = f"{decompose} {search} {100 * float(ratio):g} % g{group}"
    if bits:
        rotated = hadamard == "True"
        arguments += ["--bits", bits, "--hadamard" if rotated else "--no-hadamard"]
        label += f", {bits} bit{' + Hadamard' if rotated else ''}"
    return arguments, label


class Checks:
    def __init__(self):
        self.failures = []

    def within(self, what, ours, reference, percent):
        if abs(relative(ours, reference)) > percent:
            self.failures.append(f"{what}: {ours:.6g}, reference {reference:.6g}")

    def equal(self, what, ours, reference):
        if ours != reference:
            self.failures.append(f"{what}: {ours}, reference {reference}")


def check_calibration(stats_file, reference, checks):
    """Fisher means per projection, from the statistics file."""
    tensors = read_tensors(stats_file)
    worst = 0.0
    for name, value in reference["fisher_mean_per_projection"].items():
        layer, projection = re.match(r"model\.layers\.(\d+)\.self_attn\.(.)_proj", name).groups()
        heads = tensors[f"layers.{layer}.fisher.{projection}"]
        ours = sum(heads) / len(heads)
        worst = max(worst, abs(relative(ours, value)))
        checks.within(f"Fisher mean of {name}", ours, value, 1.0)
    return worst


def check_ranks(config, reference, checks):
    ranks = config["kv_compression"]["ranks"]
    for name, expected in reference["ranks_fisher_uniform_0.5"].items():
        # A projection that keeps its full width is stored dense and has no ranks.
        full = config["num_key_value_heads"] * config["head_dim"]
        checks.equal(f"ranks of {name}", ranks.get(name, [full]), expected)


def measure(palu, source, stats, work, index, row):
    """One row: the compressed model's perplexity, bits per element and ranks."""
    arguments, label = parse_row(row)
    out = work / f"{source.name}-{index}"
    palu.run("compress", source, out, "--force", "--stats", stats, *arguments)
    result = {
        "label": label,
        "perplexity": palu.perplexity(out),
        "bits": json.loads(palu.run("inspect", out, "--json"))["kv_cache"]["bits_per_element"],
        "config": json.loads((out / "config.json").read_text()),
    }
    shutil.rmtree(out)
    return result


def reproduce(palu, jobs, work, name, wanted, checks):
    source = model_directory(name)
    if source is None:
        print(f"\n{name}: the model is not here; skipped\n")
        return
    reference = json.loads((ROOT / f"tests/data/golden/reference_palu_{name}.json").read_text())
    rows = [row for row in reference["rows"] if re.search(wanted, row["tag"])]
    stats = work / f"{name}.stats.safetensors"
    palu.run("compress", source, work / "calibrated", "--force", "--ratio", 0.5, "--stats", stats,
             "--calib", ROOT / "data/calib_mix.txt", threads=os.cpu_count())
    dense_ppl = reference["dense_ppl"]
    print(f"\n## {name}\n", flush=True)
    print("| setting | bits/element | reference's | perplexity | reference | difference | rise "
          "| reference's rise |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        dense_run = pool.submit(palu.perplexity, source)
        runs = [pool.submit(measure, palu, source, stats, work, index, row)
                for index, row in enumerate(rows)]
        dense = dense_run.result()
        print(f"| dense | 16 | 16 | {dense:.4f} | {dense_ppl:.4f} | "
              f"{relative(dense, dense_ppl):+.3f} % | | |", flush=True)
        checks.within(f"{name} dense perplexity", dense, dense_ppl, 0.1)
        for row, done in zip(rows, runs):
            ours = done.result()
            ppl, bits = ours["perplexity"], ours["bits"]
            quantised = row.get("bits", 16) < 16
            print(f"| {ours['label']} | {bits:.3f} | {row['bits_per_element']:.3f} | {ppl:.4f} | "
                  f"{row['ppl']:.4f} | {relative(ppl, row['ppl']):+.3f} % | "
                  f"{relative(ppl, dense):+.2f} % | {row['rise']:+.2f} % |", flush=True)
            checks.within(f"{name} {row['tag']}", ppl, row["ppl"], 2.0 if quantised else 0.5)
            if not quantised:  # a quantised row of the reference counts 16 bits for a zero, we 8
                checks.equal(f"{name} {row['tag']} bits/element", round(bits, 3),
                             row["bits_per_element"])
            if row["tag"] == "palu whiten fisher_uniform r0.5 gs4":
                check_ranks(ours["config"], reference, checks)
    worst = check_calibration(stats, reference, checks)
    print(f"\nFisher means are the reference's within {worst:.4f} %.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/reproduce")
    parser.add_argument("--only", help="one model instead of both")
    parser.add_argument("--jobs", type=int, default=2, help="rows measured side by side")
    parser.add_argument("--rows", default="", help="only rows whose tag matches")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    for name in ("wiki-7m-mha", "wiki-18m-gqa"):
        if options.only in (None, name):
            reproduce(Palu(options.palu, options.jobs), options.jobs, options.work, name,
                      options.rows, checks)
    for failure in checks.failures:
        print("FAILED", failure)
    sys.exit(1 if checks.failures else 0)


if __name__ == "__main__":
    main()
