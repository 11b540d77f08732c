"""The table of speed and memory in `BENCH.md`, from results that `--save` has gathered: written between two marks.

One row per claim, one column per size. Results of different machines or versions do not go into one table.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench: written by `python scripts/bench.py readme` -->", "<!-- /bench -->"

PREFILL, BATCH = "512", "16"  # the points of the curves that are claims

Results = dict[str, dict[str, Any]]  # bench -> size -> what it found


def write(results: Path, readme: Path) -> None:
    """Replaces what stands between the marks, and prints it."""
    found, environment = gathered(results)
    table = rendered(found, environment)
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"{readme} must have these two lines once, in this order:\n{BEGIN}\n{END}")
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")
    print(table)


def gathered(results: Path) -> tuple[Results, dict[str, Any]]:
    """Everything by bench and size, the latest of each, and where it was measured."""
    found: Results = {}
    environment: dict[str, Any] = {}
    for line in results.read_text().splitlines():
        document = json.loads(line)
        changed = {
            key: (environment[key], value)
            for key, value in document["environment"].items()
            if environment.get(key, value) != value
        }
        if changed:
            sys.exit(f"{results} mixes results of different environments, {changed}: keep one file for each")
        environment |= document["environment"]
        found.setdefault(document["bench"], {}).update(document["medians"])
    return found, environment


def rendered(found: Results, environment: Mapping[str, Any]) -> str:
    """A paragraph and a table, in Markdown."""
    sizes = sorted({size for by_size in found.values() for size in by_size}, key=lambda size: (len(size), size))
    table: dict[str, dict[str, str]] = {}
    for size in sizes:
        for title, cell in cells({bench: by_size[size] for bench, by_size in found.items() if size in by_size}):
            table.setdefault(title, {})[size] = cell
    lines = [f"| | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(row.get(size, '') for size in sizes)} |" for title, row in table.items()]
    return f"{introduction(found, environment)}\n\n" + "\n".join(lines)


def introduction(found: Results, environment: Mapping[str, Any]) -> str:
    names = {
        "torch": "torch",
        "transformers": "transformers",
        "ctranslate2": "CTranslate2",
        "onnxruntime": "ONNX Runtime",
    }
    versions = ", ".join(f"{name} {environment[key]}" for key, name in names.items() if environment.get(key))
    limits = (
        [f"reads {max(r['bytes/s'] for r in found['decode'].values()) / 1e9:.0f} GB/s"] if "decode" in found else []
    )
    if "prefill" in found:
        rate = max(result["FLOP/s"]["float32"] for result in found["prefill"].values())
        limits.append(f"multiplies float32 matrices at {rate / 1e9:.0f} GFLOP/s")
    allowed = f" It {' and '.join(limits)}, measured in the same runs: the limits below." if limits else ""
    return (
        f"{environment['processor']}, {environment['cores']} cores, {environment['threads']} threads; {versions}. "
        f"Synthetic weights, float32 unless said; contenders take turns, medians.{allowed}"
    )


def cells(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and text of each row, for one size."""
    if load := found.get("load", {}).get("huggingface"):
        ours, peer, bare = (load[name]["seconds"] for name in ("ours", "transformers", "safetensors map"))
        shares = f"{peer / ours:.1f} x transformers, {bare / ours:.2f} x a bare safetensors map"
        yield "`from_pretrained`", f"{ours * 1e3:.0f} ms, {shares}"
    if first := found.get("first-token"):
        ours = first["rows"]["ours"]
        share = f", {ours['of transformers']:.2f} of transformers' time" if "of transformers" in ours else ""
        yield "cold process to first token", f"{ours['seconds']:.2f} s{share}"
    if decode := found.get("decode"):
        for name, row in own(decode["rows"]):
            yield (
                f"decode, one text{name}",
                f"{row['tokens/s']:.0f} tokens/s, {row['share']:.0%} of the limit{times_(row)}",
            )
            # A line through two points says nothing.
            if name == ", fused" and "slope" in row and len(decode["seconds by context"]) > 2:
                grows = f"{row['intercept'] * 1e3:.1f} ms + {row['slope'] * 1e6:.1f} ms per 1,000 tokens of context"
                yield f"time of a token{name}", f"{grows} (R² {row['straight']:.2f})"
    if prefill := found.get("prefill", {}).get("rows by length", {}).get(PREFILL):
        for name, row in own(prefill):
            if "generate()" in name:  # a prompt by itself is read as the model was loaded
                continue
            text = f"{row['tokens/s']:.0f} tokens/s, {row['share']:.0%} of the limit{times_(row)}"
            yield f"prompt of {PREFILL} tokens{name}", text
    if batch := found.get("batch", {}).get("rows by batch", {}).get(BATCH):
        for name, row in own(batch):
            yield f"decode, {BATCH} texts{name}", f"{row['tokens/s']:.0f} tokens/s{times_(row)}"
    if memory := found.get("memory"):
        ours = memory["rows"]["ours"]
        for key, title in (("anonymous", "memory beside the file, generating"), ("peak", "peak memory, generating")):
            share = f", {ours[f'{key} x transformers']:.2f} of transformers'" if f"{key} x transformers" in ours else ""
            yield title, f"{ours[key] / 1e6:.0f} MB{share}"
    for work, title in (("diagnosis", "a line named and proven in somebody's module"), ("map", "its layout found")):
        if cost := found.get("own-code", {}).get(work):
            yield title, f"{cost['passes']:.0f} float64 passes over 47 tokens, peak {cost['peak'] / 1e6:.0f} MB"
    if growth := found.get("verify", {}).get("growth"):
        grows = f"{growth['intercept']:.1f} s + {growth['slope'] * 1e3:.1f} s per 1,000 tokens of prompts"
        yield "`verify`", f"{grows} (R² {growth['straight']:.3f})"


def own(rows: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The rows of this package, ", packed" of "ours, packed"; of 16 bits only those, which `pack` is for."""
    mine = {name.removeprefix("ours"): row for name, row in rows.items() if name.partition(",")[0] == "ours"}
    return ((name, row) for name, row in mine.items() if "bfloat16" not in name or "packed" in name)


def times_(row: Mapping[str, float]) -> str:
    return "".join(f", {value:.2f} {key}" for key, value in row.items() if key.startswith("x "))
