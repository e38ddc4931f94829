#!/usr/bin/env python3
"""Checks the dependency rule of docs/architecture.md: a room includes only what stands below it."""
import pathlib
import re
import sys

# Rooms of one rank may not include one another, except themselves.
RANKS = [
    ["eval", "compress"],
    ["runtime", "format"],
    ["model"],
    ["ops"],
    ["linalg", "tokenizer", "io"],
    ["tensor"],
    ["base"],
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}

source = pathlib.Path(__file__).resolve().parent.parent / "src"
failures = []
for path in sorted(source.rglob("*")):
    if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
        continue
    room = path.relative_to(source).parts[0]
    for included in re.findall(r'^#include "([^"/]+)/', path.read_text(), re.MULTILINE):
        if included in RANK and included != room and RANK[included] <= RANK[room]:
            failures.append(f"{path.relative_to(source.parent)} includes {included}/")
print("\n".join(failures) or "includes keep the dependency rule")
sys.exit(1 if failures else 0)
