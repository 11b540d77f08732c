"""The page of all faults, written from the table by ``python -m gpt2_from_scratch.diagnose``."""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.diagnosis import in_words_of
from gpt2_from_scratch.diagnose.fault import Fault, Remedy
from gpt2_from_scratch.diagnose.table import attention, formulas, weights, wiring

_CONFIG = GPTConfig()

# Faults that are recognised without being tried.
_ELSEWHERE = {
    "lm_head_not_tied": "`lm_head`",
    "lm_head_bias": "`lm_head`",
    "logits_scaled": "`lm_head`",
    "tensors_differ": "the module that has them",
    "inverse_layer_idx_ignored": "`h.*.attn`",
    "dropout_on": "wherever dropout is",
}

_CHAPTERS = (
    ("Loading", weights.FAULTS),
    ("LayerNorm", formulas.NORM_FAULTS),
    ("Activation", formulas.ACTIVATION_FAULTS),
    ("Scale of the scores, heads of another number", attention.SCALE_FAULTS),
    ("Mask and softmax", attention.MASK_FAULTS),
    ("Cutting heads out and putting them back", attention.HEAD_FAULTS),
    ("Shortcuts, and the place of LayerNorm", wiring.BLOCK_FAULTS),
    ("Embeddings and positions", wiring.EMBEDDING_FAULTS),
    ("After the last block", wiring.HEAD_FAULTS),
)


def page() -> str:
    """The page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    count = sum(len(faults) for _, faults in _CHAPTERS)
    yield "# What goes wrong in a GPT-2 written by hand"
    yield ""
    yield f"All {count} faults that `gpt2 verify` can name. It names one only when our own model, with that fault in"
    yield "it, gives the wrong numbers that yours gives. This page is written from `table/`, by"
    yield "`python -m gpt2_from_scratch.diagnose`."
    for title, faults in _CHAPTERS:
        yield ""
        yield f"## {title}"
        for fault in faults:
            yield ""
            yield f"**`{fault.name}`** {_sentence(fault)}."
            yield ""
            yield f"* You see: {fault.symptom}"
            yield f"* First wrong in: {_where(fault)}"
            yield f"* Fix: {_remedy(fault.remedy)}"
            for layout, remedy in fault.remedies.items():
                yield f"* Fix, in {layout}: {_remedy(remedy)}"
            yield f"* Source: {fault.source}"


def _sentence(fault: Fault) -> str:
    return _capital(fault.says.format(value="another value", config=_CONFIG))


def _where(fault: Fault) -> str:
    cause = next(fault.causes(_CONFIG), None)
    paths = [path for pairs in cause.changes(_CONFIG).values() for path, _ in pairs] if cause is not None else []
    places = dict.fromkeys(re.sub(r"^h\.\d+", "h.*", path.rpartition(".")[0]) for path in paths)
    return f"`{next(iter(places))}`" if places else _ELSEWHERE[fault.name]


def _remedy(remedy: Remedy) -> str:
    text, code = (in_words_of(None, part, _CONFIG) for part in (remedy.text, remedy.code))
    return _code_free(text) + (f": `{code}`" if code else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code_free(text: str) -> str:
    """Stars in names of layers are no emphasis."""
    return text.replace("*", r"\*").replace("_", r"\_")


if __name__ == "__main__":
    (Path(__file__).parent / "FAULTS.md").write_text(page(), encoding="utf-8")
