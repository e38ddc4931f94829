#!/usr/bin/env python3
"""Compresses the two wiki models to budgets of bits and prints what is lost, as Markdown tables:
the targets' budgets, and every idea removed from the whole and added alone to the plain whitened
method, which stores latents of 3 bits and takes truncation for noise.

    scripts/budget_tables.py [--palu build/release/palu] [--work out/budget] [--only wiki-7m-mha]
                             [--rows REGEX] [--windows N] [--device cuda] [--jobs N]

Calibration runs once per model and length of the window of recent tokens, on the first 64 windows
of data/calib_mix.txt. Perplexity is that of WikiText-2 (test) and of the last quarter of
calib_mix.txt, which no calibration sees, at 2048 tokens; with --windows of the first N windows of
each. Rises are over the dense model, KL is KL(dense || compressed) per token of the held-out text.
With --jobs as many rows are measured at a time. Options without a price of truncation take
the usual one, for the statistics alone hold no text to measure it on; the budgets measure it.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import re
import shutil
import subprocess

from reproduce import ROOT, model_directory

BUDGETS = [8.0, 2.2, 1.5, 1.0]
PLAIN = {  # the whitened method: none of the ideas
    "shared latents": ["--latents", "separate"],
    "output weighting": ["--weighting", "inputs"],
    "centering": ["--no-centering"],
    "tiers of bits": ["--tier-bits", "3"],
    "a price of truncation": ["--truncation-price", "1"],
    "the window of recent tokens": ["--recent", "0"],
}
VARIANTS = [  # label, options; at 1.5 and 1.0 bits, as are the ideas
    ("gradients damped by 0.001 only", ["--damping", "0.001"]),
    ("tiers of 4 and 3 bits only", ["--tier-bits", "4,3"]),
    ("tiers in blocks of 32", ["--tier-block", "32"]),
    ("windows of 8", ["--recent", "8"]),
    ("windows of 32", ["--recent", "32"]),
    ("preferring speed", ["--prefer", "speed"]),
]


def ablations():
    yield "all ideas", []
    for idea, without in PLAIN.items():
        yield f"without {idea}", without
    yield "no idea", sum(PLAIN.values(), [])
    for idea in PLAIN:
        yield f"only {idea}", sum((off for other, off in PLAIN.items() if other != idea), [])
    yield from VARIANTS


class Palu:
    def __init__(self, program, options=()):
        self.program, self.options = program, options

    def run(self, command, *arguments):
        options = [] if command == "inspect" else map(str, self.options)
        line = [str(self.program), command, *map(str, arguments), *options, "--quiet"]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def compare(self, dense, model, text, windows):
        return json.loads(self.run("kl", dense, model, "--text", text, "--windows", windows,
                                   "--json"))


def statistics(palu, work, name, recent):
    """Of the calibration for a window of recent tokens, made where they are not there yet."""
    path = work / f"{name}.recent-{recent}.safetensors"
    if not path.exists():
        out = work / f"{name}-calibrated"
        palu.run("compress", model_directory(name), out, "--force", "--budget", 2, "--recent", recent,
                 "--stats", path, "--calib", ROOT / "data/calib_mix.txt", "--held-out-windows", 0)
        shutil.rmtree(out)
    return path


def rows(calib):
    for budget in BUDGETS:
        yield f"{budget:g} bits", ["--budget", budget, "--calib", calib]
    for budget in (1.5, 1.0):
        for label, options in ablations():
            yield f"{budget:g} bits, {label}", ["--budget", budget, *options]


def recent(options):
    return int(options[options.index("--recent") + 1]) if "--recent" in options else 16


def measure(palu, work, name, number, options, texts, windows):
    source, out = model_directory(name), work / f"{name}-{number}"
    stats = statistics(palu, work, name, recent(options))
    palu.run("compress", source, out, "--force", "--stats", stats, *options)
    inspected = json.loads(palu.run("inspect", out, "--json"))
    results = [palu.compare(source, out, text, windows) for text in texts]
    shutil.rmtree(out)
    return inspected, results


def rise(result):
    return 100 * (result["compressed_perplexity"] / result["dense_perplexity"] - 1)


def table(palu, work, name, wanted, windows, jobs):
    if model_directory(name) is None:
        print(f"\n{name}: the model is not here; skipped\n")
        return
    calib = ROOT / "data/calib_mix.txt"
    text = calib.read_text(encoding="utf-8")
    held_out = work / "held_out.txt"
    held_out.write_text(text[3 * len(text) // 4:], encoding="utf-8")
    texts = [ROOT / "data/wikitext2_test.txt", held_out]
    print(f"\n## {name}\n")
    print("| setting | bits/element | predicted rise | WikiText-2 | held-out text | KL |")
    print("|---|---|---|---|---|---|", flush=True)
    wanted = [row for row in rows(calib) if re.search(wanted, row[0])]
    for tokens in {recent(options) for _, options in wanted}:
        statistics(palu, work, name, tokens)  # before jobs want the same
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda row: measure(palu, work, name, *row, texts, windows),
                           ((i, options) for i, (_, options) in enumerate(wanted)))
        for (label, _), (inspected, compared) in zip(wanted, results):
            print(f"| {label} | {inspected['kv_cache']['bits_per_element']:.3f} "
                  f"| {100 * math.expm1(inspected['predicted_loss']):.2f} % "
                  f"| {rise(compared[0]):+.2f} % | {rise(compared[1]):+.2f} % "
                  f"| {compared[1]['kl_mean']:.5f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--palu", type=pathlib.Path, default=ROOT / "build/release/palu")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out/budget")
    parser.add_argument("--only", choices=["wiki-7m-mha", "wiki-18m-gqa"])
    parser.add_argument("--rows", default="", help="regular expression on the setting")
    parser.add_argument("--windows", type=int, default=0, help="of each text; 0: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in ("wiki-7m-mha", "wiki-18m-gqa"):
        if options.only in (None, name):
            threads = max(os.cpu_count() // options.jobs, 1)
            palu = Palu(options.palu, ["--device", options.device, "--threads", threads])
            table(palu, options.work, name, options.rows, options.windows, options.jobs)


if __name__ == "__main__":
    main()
