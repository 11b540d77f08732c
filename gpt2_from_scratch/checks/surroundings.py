"""The process around a check: settings that change numbers are set, and all that candidates change is given back.

A candidate is somebody's code. It may change PyTorch's default dtype, switch gradients off for good, seed generators or
leave an autocast region open, and none of that may reach the reference, the next check or the caller.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy
import torch

# What restores a setting, for every setting of the process that a model's numbers may depend on.
_Restore = Callable[[], object]


@contextmanager
def kept_as_it_is() -> Iterator[None]:
    """Inside, float32 products are float32 products and gradients can be recorded; afterwards all is as before.

    Kept are: default dtype, gradient mode, precision of products (TF32 keeps 10 bits of the mantissa, and would hide
    mild faults), autocast, deterministic algorithms, number of threads, cuDNN's switches, and the state of the
    generators of Python, numpy and torch.
    """
    restore = [*_settings(), *_generators()]
    with ExitStack() as after:
        for setting in restore:
            after.callback(setting)
        after.callback(_plain_products())
        with torch.inference_mode(False), torch.enable_grad():
            yield


def _settings() -> Iterator[_Restore]:
    dtype = torch.get_default_dtype()
    yield lambda: torch.set_default_dtype(dtype)
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield lambda: torch.use_deterministic_algorithms(strict, warn_only=warn)
    for device in _devices():
        casting, lower = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        yield partial(torch.set_autocast_enabled, device, casting)
        yield partial(torch.set_autocast_dtype, device, lower)
    threads = torch.get_num_threads()
    yield lambda: torch.set_num_threads(threads) if torch.get_num_threads() != threads else None
    cudnn = torch.backends.cudnn
    for name in ("enabled", "benchmark", "deterministic"):
        yield partial(setattr, cudnn, name, getattr(cudnn, name))
    gradients = torch.is_grad_enabled()
    yield lambda: torch.set_grad_enabled(gradients)


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _generators() -> Iterator[_Restore]:
    python, arrays, tensors = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    yield lambda: random.setstate(python)
    yield lambda: numpy.random.set_state(arrays)
    yield lambda: torch.set_rng_state(tensors)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(devices)


def _plain_products() -> _Restore:
    """Switches lower precision of float32 products off, in the way in which the process has set it."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer switches, and PyTorch refuses to mix the two
        switches = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
        values = [switch.fp32_precision for switch in switches]
        for switch in switches:
            switch.fp32_precision = "ieee"

        def restore() -> None:
            for switch, value in zip(switches, values, strict=True):
                switch.fp32_precision = value

        return restore
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)
