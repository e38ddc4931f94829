#!/usr/bin/env python3
"""How many singular vectors keep their sign from one decomposition of W L to another: routines,
precisions, orientations and libraries of LAPACK.

    scripts/svd_signs.py STATS MODEL [--vectors 128] [--mkl libmkl_rt.so]

STATS is a statistics file (palu compress MODEL OUT --calib TEXT --stats STATS). Needs numpy and scipy;
--mkl adds Intel's library (the package mkl of PyPI). Every figure is the mean over all key and value
projections, one group each, of the share of leading right singular vectors whose sign is that of
dgesdd on the matrix itself in scipy's LAPACK.
"""
import argparse
import ctypes
import json
import pathlib

import numpy as np
from scipy.linalg import lapack

from budget_ideas import read_safetensors


def read_grams(path):
    """Per layer, sum of x x^T."""
    raw = np.fromfile(path, np.uint8)
    base = 8 + int(raw[:8].view("<u8")[0])
    grams = {}
    for name, entry in json.loads(raw[8:base].tobytes()).items():
        if not name.endswith(".gram"):
            continue
        begin, end = (base + offset for offset in entry["data_offsets"])
        packed = raw[begin:end].copy().view("<f8")
        size = int((2 * packed.size) ** 0.5)
        gram = np.zeros((size, size))
        gram[np.tril_indices(size)] = packed
        grams[int(name.split(".")[1])] = gram + np.tril(gram, -1).T
    return [grams[layer] for layer in sorted(grams)]


class Mkl:
    def __init__(self, library):
        self.library = ctypes.CDLL(library)

    def right_vectors(self, matrix, dtype):
        """gesdd of a column-major copy, thin."""
        a = np.array(matrix, dtype, order="F")
        rows, columns = a.shape
        rank = min(rows, columns)
        u = np.zeros((rows, rank), dtype, order="F")
        vt = np.zeros((rank, columns), dtype, order="F")
        singular, integers = np.zeros(rank, dtype), np.zeros(8 * rank, np.int32)
        call = self.library.sgesdd_ if dtype == np.float32 else self.library.dgesdd_
        work, info = np.zeros(1, dtype), ctypes.c_int(0)

        def number(value):
            return ctypes.byref(ctypes.c_int(value))

        def pointer(array):
            return array.ctypes.data_as(ctypes.c_void_p)

        for size in (-1, None):  # asks for the size of the work space, then works
            if size is None:
                size = int(work[0])
                work = np.zeros(size, dtype)
            call(ctypes.c_char_p(b"S"), number(rows), number(columns), pointer(a), number(rows),
                 pointer(singular), pointer(u), number(rows), pointer(vt), number(rank),
                 pointer(work), number(size), pointer(integers), ctypes.byref(info))
            if info.value != 0:
                raise SystemExit(f"gesdd returned {info.value}")
        return vt


def decompositions(weight, factor, mkl):
    """Names to functions that give the right singular vectors of weight @ factor by rows."""
    exact = weight @ factor
    single = weight.astype(np.float32) @ factor.astype(np.float32)
    ways = {
        "float32": lambda: lapack.sgesdd(single, full_matrices=0)[2],
        "transposed": lambda: lapack.dgesdd(exact.T, full_matrices=0)[0].T,
        "transposed, float32": lambda: lapack.sgesdd(single.T, full_matrices=0)[0].T,
        "gesvd": lambda: lapack.dgesvd(exact, full_matrices=0)[2],
    }
    if mkl is not None:
        ways["MKL"] = lambda: mkl.right_vectors(exact, np.float64)
        ways["MKL, float32"] = lambda: mkl.right_vectors(single, np.float32)
    return lapack.dgesdd(exact, full_matrices=0)[2], ways


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stats", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--vectors", type=int, default=128)
    parser.add_argument("--mkl", help="library with MKL's LAPACK")
    options = parser.parse_args()
    mkl = Mkl(options.mkl) if options.mkl else None
    weights = read_safetensors(options.model / "model.safetensors")
    shares = {}
    for layer, gram in enumerate(read_grams(options.stats)):
        factor = np.linalg.cholesky(gram)
        for side in "kv":
            weight = weights[f"model.layers.{layer}.self_attn.{side}_proj.weight"]
            expected, ways = decompositions(weight.astype(np.float64), factor, mkl)
            for name, vectors in ways.items():
                products = np.sum(vectors()[:options.vectors] * expected[:options.vectors], axis=1)
                shares.setdefault(name, []).append(np.mean(products > 0))
    print("| " + " | ".join(shares) + " |")
    print("|" + "---|" * len(shares))
    print("| " + " | ".join(f"{100 * np.mean(share):.0f} %" for share in shares.values()) + " |")


if __name__ == "__main__":
    main()
