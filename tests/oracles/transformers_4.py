"""Hugging Face's older forms by the last transformers that wrote them: PyTorch pickles, TensorFlow 2 and Flax.

    python -m venv t4 && t4/bin/pip install transformers==4.57.6 torch tensorflow-cpu tf-keras jax flax
    t4/bin/python transformers_4.py             # writes the folders named below again, from files/source

Beside each model lies `logits.npy`, float32, what the class that saved it computes for `source.IDS`.

The committed files were written by transformers 4.57.6, PyTorch 2.13.0, TensorFlow 2.21.0, tf-keras 2.21.0, JAX 0.10.2,
Flax 0.12.8 and Python 3.11 on x86-64:

    torch_sharded      `pytorch_model-0000?-of-0000?.bin` and their index
    torch_legacy       `pytorch_model.bin` as a stream, as PyTorch wrote before 1.6, and so OpenAI's models on the Hub
    keras              `tf_model.h5`, compressed here, because HDF5's structure is seven times as large as its content
    keras_safetensors  `model.safetensors` with TensorFlow's names
    flax               `flax_model.msgpack`
    flax_bfloat16      the same, rounded
    flax_base          the same of `FlaxGPT2Model`, which has no head
    flax_untied        the same with a head of its own: twice the token embedding
"""

import gzip
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # these are read when TensorFlow and Keras are imported
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import tensorflow as tf
import torch
from jax import numpy as jnp
from source import FILES, IDS, SOURCE, weights
from transformers import FlaxGPT2LMHeadModel, FlaxGPT2Model, GPT2Config, GPT2LMHeadModel, TFGPT2LMHeadModel

# Two float32 programs differ by rounding, measured at most 8.3e-6 between these; a wrong weight moves logits by 1.
_SAME = 1e-4


def reference(untied: bool = False) -> GPT2LMHeadModel:
    config = GPT2Config.from_pretrained(SOURCE, tie_word_embeddings=not untied)
    model = GPT2LMHeadModel(config).eval()
    state = {f"transformer.{name}": torch.from_numpy(array) for name, array in weights().items()}
    head = state["transformer.wte.weight"] * (2 if untied else 1)
    model.load_state_dict(state | {"lm_head.weight": head})
    return model


def torch_logits(model: GPT2LMHeadModel) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def keep(folder: str, model: Any, logits: np.ndarray, expected: np.ndarray, atol: float = _SAME, **how: Any) -> None:
    """Saves a model, and its logits once they are seen to be those of the same weights in PyTorch."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)
    print(f"{folder}: logits differ from PyTorch's by up to {np.abs(logits - expected).max():.2g}")
    model.save_pretrained(FILES / folder, **how)
    np.save(FILES / folder / "logits.npy", logits.astype(np.float32))
    (FILES / folder / "generation_config.json").unlink(missing_ok=True)  # says nothing about weights


def write() -> None:
    ids = np.array(IDS)
    tied, untied = reference(), reference(untied=True)
    expected, expected_untied = torch_logits(tied), torch_logits(untied)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("tied", tied), ("untied", untied)):
            model.save_pretrained(Path(folder, name), safe_serialization=False)
        keras = TFGPT2LMHeadModel.from_pretrained(f"{folder}/tied", from_pt=True)
        flax, flax_untied = (
            FlaxGPT2LMHeadModel.from_pretrained(f"{folder}/{name}", from_pt=True) for name in ("tied", "untied")
        )
        base = FlaxGPT2Model.from_pretrained(f"{folder}/tied", from_pt=True)

    keep("torch_sharded", tied, expected, expected, safe_serialization=False, max_shard_size="16KB")
    keep("torch_legacy", tied, expected, expected, safe_serialization=False)
    path = FILES / "torch_legacy" / "pytorch_model.bin"
    torch.save(tied.state_dict(), path, _use_new_zipfile_serialization=False)

    logits = keras(tf.constant(ids)).logits.numpy()
    keep("keras", keras, logits, expected, safe_serialization=False)
    path = FILES / "keras" / "tf_model.h5"
    path.with_name("tf_model.h5.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    keep("keras_safetensors", keras, logits, expected, safe_serialization=True)

    logits = np.asarray(flax(ids).logits)
    keep("flax", flax, logits, expected)
    keep("flax_untied", flax_untied, np.asarray(flax_untied(ids).logits), expected_untied)
    hidden = np.asarray(base(ids).last_hidden_state)
    keep("flax_base", base, hidden @ weights()["wte.weight"].T, expected)
    flax.params = flax.to_bf16(flax.params)
    rounded = np.asarray(
        FlaxGPT2LMHeadModel(flax.config, dtype=jnp.float32)(ids, params=flax.to_fp32(flax.params)).logits
    )
    keep("flax_bfloat16", flax, rounded, expected, atol=1.0)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    write()
