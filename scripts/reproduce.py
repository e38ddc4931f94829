#!/usr/bin/env python3
"""Compresses the two wiki models in every unquantised way of the published code's results and
prints our perplexity beside the reference's, as a Markdown table.

    scripts/reproduce.py [--palu build/release/palu] [--work out/reproduce] [--only wiki-7m-mha]

Fails when a perplexity differs from the reference by more than 0.5 % (0.1 % for the dense model),
a Fisher mean by more than 1 %, or a rank at all. Calibration runs once per model.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

from safetensors_header import read_tensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r"palu (whiten|plain-svd) (\w+) r([\d.]+) gs(\d+)$")
SEARCH = {"fisher_uniform": "fisher-uniform", "fisher": "fisher", "uniform": "uniform"}


def model_directory(name):
    """In the repository, or beside it for the model that is too large for it."""
    for directory in (ROOT / "models" / name, ROOT.parent / "shared" / "models" / name):
        if directory.exists():
            return directory
    return None


def run(palu, *arguments):
    command = [str(palu), *map(str, arguments), "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def perplexity(palu, model):
    return json.loads(run(palu, "ppl", model, "--text", ROOT / "data/wikitext2_test.txt", "--json"))


def relative(ours, reference):
    return 100 * (ours / reference - 1)


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


def check_ranks(model, reference, checks):
    config = json.loads((model / "config.json").read_text())
    ranks = config["kv_compression"]["ranks"]
    for name, expected in reference["ranks_fisher_uniform_0.5"].items():
        # A projection that keeps its full width is stored dense and has no ranks.
        full = config["num_key_value_heads"] * config["head_dim"]
        checks.equal(f"ranks of {name}", ranks.get(name, [full]), expected)


def reproduce(palu, work, name, checks):
    source = model_directory(name)
    if source is None:
        print(f"\n{name}: the model is not here; skipped\n")
        return
    reference = json.loads((ROOT / f"tests/data/golden/reference_palu_{name}.json").read_text())
    print(f"\n## {name}\n", flush=True)
    print("| setting | bits/element | perplexity | reference | difference | rise | reference's rise |")
    print("|---|---|---|---|---|---|---|", flush=True)

    dense = perplexity(palu, source)["perplexity"]
    print(f"| dense | 16 | {dense:.4f} | {reference['dense_ppl']:.4f} | "
          f"{relative(dense, reference['dense_ppl']):+.3f} % | | |", flush=True)
    checks.within(f"{name} dense perplexity", dense, reference["dense_ppl"], 0.1)

    stats = work / f"{name}.stats.safetensors"
    for row in reference["rows"]:
        match = ROW.match(row["tag"])
        if not match:
            continue  # a quantised row
        decompose, search, ratio, group = match.groups()
        out = work / name
        run(palu, "compress", source, out, "--force", "--stats", stats,
            "--calib", ROOT / "data/calib_mix.txt", "--ratio", ratio, "--group-size", group,
            "--search", SEARCH[search], "--decompose", "whiten" if decompose == "whiten" else "svd")
        ours = perplexity(palu, out)["perplexity"]
        bits = json.loads(run(palu, "inspect", out, "--json"))["kv_cache"]["bits_per_element"]
        print(f"| {decompose} {search} {100 * float(ratio):g} % g{group} | {bits:.3f} | {ours:.4f} | "
              f"{row['ppl']:.4f} | {relative(ours, row['ppl']):+.3f} % | "
              f"{relative(ours, dense):+.2f} % | {row['rise']:+.2f} % |", flush=True)
        checks.within(f"{name} {row['tag']}", ours, row["ppl"], 0.5)
        checks.equal(f"{name} {row['tag']} bits/element", round(bits, 3), row["bits_per_element"])
        if row["tag"] == "palu whiten fisher_uniform r0.5 gs4":
            check_ranks(out, reference, checks)
    worst = check_calibration(stats, reference, checks)
    print(f"\nRanks at 50 % are the reference's; its Fisher means are met within {worst:.3f} %.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/reproduce")
    parser.add_argument("--only", help="one model instead of both")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    for name in ("wiki-7m-mha", "wiki-18m-gqa"):
        if options.only in (None, name):
            reproduce(options.palu, options.work, name, checks)
    for failure in checks.failures:
        print("FAILED", failure)
    sys.exit(1 if checks.failures else 0)


if __name__ == "__main__":
    main()
