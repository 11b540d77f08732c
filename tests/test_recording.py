"""Recordings: a port in another language answers from a file, and a file is never believed before it is checked."""

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2_from_scratch import CandidateError, CheckpointError, GPTModel, verify
from gpt2_from_scratch.checks.prompts import Prompt, choose_prompts
from gpt2_from_scratch.checks.recording import read_recording, record
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.verifier import recorded_prompts
from tests.remembering import Remembering

ENDINGS = (".safetensors", ".npz")


def load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return {name: torch.from_numpy(array) for name, array in numpy.load(path).items()}


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        numpy.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path


@pytest.fixture
def answer(book_reference: Remembering, tmp_path: Path) -> Callable[..., Path]:
    """Writes prompts, lets the reference answer, changes the file as the test says, and returns it."""

    def write(
        change: Callable[[dict[str, Tensor]], object] = lambda tensors: None, ending: str = ".safetensors"
    ) -> Path:
        path = tmp_path / f"answers{ending}"
        record(choose_prompts(book_reference.config), path)
        tensors = load(path)
        for index in range(len(tensors)):
            tensors[f"logits.{index}"] = book_reference.logits(tensors[f"ids.{index}"]).clone()
        change(tensors)
        return save(path, tensors)

    return write


def read(path: Path, reference: Remembering) -> object:
    return read_recording(path, reference.config, choose_prompts(reference.config))


