"""The recorder notes what was computed, where, and leaves everything as it was."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from gpt2_from_scratch.precision import seeing_arithmetic
from gpt2_from_scratch.recorder import Again, Operation, Recording, Value, record
from gpt2_from_scratch.recorder.frames import Stack
from gpt2_from_scratch.recorder.tape import Tape

HERE = Path(__file__).name


def names(recording: Recording) -> list[str]:
    return [operation.name for operation in recording.operations]


def values_of(call: object, **options: object) -> tuple[Recording, dict[int, Tensor]]:
    """A recording, and copies of all values."""
    seen: dict[int, Tensor] = {}

    def see(value: Value, content: Tensor) -> None:
        seen[value.number] = content.clone()

    return record(call, see=see, **options), seen  # type: ignore[arg-type]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] = 2.0
        x = self.first(x)
        return self.norm(x) + self.seen.sum()


def test_operations_have_names_inputs_and_lines():
    x, weight = torch.randn(2, 3), torch.randn(3, 4)

    def call() -> Tensor:
        product = x @ weight
        return F.gelu(product, approximate="tanh") * 0.5

    recording, seen = values_of(call)
    assert names(recording) == ["matmul", "gelu", "mul"]
    product, gelu, half = recording.operations
    assert gelu.inputs == product.outputs
    assert gelu.constants["approximate"] == "tanh"
    assert half.constants == {1: 0.5}
    assert product.frame is not None
    assert Path(product.frame.file).name == HERE
    assert product.frame.expression == "x @ weight"
    assert product.frame.function == "call"
    assert gelu.frame.expression == 'F.gelu(product, approximate="tanh")'
    assert recording.number_of(recording.result) == half.outputs[0]
    expected = 0.5 * F.gelu(x.double() @ weight.double(), approximate="tanh")
    assert_close(seen[half.outputs[0]], expected, rtol=0, atol=0)


def test_everything_runs_in_float64_and_nothing_stays_changed():
    model = Small().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 5)
    recording = record(lambda: model(x))
    assert recording.result.dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == torch.float32
    expected = Small()
    expected.load_state_dict(before)
    assert_close(recording.result, expected.double()(x.double()), rtol=1e-13, atol=1e-13)


def test_requests_for_a_narrow_type_give_float64():
    x = torch.randn(4)

    def call() -> Tensor:
        half = x.half().to(torch.bfloat16).float()
        return torch.softmax(half, -1, dtype=torch.float32) + torch.ones(4, dtype=torch.float16)

    assert_close(record(call).result, torch.softmax(x.double(), -1) + 1, rtol=0, atol=1e-15)


def test_an_object_at_the_address_of_one_that_has_gone_is_a_new_one():
    """An address is given out again; a value must not be taken for the one that was there before."""
    tape, first = Tape(Stack()), torch.ones(1)
    holder, address = tape.hold(first, 0), id(first)
    assert tape.known(first) is holder
    del first
    second = next(tensor for tensor in (torch.ones(1) for _ in range(10_000)) if id(tensor) == address)
    assert tape.known(second) is None


def test_a_write_through_an_alias_is_an_operation():
    def call() -> Tensor:
        x = torch.zeros(2, 3)
        row = x[1]
        row.add_(5)
        return x * 2

    recording, seen = values_of(call)
    assert names(recording) == ["zeros", "getitem", "add", "alias", "mul"]
    add, alias, double = recording.operations[2:]
    assert add.writes
    assert alias.inputs[1] == add.outputs[0]
    assert double.inputs == alias.outputs
    assert_close(seen[double.inputs[0]], torch.tensor([[0.0, 0, 0], [5, 5, 5]]).double())


def test_what_was_there_before_is_given_back_after_writes():
    mine = torch.arange(4)
    record(lambda: mine.mul_(3))
    assert mine.tolist() == [0, 1, 2, 3]


def test_several_outputs_of_one_line():
    recording = record(lambda: torch.arange(6.0).chunk(3))
    chunk = recording.operations[-1]
    assert len(chunk.outputs) == 3
    assert [recording.values[number].position for number in chunk.outputs] == [0, 1, 2]


def test_what_returns_its_input_makes_no_value():
    x = torch.randn(3)
    recording = record(lambda: F.dropout(x.contiguous(), 0.5, training=False) + 1)
    assert names(recording)[-1] == "add"
    assert len(recording.operations[-1].inputs) == 1


def test_the_innermost_module_of_torch_is_known():
    layer = nn.Sequential(nn.Linear(3, 3), nn.GELU())
    gelu = record(lambda: layer(torch.ones(3))).operations[-1]
    assert gelu.module is layer[1]
    assert gelu.frame is not None
    assert gelu.frame.expression == "layer(torch.ones(3))"


def test_an_output_can_be_replaced_and_the_run_goes_on():
    x = torch.ones(3)

    def change(operation: Operation, position: int, value: Tensor, again: Again) -> Tensor | None:
        return torch.full_like(value, 7.0) if operation.name == "add" else None

    assert record(lambda: (x + 1) * 2, change=change).result.tolist() == [14, 14, 14]


def test_a_call_can_be_run_again_with_other_arguments():
    x, y = torch.ones(3), torch.full((3,), 4.0)
    found = {}

    def change(operation: Operation, position: int, value: Tensor, again: Again) -> None:
        if operation.name == "sub":
            found["exchanged"] = again.run({0: again.inputs[1], 1: again.inputs[0]}, {})[0]
        if operation.name == "softmax":
            found["over rows"] = again.run({}, {"dim": 0})[0]

    record(lambda: torch.softmax((x - y)[None], dim=-1), change=change)
    assert found["exchanged"].tolist() == [3, 3, 3]
    assert found["over rows"].tolist() == [[1, 1, 1]]


def test_an_in_place_call_is_run_again_on_what_was_there():
    found = []

    def change(operation: Operation, position: int, value: Tensor, again: Again) -> None:
        if operation.name == "mul":
            found.append(again.run({}, {1: 10.0})[0].tolist())

    result = record(lambda: torch.ones(2).mul_(3.0), change=change).result
    assert found == [[10, 10]]
    assert result.tolist() == [3, 3]


def test_equal_code_in_different_files_keeps_its_file(tmp_path: Path):
    calls = []
    for name in ("one.py", "two.py"):
        file = tmp_path / name
        file.write_text("import torch\ndef call():\n    return torch.ones(2) + 1\n")
        scope: dict[str, object] = {}
        exec(compile(file.read_text(), str(file), "exec"), scope)
        calls.append((file, scope["call"]))
    for file, call in calls:
        assert record(call).operations[-1].frame.file == str(file)  # type: ignore[arg-type]


def test_what_happens_inside_vmap_is_said_not_to_be_recorded():
    weight = torch.randn(3, 3)
    recording = record(lambda: torch.vmap(lambda row: (row @ weight).sin())(torch.randn(4, 3)) + 1)
    assert recording.missing == ("operations inside torch.vmap",)
    assert names(recording)[-1] == "add"
    assert recording.result.dtype == torch.float64


# -- numpy


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(x))


WEIGHTS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "list": [np.ones(4, np.float32)]}


def model(ids: np.ndarray) -> np.ndarray:
    x = WEIGHTS["w"][ids] + WEIGHTS["list"][0]
    mask = np.tri(2, dtype=bool)
    x[0] = 1.0
    parts = np.split(gelu(x), 2, axis=-1)
    return np.where(mask, parts[0] @ parts[1].T, -np.inf)


def test_numpy_is_recorded_line_by_line_and_put_back():
    ids = np.array([2, 0])
    plain = model(ids)
    weights, maker = WEIGHTS["w"], np.tri
    recording, seen = values_of(lambda: model(ids), arrays=model)
    found = names(recording)
    for name in ("getitem", "add", "tri", "setitem", "tanh", "split", "T", "matmul", "where"):
        assert name in found, name
    add = next(operation for operation in recording.operations if operation.name == "add")
    assert add.frame is not None
    assert add.frame.expression == 'WEIGHTS["w"][ids] + WEIGHTS["list"][0]'
    assert seen[add.outputs[0]].dtype == torch.float64
    np.testing.assert_allclose(np.asarray(recording.result), plain, rtol=1e-6)
    assert WEIGHTS["w"] is weights
    assert np.tri is maker
    assert type(model(ids)) is np.ndarray
    np.testing.assert_array_equal(model(ids), plain)


class Pair(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


@pytest.mark.parametrize("where", ["in a default", "bound", "bound by name", "in a named tuple", "under two names"])
def test_arrays_are_recorded_wherever_the_code_has_them(where: str):
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, dtype=np.float32)
    pair, again = Pair(weight, bias), [weight]

    def with_default(rows=weight):
        return rows * 2

    def of_argument(rows):
        return rows * 2

    codes = {
        "in a default": with_default,
        "bound": partial(of_argument, weight),
        "bound by name": partial(of_argument, rows=weight),
        "in a named tuple": lambda: pair.weight * 2,
        "under two names": lambda: again[0] * 2 + weight,
    }
    code = codes[where]
    recording, seen = values_of(code, arrays=code)
    assert names(recording)[0] == "mul"
    assert_close(seen[recording.operations[0].outputs[0]], 2.0 * torch.arange(6.0, dtype=torch.float64).view(2, 3))
    assert with_default.__defaults__ == (weight,)
    assert pair.weight is again[0] is weight
    assert type(code()) is np.ndarray


def test_numpy_values_can_be_replaced():
    def change(operation: Operation, position: int, value: Tensor, again: Again) -> Tensor | None:
        return torch.zeros_like(value) if operation.name == "tanh" else None

    result = record(gelu_of_recorded, change=change, arrays=gelu_of_recorded).result
    assert np.asarray(result).tolist() == [0.5, 0.5, 0.5]


def test_what_the_recorder_computes_is_no_value():
    """A replaced output, and a mode that sees torch's arithmetic, bring torch into numpy code."""

    def change(operation: Operation, position: int, value: Tensor, again: Again) -> Tensor | None:
        return value.clone() if operation.name == "tanh" else None

    ids = np.array([2, 0])
    plain = record(lambda: model(ids), arrays=model)
    with seeing_arithmetic():
        replaced = record(lambda: model(ids), change=change, arrays=model)
    assert [each.operation for each in replaced.values] == [each.operation for each in plain.values]


HELD = {"x": np.ones(3)}


def gelu_of_recorded() -> np.ndarray:
    return gelu(HELD["x"])


@pytest.mark.parametrize("failing", [ValueError, RuntimeError])
def test_a_crash_leaves_nothing_behind(failing: type[Exception]):
    def call() -> None:
        torch.ones(2) + 1
        raise failing("no")

    with pytest.raises(failing, match="no"):
        record(call, arrays=model)
    assert torch.get_default_dtype() == torch.float32
    assert type(WEIGHTS["w"]) is np.ndarray
    assert type(np.arange(3)) is np.ndarray
