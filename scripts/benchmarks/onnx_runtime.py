"""GPT-2 for ONNX Runtime: the graph, written node by node, and the loop that runs it.

The weights are those of the checkpoint's own safetensors file, which the graph names with their offsets: nothing is
converted, so nothing can be converted wrongly. Attention with its cache is one standard operator (opset 23).
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPSET = 23  # the first with Attention

WEIGHTS = "model.safetensors"


def as_onnx(source: Path, folder: Path) -> Path:
    """Writes the graph beside a link to the weights; returns the directory."""
    import onnx

    target = folder / f"{source.name}.onnx"
    if (target / "model.onnx").exists():
        return target
    target.mkdir(exist_ok=True)
    weights = target / WEIGHTS
    weights.unlink(missing_ok=True)
    try:
        os.link(source / WEIGHTS, weights)
    except OSError:  # another disk
        shutil.copy(source / WEIGHTS, weights)
    onnx.save(graph(json.loads((source / "config.json").read_text()), weights), target / "model.onnx")
    return target


def graph(config: dict[str, Any], weights: Path) -> Any:
    """``input_ids, position_ids [B, T]`` and the cache ``[B, H, S, d]`` to the last logits ``[B, V]`` and the cache."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    layers, heads, width = config["n_layer"], config["n_head"], config["n_embd"]

    def node(operator: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"{operator}_{len(nodes)}_{i}" for i in range(outputs)]
        nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def norm(x: str, name: str) -> str:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return node("LayerNormalization", inputs, epsilon=config["layer_norm_epsilon"])[0]

    def linear(x: str, name: str) -> str:
        return node("Add", [node("MatMul", [x, f"{name}.weight"])[0], f"{name}.bias"])[0]

    constants = [helper.make_tensor("last", TensorProto.INT64, [], [-1])]
    embedded = [node("Gather", ["wte.weight", "input_ids"])[0], node("Gather", ["wpe.weight", "position_ids"])[0]]
    (x,) = node("Add", embedded)
    kept: list[str] = []
    for layer in range(layers):
        q, k, v = node(
            "Split", [linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn")], 3, axis=-1, num_outputs=3
        )
        mixed, keys, values = node(
            "Attention",
            [q, k, v, "", f"keys.{layer}", f"values.{layer}"],
            3,
            is_causal=1,
            q_num_heads=heads,
            kv_num_heads=heads,
        )
        kept += [keys, values]
        (x,) = node("Add", [x, linear(mixed, f"h.{layer}.attn.c_proj")])
        inner = node("Gelu", [linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")], approximate="tanh")[0]
        (x,) = node("Add", [x, linear(inner, f"h.{layer}.mlp.c_proj")])
    (end,) = node("Gather", [norm(x, "ln_f"), "last"], axis=1)
    (logits,) = node("Gemm", [end, "wte.weight"], transB=1)

    def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    ids = [value(name, ["B", "T"], TensorProto.INT64) for name in ("input_ids", "position_ids")]
    past = ["B", heads, "S", width // heads]
    caches = [value(f"{name}.{layer}", past) for layer in range(layers) for name in ("keys", "values")]
    outputs = [
        value(logits, ["B", config["vocab_size"]]),
        *(value(name, ["B", heads, "all", width // heads]) for name in kept),
    ]
    made = helper.make_graph(nodes, "gpt2", [*ids, *caches], outputs, [*constants, *initializers(weights)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)])


def initializers(weights: Path) -> Iterator[Any]:
    """The file's tensors, as ONNX names what lies elsewhere."""
    from onnx import StringStringEntryProto, TensorProto

    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        where = {"location": WEIGHTS, "offset": str(8 + length + start), "length": str(end - start)}
        yield TensorProto(
            name=name.removeprefix("transformer."),
            dims=entry["shape"],
            data_type={"F32": TensorProto.FLOAT}[entry["dtype"]],
            data_location=TensorProto.EXTERNAL,
            external_data=[StringStringEntryProto(key=key, value=text) for key, text in where.items()],
        )


class OnnxRuntime:
    """`generate` keeps the cache as ONNX Runtime's own values: they are not copied between steps."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.past = self.session.get_inputs()[-1].shape

    def prefill(self, ids: Any) -> Any:
        return self._step(ids.numpy(), 0, self._empty(len(ids)))[0].numpy()

    def generate(self, ids: Any, new: int, on_step: Any) -> list[list[int]]:
        import numpy as np

        chosen, past, cache = ids.numpy(), 0, self._empty(len(ids))
        steps: list[Any] = []
        for _ in range(new):
            logits, *cache = self._step(chosen, past, cache)
            past += chosen.shape[1]
            chosen = logits.numpy().argmax(axis=-1)[:, None]
            steps.append(chosen)
            on_step()
        rows: list[list[int]] = np.concatenate(steps, axis=1).tolist()
        return rows

    def _empty(self, batch: int) -> list[Any]:
        import numpy as np
        import onnxruntime

        none = np.zeros((batch, self.past[1], 0, self.past[3]), np.float32)
        return [onnxruntime.OrtValue.ortvalue_from_numpy(none) for _ in self.inputs[2:]]

    def _step(self, ids: Any, past: int, cache: list[Any]) -> Any:
        import numpy as np
        import onnxruntime

        positions = np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in (ids, positions)]
        feed = dict(zip(self.inputs, [*values, *cache], strict=True))
        return self.session.run_with_ort_values(self.outputs, feed)
