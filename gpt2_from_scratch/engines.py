"""Models of other inference engines as candidates: each becomes a function from ids to logits at every position.

`verify` judges such a function as it judges anybody's. The engines' packages are imported when a model needs one; none
of them is a dependency of this package.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from gpt2_from_scratch.building import Loaded
from gpt2_from_scratch.errors import CandidateError


@dataclass(frozen=True)
class _Engine:
    """An engine, and how a model is opened with it.

    Args:
        name: for people.
        package: to import.
        install: the name under which it is installed.
        load: takes the package and a path, and returns a function or a module from ids ``[B, T]`` to logits.
        rounds: where it rounds to float16 whatever the weights are; empty if it does not.
    """

    name: str
    package: str
    install: str
    load: Callable[[Any, Path], Any]
    rounds: str = ""


def is_engine_model(path: str | Path) -> bool:
    """Whether `load_engine_model` reads this: a file that exists, by how its name ends, or a folder by what is in it.

    Example:
        >>> is_engine_model("my_gpt2.py:model")
        False
    """
    return _model_of(Path(path).expanduser()) is not None


def load_engine_model(path: str | Path) -> Loaded:
    """Opens a model with the engine that it was made for.

    Args:
        path: an ONNX file, or a folder with a ``model.onnx`` (onnxruntime); the folder of a CTranslate2 model; a GGUF
            file (llama-cpp-python); a program saved by `torch.export.save`, ``.pt2``.

    Returns:
        The model as a candidate for `verify`. A program of torch.export is a torch module; the others are functions.

    Raises:
        CandidateError: there is no such model, the engine is not installed, or it cannot open the model.
    """
    found = _model_of(Path(path).expanduser())
    if found is None:
        raise CandidateError(
            f"{path} is not a model of an engine that is known here",
            hint="give a .onnx, .gguf or .pt2 file, or the folder of a CTranslate2 model",
        )
    engine, model = found
    try:
        package = importlib.import_module(engine.package)
    except ImportError as error:
        raise CandidateError(
            f"{model} is a model for {engine.name}, which cannot be imported: {error}",
            hint=f"pip install {engine.install}",
        ) from None
    try:
        opened = engine.load(package, model)
    except CandidateError:
        raise
    except Exception as error:  # each engine has errors of its own
        raise CandidateError(f"{engine.name} cannot open {model}: {error}") from None
    computed = f"{engine.name} {package.__version__}"
    notes = (f"computed by {computed}", *([engine.rounds] if engine.rounds else []))
    is_module = isinstance(opened, torch.nn.Module)
    arithmetic = torch.float16 if engine.rounds else None
    return Loaded(
        opened,
        notes=notes,
        file=model,
        engine="" if is_module else computed,
        arithmetic=arithmetic,
    )


def _model_of(path: Path) -> tuple[_Engine, Path] | None:
    """The engine of a model, and the file or folder that it opens."""
    if path.is_file():
        engine = _BY_SUFFIX.get(path.suffix)
        return None if engine is None else (engine, path)
    if (path / "model.onnx").is_file():
        return _ONNX, path / "model.onnx"
    if (path / "model.bin").is_file() and any(path.glob("vocabulary.*")):
        return _CTRANSLATE2, path
    return None


# What an export of GPT-2 may ask for beside the ids, by name -> value [B, T] from the ids. Keys and values of earlier
# tokens are empty.
_INPUTS: Mapping[str, Callable[[Any], Any]] = {
    "attention_mask": numpy.ones_like,
    "position_ids": lambda ids: numpy.broadcast_to(numpy.arange(ids.shape[1]), ids.shape),
    "token_type_ids": numpy.zeros_like,
    "use_cache_branch": lambda ids: numpy.zeros(1),
}
_TYPES = {
    "tensor(int64)": numpy.int64,
    "tensor(int32)": numpy.int32,
    "tensor(float)": numpy.float32,
    "tensor(float16)": numpy.float16,
    "tensor(bool)": numpy.bool_,
}


class OnnxModel:
    """An ONNX model in onnxruntime, on the CPU: ids ``[B, T]`` -> logits ``[B, T, V]``.

    Args:
        onnxruntime: the package.
        path: of the model.
    """

    def __init__(self, onnxruntime: Any, path: Path) -> None:
        self.__name__ = path.name  # what reports call it
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own optimisations
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        others = [each for each in inputs if each.name in _INPUTS or each.name.startswith("past")]
        ids = [each for each in inputs if each not in others]
        if len(ids) != 1 or any(each.type not in _TYPES for each in inputs):
            listed = ", ".join(f"{each.name} ({each.type})" for each in inputs)
            raise CandidateError(
                f"{path} must have one input for the ids; its inputs are {listed}",
                hint=f"export it with the ids, and if need be with {', '.join(_INPUTS)} and past_key_values",
            )
        self._ids, self._others = ids[0], others
        self._logits = next((each.name for each in outputs if each.name == "logits"), outputs[0].name)

    def __call__(self, ids: Tensor) -> Tensor:
        asked = ids.cpu().numpy()
        inputs: dict[str, Any] = {self._ids.name: asked.astype(_TYPES[self._ids.type])}
        for each in self._others:
            if each.name in _INPUTS:
                value = _INPUTS[each.name](asked)
            else:  # [B, H, earlier tokens, d]: the axes without a fixed size are the batch and the earlier tokens
                value = numpy.zeros(
                    [
                        len(asked) if not axis else size if isinstance(size, int) else 0
                        for axis, size in enumerate(each.shape)
                    ]
                )
            inputs[each.name] = value.astype(_TYPES[each.type])
        return torch.from_numpy(self._session.run([self._logits], inputs)[0])


class CTranslate2Model:
    """A CTranslate2 model on the CPU, in the precision it is stored in: ids ``[B, T]`` -> logits ``[B, T, V]``.

    Args:
        ctranslate2: the package.
        path: the model's folder.
    """

    def __init__(self, ctranslate2: Any, path: Path) -> None:
        self.__name__ = path.name
        self._package = ctranslate2
        self._generator = ctranslate2.Generator(str(path), device="cpu")

    def __call__(self, ids: Tensor) -> Tensor:
        view = self._package.StorageView.from_array
        lengths = numpy.full(ids.size(0), ids.size(1), dtype=numpy.int32)
        logits = self._generator.forward_batch(view(ids.cpu().int().numpy()), view(lengths))
        return torch.from_numpy(numpy.array(logits.to(self._package.DataType.float32)))


class LlamaCppModel:
    """A GGUF file in llama.cpp, on the CPU: ids ``[B, T]`` -> logits ``[B, T, V]``, one row after the other.

    Args:
        llama_cpp: the package.
        path: of the file.
    """

    def __init__(self, llama_cpp: Any, path: Path) -> None:
        self.__name__ = path.name
        # n_ctx=0 is the model's own context. By default it keeps keys and values in float16 only.
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=0,
            n_gpu_layers=0,
            logits_all=True,
            verbose=False,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
        )

    def __call__(self, ids: Tensor) -> Tensor:
        rows = []
        for row in ids.tolist():
            self._llama.reset()
            self._llama.eval(row)
            rows.append(torch.from_numpy(self._llama.scores[: len(row)].copy()))
        return torch.stack(rows)


_ONNX = _Engine("onnxruntime", "onnxruntime", "onnxruntime", OnnxModel)
_CTRANSLATE2 = _Engine("CTranslate2", "ctranslate2", "ctranslate2", CTranslate2Model)
_BY_SUFFIX: Mapping[str, _Engine] = {
    ".onnx": _ONNX,
    ".gguf": _Engine(
        "llama.cpp (llama-cpp-python)",
        "llama_cpp",
        "llama-cpp-python",
        LlamaCppModel,
        # `GGML_GELU_FP16` in ggml/src/ggml-cpu/vec.h
        rounds="llama.cpp looks GELU up in a table of float16 numbers: its logits are no more exact",
    ),
    ".pt2": _Engine("torch.export", "torch", "torch", lambda package, path: package.export.load(path).module()),
}
