"""Reads the small F64 tensors of a statistics file without any package."""
import json
import struct


def read_tensors(path):
    """Names to lists of numbers; Gram matrices are left out."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        base = 8 + length
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__" or name.endswith(".gram"):
                continue
            begin, end = entry["data_offsets"]
            file.seek(base + begin)
            tensors[name] = list(struct.unpack(f"<{(end - begin) // 8}d", file.read(end - begin)))
        return tensors
