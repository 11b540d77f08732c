"""A function's arrays are found wherever it keeps them, and the function computes with what is written to them."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2_from_scratch.arrays import arrays_of, module_of
from gpt2_from_scratch.errors import MappingError

W = np.diag(np.array([1, 2, 3], np.float32))  # with four different values it is no mask
GLOBAL = {"w": W.copy()}


def by_global(x: Any) -> Any:
    return x @ GLOBAL["w"]


def by_default(x: Any, w: Any = W) -> Any:
    return x @ w


def taking(x: Any, w: Any) -> Any:
    return x @ w


class Weights(NamedTuple):
    w: Any


class Model:
    def __init__(self, w: Any) -> None:
        self.w = w

    def __call__(self, x: Any) -> Any:
        return x @ self.w

    def logits(self, x: Any) -> Any:
        return self(x)


def diagonal(kind: str) -> Any:
    return torch.from_numpy(W.copy()) if kind == "torch" else W.copy()


def closed_over(w: Any) -> Callable[[Any], Any]:
    return lambda x: x @ w


def through_a_helper(w: Any) -> Callable[[Any], Any]:
    inner = closed_over(w)
    return lambda x: inner(x)


PLACES: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "a closure": closed_over,
    "the closure of a function that it calls": through_a_helper,
    "a keyword that is bound": lambda w: functools.partial(taking, w=w),
    "an object": Model,
    "a method": lambda w: Model(w).logits,
    "a named tuple": lambda w: functools.partial(lambda x, t: x @ t.w, t=Weights(w)),
    "a namespace in a list": lambda w: functools.partial(lambda x, t: x @ t[0].w, t=[types.SimpleNamespace(w=w)]),
}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("place", PLACES)
def test_arrays_are_found_and_shared(place: str, kind: str) -> None:
    array = diagonal(kind)
    function = PLACES[place](array)
    module = arrays_of(function)
    assert module is not None
    ((_, parameter),) = module.named_parameters()
    assert torch.equal(parameter, torch.from_numpy(W))
    with torch.no_grad():
        parameter.copy_(torch.arange(9.0).view(3, 3))
    x = torch.ones(1, 3) if kind == "torch" else np.ones((1, 3), np.float32)
    assert np.asarray(function(x)).tolist() == [[9.0, 12.0, 15.0]]
    assert module(torch.ones(1, 3)).tolist() == [[9.0, 12.0, 15.0]]
    assert np.asarray(array)[0, 1] == 1.0


@pytest.mark.parametrize("function", [by_global, by_default])
def test_globals_and_defaults_are_found_and_given_back(function: Callable[[Any], Any]) -> None:
    before = GLOBAL["w"], by_default.__defaults__
    module = arrays_of(function)
    assert module is not None
    assert module(torch.ones(1, 3)).tolist() == [[1.0, 2.0, 3.0]]
    assert (GLOBAL["w"], by_default.__defaults__) == before or GLOBAL["w"] is before[0]
    assert isinstance(function(np.ones((1, 3), np.float32)), np.ndarray)


def test_a_function_that_fails_has_its_arrays_back() -> None:
    weights = {"w": diagonal("numpy")}

    def failing(x: Any) -> Any:
        raise RuntimeError(str(type(weights["w"]).__name__))

    module = arrays_of(failing)
    assert module is not None
    with pytest.raises(RuntimeError, match="Followed"):
        module(torch.ones(1, 3))
    assert isinstance(weights["w"], np.ndarray)


def test_masks_and_integers_are_no_parameters() -> None:
    mask, places, w = np.tril(np.ones((4, 4), np.float32)), np.arange(4), diagonal("numpy")
    module = arrays_of(lambda x: (x @ w, mask, places))
    assert module is not None
    assert [name for name, _ in module.named_parameters()] == ["w"]


def test_a_single_number_is_no_parameter() -> None:
    scale, other, w = torch.tensor(0.5), np.array(0.5), diagonal("torch")
    module = arrays_of(lambda x: (x @ w) * scale * other)
    assert module is not None
    assert [name for name, _ in module.named_parameters()] == ["w"]


def test_of_arrays_that_share_memory_the_largest_counts_and_the_others_follow() -> None:
    whole = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = [whole[0], whole[1]]
    module = arrays_of(lambda x: x * rows[1] + whole[0])
    assert module is not None
    ((name, parameter),) = module.named_parameters()
    assert name == "whole"
    with torch.no_grad():
        parameter.copy_(torch.full((2, 3), 2.0))
    assert module(torch.ones(3)).tolist() == [4.0, 4.0, 4.0]


def test_names_are_the_keys_that_lead_to_an_array() -> None:
    params = {"wte": diagonal("torch"), "blocks": [{"ln.g": torch.ones(3)}, {"ln.g": torch.ones(3)}]}
    module = arrays_of(lambda x: params)
    assert module is not None
    assert [name for name, _ in module.named_parameters()] == ["wte", "blocks.0.ln.g", "blocks.1.ln.g"]


def test_an_array_that_cannot_be_written_to_is_named() -> None:
    w = diagonal("numpy")
    w.setflags(write=False)
    with pytest.raises(MappingError, match=r"the array w .* is read-only"):
        arrays_of(lambda x: x @ w)


def countdown(x: Any, n: int) -> Any:
    return x @ W if n == 0 else by_turns(x, n)


def by_turns(x: Any, n: int) -> Any:
    return countdown(x, n - 1)


def test_functions_that_call_each_other_are_read_once() -> None:
    """The global of one is the other: the search for arrays would go round for ever."""
    found = arrays_of(countdown)
    assert found is not None and [tuple(each.shape) for each in found.parameters()] == [W.shape]


def test_without_arrays_there_is_no_module() -> None:
    assert arrays_of(lambda x: x) is None
    module = torch.nn.Linear(2, 2)
    assert module_of(module) is module


def functions(w: Any, x: Any) -> Any:
    """Numpy as people write it."""
    y = np.asarray(x @ w)[:, ::1] - np.max(x, axis=-1, keepdims=True)
    y = np.where(np.tri(3, dtype=bool), y, -1e10)
    y[np.triu_indices(3, 1)] = 0.5
    y /= np.sqrt(np.var(y, axis=1, keepdims=True) + 1e-5)
    parts = np.split(np.einsum("ij,kj->ik", y, y), 3, axis=1)
    z = np.hstack([np.exp(part) for part in parts]).astype(x.dtype)
    copy, cast = np.array(z), z.astype(z.dtype)
    copy[0] = cast[1] = 7.0  # which leaves z as it is
    z = np.add.reduce(np.stack([z, z.T])) + (copy == cast)
    z = (
        z
        - 2 * np.reshape(z, (9, 1), order="F").reshape(3, 3)
        + z.swapaxes(0, 1).ravel(order="K").reshape((3, 3), order="C")
    )
    return np.concatenate([z, np.array([z[0]])]).swapaxes(0, 1).reshape(-1) @ np.ones((12, 2), z.dtype)


def test_numpy_code_computes_the_same_in_torch() -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    bound = functools.partial(functions, w, x)
    module = arrays_of(bound)
    assert module is not None
    found = module()
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, torch.from_numpy(bound()), rtol=0, atol=1e-12)
