"""Files and folders that people give by mistake, recognised so that the error can say what they are and what to do."""

import re
from pathlib import Path
from typing import NamedTuple

_SMALLEST = 10  # bytes of a safetensors file without tensors: a length and `{}`
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*")


class Mistake(NamedTuple):
    """What something is, as the end of a sentence, and what to do about it."""

    what: str
    remedy: str


# How a file begins -> what it is.
_BEGINNINGS: tuple[tuple[tuple[bytes, ...], Mistake], ...] = (
    (
        (b"version https://git-lfs.github.com/spec/v1",),
        Mistake("is a Git-LFS pointer, not the weights", "run `git lfs pull`, or download the file itself"),
    ),
    (
        (b"<!doctype", b"<html"),
        Mistake("is a web page, not weights", "use the file's download link (`/resolve/`, not `/blob/`)"),
    ),
    (
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        Mistake(
            "is a bare Python pickle, which is a program and no PyTorch checkpoint",
            "if it holds weights, write them with torch.save(model.state_dict(), ...)",
        ),
    ),
    # Other files of llm.c, by the numbers that they begin with: 20240327, 20240328, 20240520, 20240527.
    ((b"\xc7\xd74\x01",), Mistake("is a debug state of llm.c, not weights", "give the model's file")),
    ((b"\xc8\xd74\x01",), Mistake("is a tokenizer of llm.c, not weights", "give the model's file")),
    ((b"\x88\xd84\x01",), Mistake("is training data of llm.c, not weights", "give the model's file")),
    (
        (b"\x8f\xd84\x01",),
        Mistake("is a state of llm.c's optimizer, not weights", "give the model's file, `model_*.bin`"),
    ),
    (
        (b"lmgg", b"fmgg", b"tjgg", b"algg"),
        Mistake("is a ggml file from before GGUF", "convert the original model again"),
    ),
    (
        (b"\x93NUMPY",),
        Mistake("is one numpy array without a name", "save all weights with numpy.savez, by their names"),
    ),
    (
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\x28\xb5\x2f\xfd"),
        Mistake("is a compressed file, not weights", "unpack it, and give the model's file or folder"),
    ),
    ((b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), Mistake("is a picture or a document", "give the model's file")),
    ((b"#version",), Mistake("is a list of merges, a tokenizer's file", "give the model's file, or its folder")),
)
_DISTRIBUTED = Mistake(
    "is a part of a distributed checkpoint of PyTorch (DCP)", "give the folder, in which .metadata says what is where"
)


def file_mistake(head: bytes, path: Path) -> Mistake:
    """Names a file that is in none of the known forms.

    Args:
        head: its first bytes.
        path: where it is.
    """
    if path.suffix == ".distcp" or path.name == ".metadata":
        return _DISTRIBUTED
    if not head:
        return Mistake("is empty (0 bytes)", "fetch it again")
    if len(head) < _SMALLEST:
        return Mistake(f"is cut short: {len(head)} bytes are no weights", "fetch it again")
    for starts, mistake in _BEGINNINGS:
        if head.lstrip().lower().startswith(tuple(start.lower() for start in starts)):
            return mistake
    known = "safetensors, PyTorch, GGUF, llm.c, TensorFlow, Flax, ONNX and numpy files are recognised by their content"
    start = f"starts with {head[:12]!r}"
    if _TEXT.fullmatch(head):
        kind = "JSON" if head.lstrip()[:1] == b"{" else "text"
        remedy = "give the weights' file, or the folder it is in"
        return Mistake(f"is in no form that is known: it is {kind}, and {start}", remedy)
    return Mistake(f"is in no form that is known: it {start}", known)


def folder_mistake(folder: Path) -> Mistake | None:
    """Names a folder that other programs write and that has no GPT-2 checkpoint in it itself; None if it is none.

    Args:
        folder: one in which no weights were found.
    """
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        return Mistake(
            "holds a PEFT adapter, not a whole model",
            "merge it: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained('merged')",
        )
    if any(name.endswith(".distcp") for name in names):
        return Mistake(
            "has files of a distributed checkpoint of PyTorch (DCP) without their .metadata",
            "copy or save it again: .metadata is written last, when everything else is on disk",
        )
    if "zero_to_fp32.py" in names:
        return Mistake(
            "is a DeepSpeed checkpoint without the folder of states that its file `latest` names", "copy all of it"
        )
    steps = sorted((int(name.partition("-")[2]), name) for name in names if re.fullmatch(r"checkpoint-\d{1,9}", name))
    if steps:
        return Mistake(
            "holds the checkpoints of a training run", f"give one of them: {folder / steps[-1][1]} is the last"
        )
    if snapshots := sorted(folder.glob("snapshots/*/config.json")):
        return Mistake("is the Hub's cache of one repository", f"give {snapshots[-1].parent}")
    if models := sorted(name for name in names if name.startswith("models--")):
        ids = ", ".join(name.removeprefix("models--").replace("--", "/") for name in models[:8])
        return Mistake("is the Hub's cache", f"give a repository's id: {ids}")
    return None
