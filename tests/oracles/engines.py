"""Files of inference engines, by those whose form it is: our readers are tested with them.

    python -m venv engines && engines/bin/pip install torch transformers onnx onnxscript ctranslate2
    engines/bin/python engines.py     # writes the folders files/onnx* and files/ctranslate2* again, from files/source

The committed files were written by ONNX 1.23.2, CTranslate2 4.8.5, torch 2.13.0, transformers 5.23.0 and Python 3.11 on
x86-64:

    onnx            all weights are initialisers inside the graph, under Hugging Face's names
    onnx_external   the same, but matrices are in a file beside it, as ONNX's own `save` places them
    onnx_exported   the graph that `torch.onnx.export` makes of transformers' model, without its remarks for people;
                    what is larger than 256 bytes is in a file beside it
    ctranslate2         float32, by CTranslate2's own converter; `logits.npy` is what its engine computes
    ctranslate2_int8    the same, quantised; the engine computes with the weights as float32
    ctranslate2_int16   the same
    ctranslate2_float16 the weights only: CPUs have no float16 engine
"""

import shutil
from pathlib import Path

import ctranslate2
import numpy as np
import onnx
import torch
from ctranslate2.converters.transformers import GPT2Loader
from onnx import helper, numpy_helper
from source import FILES, IDS, SIZES, SOURCE, weights
from transformers import GPT2LMHeadModel


class Logits(torch.nn.Module):
    """The model from ids to logits, without what transformers returns beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel.from_pretrained(SOURCE, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, use_cache=False).logits


def folder(name: str) -> Path:
    """An empty one, but for the configuration."""
    shutil.rmtree(FILES / name, ignore_errors=True)
    (FILES / name).mkdir()
    shutil.copy(SOURCE / "config.json", FILES / name)
    return FILES / name


def write_onnx() -> None:
    initialisers = [numpy_helper.from_array(array, f"transformer.{name}") for name, array in weights().items()]
    output = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([], "gpt2", [], [output], initialisers), producer_name="oracle")
    onnx.save(model, folder("onnx") / "model.onnx")
    outside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 100}
    onnx.save(model, folder("onnx_external") / "model.onnx", **outside)


def export_onnx() -> None:
    path = folder("onnx_exported") / "model.onnx"
    length = {1: torch.export.Dim("length", min=2, max=11)}
    torch.onnx.export(Logits(), (torch.tensor([[1, 2, 3]]),), path, dynamic_shapes={"input_ids": length}, dynamo=True)
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:  # a stack trace for each: 98 % of the file
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:], model.graph.metadata_props[:], model.functions[:]
    path.write_bytes(model.SerializeToString())


def write_ctranslate2(kind: str) -> None:
    model = GPT2LMHeadModel.from_pretrained(SOURCE)
    spec = GPT2Loader().get_model_spec(model)
    tokens = [f"t{number}" for number in range(SIZES["vocab_size"])]
    spec.register_vocabulary(tokens)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = tokens[29], tokens[30], tokens[30]
    spec.validate()
    spec.optimize(quantization=kind or None)
    path = FILES / "_".join(filter(None, ["ctranslate2", kind]))
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    spec.save(str(path))  # its own config.json, which says little
    if kind != "float16":
        engine = ctranslate2.Generator(str(path), compute_type="float32")
        logits = engine.forward_batch([[tokens[number] for number in row] for row in IDS], return_log_probs=False)
        np.save(path / "logits.npy", np.array(logits))


if __name__ == "__main__":
    write_onnx()
    export_onnx()
    for kind in ("", "int8", "int16", "float16"):
        write_ctranslate2(kind)