@pytest.mark.parametrize("ending", ENDINGS)
def test_right_answers_pass(
    ending: str, answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    verdict = verify(read(answer(ending=ending), book_reference), book_checkpoint, reference=book_reference)
    assert verdict and verdict.logits is not None and verdict.logits.max_abs == 0
    assert verdict.candidate == f"the recording answers{ending}"
    assert len(verdict.logits.results) == 6, "every prompt"
    report = verdict.report()
    for unchecked in (
        "weights: the candidate is a recording",
        "self-tests: a recording cannot be asked anything else",
        "generation: a recording cannot be continued",
    ):
        assert f"unchecked   {unchecked}" in report


@pytest.mark.parametrize("ending", ENDINGS)
def test_wrong_answers_fail(
    ending: str, answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    path = answer(lambda tensors: tensors["logits.3"][0, 20].add_(torch.linspace(0, 1e-3, 211)), ending)
    verdict = verify(read(path, book_reference), book_checkpoint, reference=book_reference)
    assert not verdict and verdict.logits is not None
    assert verdict.logits.worst.prompt.name.startswith("ids.3, 1 x 37")
    assert verdict.logits.worst.comparison.at == (0, 20, 210)


def test_without_ids_the_standard_prompts_are_meant(
    answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    path = answer(lambda tensors: [tensors.pop(f"ids.{index}") for index in range(5)])
    verdict = verify(read(path, book_reference), book_checkpoint, reference=book_reference)
    assert (
        verdict
        and verdict.logits is not None
        and verdict.logits.worst.prompt.name in {prompt.name for prompt in choose_prompts(book_reference.config)}
    )


def test_other_prompts_may_be_asked(book_reference: Remembering, book_checkpoint: Path, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 9, 200]], dtype=torch.int32)
    path = save(tmp_path / "own.npz", {"ids.0": ids, "logits.0": book_reference.logits(ids.long())})
    verdict = verify(read(path, book_reference), book_checkpoint, reference=book_reference)
    assert verdict and verdict.logits is not None and verdict.logits.tokens == 3


def test_answers_in_float16_are_judged_as_such(
    answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    def narrow(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items() if "logits" in name})

    verdict = verify(read(answer(narrow), book_reference), book_checkpoint, reference=book_reference)
    assert verdict and verdict.logits is not None and verdict.logits.dtype == torch.float16


def test_a_padded_vocabulary_is_cut(
    answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    def pad(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "logits" in name]:
            tensors[name] = torch.nn.functional.pad(tensors[name], (0, 5))

    verdict = verify(read(answer(pad), book_reference), book_checkpoint, reference=book_reference)
    assert verdict and "5 columns beyond the vocabulary of 211 are not compared" in verdict.report()


REFUSED: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "an answer missing": (lambda t: t.pop("logits.2"), r"lacks logits\.2\n  hint: write the logits .* it holds ids\.0"),
    "no answer": (lambda t: [t.pop(f"logits.{i}") for i in range(5)], r"lacks logits\.0, logits\.1, .*logits\.4"),
    "another shape": (
        lambda t: t.update({"logits.1": t["logits.1"][:, :1]}),
        r"logits\.1 is \[1, 1, 211\], .*\[1, 2\]",
    ),
    "a prompt missing": (lambda t: t.pop("ids.3"), r"holds .*ids\.4.*, to which there is no prompt"),
    "an answer too many": (
        lambda t: t.update({"logits.6": t["logits.0"] + 1}),
        r"holds logits\.6, to which there is no",
    ),
    "an id too large": (
        lambda t: t["ids.0"].fill_(211),
        r"ids\.0 does not fit .* ids 211 to 211; .* vocabulary of 211",
    ),
    "a negative id": (lambda t: t["ids.1"].fill_(-1), r"ids\.1 does not fit .* ids -1 to -1"),
    "a prompt too long": (
        lambda t: t.update({"ids.0": torch.zeros(1, 38, dtype=torch.int64)}),
        r"ids\.0 does not fit the checkpoint: 38 tokens, .* it has 37 positions",
    ),
    "ids that are no integers": (lambda t: t.update({"ids.0": t["ids.0"].float()}), r"ids\.0 is torch\.float32"),
    "ids without a batch": (lambda t: t.update({"ids.0": t["ids.0"][0]}), r"ids\.0 is torch\.int64 \[1\], not int64"),
    "no ids at all in a prompt": (lambda t: t.update({"ids.0": t["ids.0"][:, :0]}), r"ids\.0 is torch\.int64 \[1, 0\]"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(
    what: str, ending: str, answer: Callable[..., Path], book_reference: Remembering
) -> None:
    change, message = REFUSED[what]
    with pytest.raises(CandidateError, match=message):
        read(answer(change, ending), book_reference)


def test_logits_that_are_no_numbers_are_no_pass(
    answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    verdict = verify(
        read(answer(lambda t: t["logits.0"].fill_(torch.nan)), book_reference),
        book_checkpoint,
        reference=book_reference,
    )
    assert not verdict and "not finite" in verdict.summary
    integers = answer(lambda t: t.update({"logits.0": t["logits.0"].long()}))
    with pytest.raises(CandidateError, match="expected floating-point logits"):
        verify(read(integers, book_reference), book_checkpoint, reference=book_reference)


class Hostile:
    """Its pickle, once loaded, makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.made), "w")


@pytest.mark.parametrize("name", ["absent.npz", "text.npz", "text.safetensors", "pickle.npz", "object.npz", "bomb.npz"])
def test_a_file_that_is_no_recording_is_refused(name: str, book_reference: Remembering, tmp_path: Path) -> None:
    path = tmp_path / name
    made = tmp_path / "made"
    if name.startswith("text"):
        path.write_text("logits.0: 1.5")
    elif name.startswith("pickle"):
        path.write_bytes(pickle.dumps(Hostile(made)))
    elif name.startswith("object"):
        numpy.savez(path, **{"logits.0": numpy.array([Hostile(made)], dtype=object)})
    elif name.startswith("bomb"):
        header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
        shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("logits.0.npy", header + shape.ljust(117).encode() + b"\n")
    with pytest.raises((CandidateError, CheckpointError)) as error:
        read(path, book_reference)
    assert name in str(error.value)
    assert not made.exists(), "nothing in the file was run"


def test_prompts_are_written_for_two_kinds_of_files(tmp_path: Path) -> None:
    prompts = [Prompt("one", torch.tensor([[1, 2]])), Prompt("two", torch.arange(6).view(3, 2).t())]
    for ending in ENDINGS:
        record(prompts, tmp_path / f"prompts{ending}")
        tensors = load(tmp_path / f"prompts{ending}")
        assert list(tensors) == ["ids.0", "ids.1"]
        assert all(torch.equal(tensors[f"ids.{i}"], prompt.ids) for i, prompt in enumerate(prompts))
    with pytest.raises(CandidateError, match=r"ends in neither \.safetensors nor \.npz"):
        record(prompts, tmp_path / "prompts.json")
    with pytest.raises(CandidateError, match=r"the folder .* does not exist"):
        record(prompts, tmp_path / "absent" / "prompts.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.npz", "prompts.safetensors"]


# ----------------------------------------------------------------------------------------------------- diagnosis


def answered(model: Callable[[Tensor], Tensor], path: Path, prompts: Sequence[Prompt]) -> Path:
    """What a port writes: the logits of a model for every prompt in the file."""
    record(prompts, path)
    tensors = load(path)
    with torch.inference_mode():
        tensors |= {name.replace("ids", "logits"): model(ids).clone() for name, ids in tensors.items()}
    return save(path, tensors)


def tanh_to_erf(model: GPTModel) -> None:
    for block in model.h:
        block.mlp.act = torch.nn.GELU()


def no_scale(model: GPTModel) -> None:
    for block in model.h:
        block.attn.scale = 1.0


def own_head(model: GPTModel) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = model.wte.weight
    model.lm_head.weight = torch.nn.Parameter(torch.randn(weight.shape, generator=generator))


BUGS: dict[str, tuple[Callable[[GPTModel], None], str]] = {
    "erf GELU": (tanh_to_erf, "gelu_erf"),
    "no attention scale": (no_scale, "no_scale"),
    "a head of its own": (own_head, "lm_head_not_tied"),
}


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=pytest.mark.slow if bug == "a head of its own" else ()) for bug in BUGS]
)
def test_the_fault_of_a_recording_is_named(
    bug: str, book_reference: Remembering, book_checkpoint: Path, tmp_path: Path
) -> None:
    change, fault = BUGS[bug]
    model = GPTModel.from_pretrained(book_checkpoint)
    change(model)
    prompts = recorded_prompts(open_checkpoint(book_checkpoint))
    path = answered(model, tmp_path / "port.npz", prompts)
    verdict = verify(read(path, book_reference), book_checkpoint, diagnose_seconds=200, reference=book_reference)
    assert not verdict and verdict.diagnosis is not None
    assert [finding.name for finding in verdict.diagnosis.faults] == [fault], verdict.report()
    assert verdict.report().count("none can be named: a recording has logits and no code") == 1
    assert "diagnosis" not in verdict.unchecked


def test_a_recording_without_the_prompts_of_the_search_says_so(
    answer: Callable[..., Path], book_reference: Remembering, book_checkpoint: Path
) -> None:
    verdict = verify(
        read(answer(lambda tensors: tensors["logits.3"].add_(1)), book_reference),
        book_checkpoint,
        reference=book_reference,
    )
    assert not verdict and verdict.diagnosis is None
    assert "no answers to the prompts of the search: record it anew" in verdict.unchecked["diagnosis"]


def test_a_file_without_ids_has_all_prompts_of_the_search_or_none(
    book_reference: Remembering, book_checkpoint: Path, tmp_path: Path
) -> None:
    config, model = book_reference.config, book_reference.logits
    every = recorded_prompts(open_checkpoint(book_checkpoint))
    standard, searched = every[:-4], every[-4:]
    for prompts in (standard, (*standard, *searched)):
        path = answered(model, tmp_path / "port.npz", prompts)
        save(path, {name: tensor for name, tensor in load(path).items() if "logits" in name})
        assert len(read_recording(path, config, standard, searched).prompts) == len(prompts)
    save(path, {f"logits.{index}": model(prompt.ids) for index, prompt in enumerate((*standard, *searched[:2]))})
    with pytest.raises(CandidateError, match=f"lacks logits.{len(standard) + 2}, logits.{len(standard) + 3}"):
        read_recording(path, config, standard, searched)


def test_a_program_that_is_asked_from_python_is_diagnosed_by_its_logits(
    book_reference: Remembering, book_checkpoint: Path
) -> None:
    """What comes back from another process are bytes: a fault is named, and no line."""
    model = GPTModel.from_pretrained(book_checkpoint)
    tanh_to_erf(model)

    def compute(ids: bytes, shape: tuple[int, ...]) -> bytes:  # in another thread, which no recorder sees
        with torch.inference_mode():
            return model(torch.frombuffer(bytearray(ids), dtype=torch.int64).view(shape)).numpy().tobytes()

    with ThreadPoolExecutor(1) as program:

        def port(ids: Tensor) -> Tensor:
            answer = program.submit(compute, ids.numpy().tobytes(), tuple(ids.shape)).result()
            return torch.frombuffer(bytearray(answer), dtype=torch.float32).view(*ids.shape, -1)

        verdict = verify(port, book_checkpoint, diagnose_seconds=200, reference=book_reference)
    assert not verdict and verdict.diagnosis is not None
    assert [finding.name for finding in verdict.diagnosis.faults] == ["gelu_erf"], verdict.report()
    assert (
        verdict.report().count("none can be named: none of the operations that could be recorded takes a weight") == 1
    )


def test_what_is_wrong_with_the_file_is_said_once(tmp_path: Path, book_reference: Remembering) -> None:
    numpy.savez(tmp_path / "a.npz", **{"logits.0": numpy.asfortranarray(numpy.zeros((2, 3, 4)))})
    with pytest.raises(CandidateError, match="is in Fortran order") as caught:
        read(tmp_path / "a.npz", book_reference)
    assert str(caught.value).count("a.npz") == 1 and caught.value.hint == "save np.ascontiguousarray of it"
