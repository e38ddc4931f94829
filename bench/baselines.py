#!/usr/bin/env python3
"""PyTorch's dense decode attention beside `palu bench attention`, on the same shapes.

  palu bench attention --format json --out attention.json
  python3 bench/baselines.py attention.json --out merged.json --format md
  python3 bench/baselines.py merged.json --print-only --format csv

Reads the models, contexts and batches of the JSON, times one query token (of --prefill all tokens,
causally) against fp16 keys and values [batch, kv_heads, tokens, head_dim] with
scaled_dot_product_attention (cuDNN and FlashAttention backends) and, of decode steps, with plain
matrix products, and adds the times to the JSON's records.
As there: CUDA events around a replayed graph, twice the L2 cache overwritten before every
repetition, the backends in turn within a repetition, medians. Needs PyTorch with CUDA.
"""

import argparse
import csv
import json
import math
import statistics
import sys

WARM_UPS = 3
BASELINES = ("cudnn", "flash", "eager")


# ---- Timing


def sdpa(backend, q, k, v):
    """A step with one backend of scaled_dot_product_attention and no other; several queries see
    the keys up to their own."""
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def step():
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1,
                                                enable_gqa=q.shape[1] != k.shape[1])

    return step


def eager(torch, q, k, v):
    """Scores, softmax and sums as separate products; query heads of a KV head are its rows."""
    batch, kv_heads, _, d = k.shape
    grouped = q.view(batch, kv_heads, -1, d)
    scale = 1 / math.sqrt(d)

    def step():
        scores = torch.matmul(grouped, k.transpose(2, 3)) * scale
        return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(k.dtype), v)

    return step


class Timer:
    """A step, recorded into a graph where that works, and its times."""

    def __init__(self, torch, step):
        self.torch = torch
        self.microseconds = []
        for _ in range(WARM_UPS):
            step()
        torch.cuda.synchronize()
        self.launch = step
        self.graph = False
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                step()
            self.launch = graph.replay
            self.graph = True
        except RuntimeError:
            torch.cuda.synchronize()
        self.launch()
        torch.cuda.synchronize()

    def time(self, flush):
        start = self.torch.cuda.Event(enable_timing=True)
        end = self.torch.cuda.Event(enable_timing=True)
        flush()
        start.record()
        self.launch()
        end.record()
        end.synchronize()
        self.microseconds.append(start.elapsed_time(end) * 1e3)


def one_line(error):
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def time_point(torch, shape, queries, repetitions, flush):
    """{baseline: result} for one shape; a backend that refuses has its words as `note`."""
    from torch.nn.attention import SDPBackend

    names = ("batch", "kv_heads", "context", "head_dim")
    batch, kv_heads, context, d = (shape[name] for name in names)
    results = {name: {"microseconds": None, "note": ""} for name in BASELINES}
    try:
        options = {"device": "cuda", "dtype": torch.float16}
        q = torch.randn(batch, shape["heads"], queries, d, **options)
        k = torch.rand(batch, kv_heads, context, d, **options).sub_(0.5)
        v = torch.rand(batch, kv_heads, context, d, **options).sub_(0.5)
    except torch.cuda.OutOfMemoryError:
        for result in results.values():
            result["note"] = "does not fit"
        return results
    steps = {
        "cudnn": lambda: sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v),
        "flash": lambda: sdpa(SDPBackend.FLASH_ATTENTION, q, k, v),
        "eager": lambda: eager(torch, q, k, v),
    }
    if queries > 1:
        del steps["eager"]
        results["eager"]["note"] = "not timed: its scores take too much memory"
    timers = {}
    for name in steps:
        try:
            timers[name] = Timer(torch, steps[name]())
        except torch.cuda.OutOfMemoryError:
            results[name]["note"] = "does not fit"
        except RuntimeError as error:
            results[name]["note"] = one_line(error)
    for _ in range(repetitions):
        for timer in timers.values():
            timer.time(flush)
    for name, timer in timers.items():
        results[name].update(summary(timer.microseconds), graph=timer.graph)
    return results


def measure(report):
    """Baselines of every shape of the report, by shape_of()."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("baselines: PyTorch shows no CUDA device")
    l2 = report["device"]["l2_bytes"]
    buffer = torch.empty(2 * l2, dtype=torch.uint8, device="cuda")
    turn = [0]

    def flush():
        turn[0] = (turn[0] + 1) % 256
        buffer.fill_(turn[0])

    baselines = {}
    for row in report["rows"]:
        if shape_of(row) in baselines:
            continue
        shape = {name: row[name] for name in SHAPE}
        print("baselines: {model}, {context} tokens, batch {batch}".format(**shape),
              file=sys.stderr)
        queries = row["context"] if report["prefill"] else 1
        baselines[shape_of(row)] = time_point(torch, shape, queries, report["repetitions"], flush)
        torch.cuda.empty_cache()
    versions = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name(),
    }
    return versions, baselines


# ---- Merging and printing; nothing here needs PyTorch

SHAPE = ("model", "heads", "kv_heads", "head_dim", "context", "batch")


def shape_of(row):
    return tuple(row[name] for name in SHAPE)


def summary(microseconds):
    if len(microseconds) < 2:
        tenths = 9 * microseconds
    else:
        tenths = statistics.quantiles(microseconds, n=10, method="inclusive")
    return {"microseconds": statistics.median(microseconds), "p10": tenths[0], "p90": tenths[8]}


def ratio(above, below):
    return above / below if above and below else None


def merge(report, versions, baselines):
    """Adds NAME_microseconds, NAME_note and over_NAME of every baseline to the records."""
    report["baselines"] = versions
    for row in report["rows"]:
        for name, result in baselines[shape_of(row)].items():
            for field in ("microseconds", "p10", "p90"):
                row["{}_{}".format(name, field)] = result.get(field)
            row[name + "_graph"] = result.get("graph", False)
            row[name + "_note"] = result["note"]
            row["over_" + name] = ratio(result["microseconds"], row["microseconds"])
    return report


def cell(value, digits):
    return "" if value is None else "{:.{}f}".format(value, digits)


def spread(row, prefix, missing):
    if row[prefix + "microseconds"] is None:
        return missing
    return "{:.1f} ({:.1f}..{:.1f})".format(
        *(row[prefix + field] for field in ("microseconds", "p10", "p90")))


def table(lines):
    widths = [max(3, *(len(line[c]) for line in lines)) for c in range(len(lines[0]))]
    text = []
    for i, line in enumerate(lines):
        text.append("| " + " | ".join(t.rjust(w) for t, w in zip(line, widths)) + " |")
        if i == 0:
            text.append("|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return "\n".join(text) + "\n"


def markdown(report):
    device, versions = report["device"], report["baselines"]
    text = ("{} attention of one layer on {}; read bandwidth {:.0f} GB/s. PyTorch {} on {}, "
            "CUDA {}, cuDNN {}.\n\nMicroseconds: median (tenth..ninetieth percentile) of {}. "
            "over X: times as fast as X.\n").format(
                "Prefill" if report["prefill"] else "Decode", device["name"], device["read_bytes_per_second"] / 1e9, versions["torch"],
                versions["device"], versions["cuda"], versions["cudnn"], report["repetitions"])
    notes = {}
    for model in dict.fromkeys(row["model"] for row in report["rows"]):
        lines = [["context", "batch", "form", "us", "of read", "over dense", "cuDNN us",
                  "flash us", "eager us", "over cuDNN", "over flash"]]
        for row in report["rows"]:
            if row["model"] != model:
                continue
            of_read = row["of_read_bandwidth"]
            lines.append([
                str(row["context"]), str(row["batch"]), row["form"],
                spread(row, "", row["status"]),
                "" if of_read is None else "{:.0f} %".format(100 * of_read),
                cell(row["over_dense"], 2),
                *(cell(row[name + "_microseconds"], 1) or "-" for name in BASELINES),
                cell(row["over_cudnn"], 2), cell(row["over_flash"], 2)])
            for name in BASELINES:
                if row[name + "_note"]:
                    where = "{model}, {context} tokens, batch {batch}".format(**row)
                    notes.setdefault((name, row[name + "_note"]), {})[where] = True
                elif not row[name + "_graph"]:
                    notes.setdefault((name, "timed without a graph"), {})[model] = True
        text += "\n{}\n\n{}".format(model, table(lines))
    if notes:
        text += "\n"
    for (name, note), places in notes.items():
        text += "- {}: {} ({})\n".format(name, note, "; ".join(places))
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", help="JSON that `palu bench attention` wrote")
    parser.add_argument("--out", help="the JSON with the baselines' columns added")
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md",
                        help="of what is printed")
    parser.add_argument("--print-only", action="store_true",
                        help="print a JSON that has the baselines; nothing is timed")
    options = parser.parse_args()
    with open(options.report, encoding="utf-8") as file:
        report = json.load(file)
    if report.get("benchmark") != "attention":
        sys.exit("baselines: {}: expected the JSON of palu bench attention".format(options.report))
    if not options.print_only:
        merge(report, *measure(report))
    elif "baselines" not in report:
        sys.exit("baselines: {}: expected a merged JSON".format(options.report))
    merged = json.dumps(report, indent=2) + "\n"
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(merged)
    if options.format == "csv":
        writer = csv.DictWriter(sys.stdout, report["rows"][0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(report["rows"])
    else:
        print(merged if options.format == "json" else markdown(report), end="")


if __name__ == "__main__":
    main()
