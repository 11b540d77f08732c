"""A model that runs on several ranks of torch.distributed: FSDP2, tensor parallel, DDP, or collectives by hand.

`torchrun` starts the same command once for each rank. The forward passes of such a model are collective: every rank has
to run them, on the same ids and in the same order. Only rank 0 judges. So rank 0 says what is to be done (`Ranks.do`),
through torchrun's own key-value store, and the other ranks do the same (`Ranks.follow`).

torchrun ends all ranks when one of them ends with an error. Here, no rank waits for another without a limit.
"""

import copy
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from gpt2_from_scratch.errors import RankError, crash_report
from gpt2_from_scratch.precision import InFloat64, in_float64

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

Model: TypeAlias = Callable[..., Any]
Result = TypeVar("Result")

_RAISED = 10.0  # seconds that a rank which raised an exception waits for the others: they raise it, too, or hang
_ANSWERS = 600.0  # seconds from rank 0's answer to the others', which do the same work at the same time
_POLL = 0.01  # seconds between two looks at the store, a few percent of a small model's forward pass


class Ranks:
    """Rank 0 leads the other ranks of one torchrun.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    def __init__(self) -> None:
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store, self.rank, self.size = next(rendezvous("env://"))  # of torchrun's environment variables
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"gpt2_from_scratch/{restart}", store)
        self._model: Model | None = None
        self._checkpoint: Any = None
        self._count = 0  # of what was to be done so far
        self._nudge: int | None = None  # of the float64 run that rank 0 is in

    def go_on(self) -> None:
        """Lets the other ranks go on from `wait_for_rank_0`."""
        self._send("ready", None)

    def wait_for_rank_0(self) -> None:
        """Waits without a limit: if rank 0 ends, torchrun ends this one, too."""
        self._wait("ready", math.inf)

    def joins(self, model: Model, checkpoint: Any) -> None:
        """Gives this rank what it works on.

        Args:
            model: this rank's part of the model.
            checkpoint: the same on each rank; any object.
        """
        if isinstance(model, nn.Module):
            model.eval()
        self._model, self._checkpoint = model, checkpoint

    def do(self, work: Callable[..., Result], *args: Any, own_only: bool = False) -> list[Result]:
        """Does ``work(model, checkpoint, *args)`` on every rank, and returns what it returned there. Rank 0 calls this.

        Args:
            work: a function at the top of a module, as it is sent by its name.
            *args: what can be pickled; tensors arrive on the CPU.
            own_only: return rank 0's result alone; the others' may be large, and the same.

        Raises:
            RankError: some ranks raised an exception, or do not answer.
            Exception: what `work` raised, if it was raised on every rank.
        """
        sent = tree_map_only(Tensor, Tensor.cpu, args)
        self._send(f"work {self._count}", (work, sent, self._nudge, own_only))
        own, error = self._outcome(work, args)
        answers = self._answers(error)
        reports = {rank: report for rank, (_, report) in answers.items() if report}
        if error is not None and len(reports) == len(answers):
            raise error
        if error is not None:
            reports[0] = crash_report(error)
        for rank in sorted(reports):
            fine = "the others did not" if len(reports) == 1 else f"{self.size - len(reports)} of {self.size} did not"
            raise RankError(f"rank {rank} raised an exception, and {fine}: {reports[rank]}")
        return [own] if own_only else [own, *(answers[rank][0] for rank in sorted(answers))]  # type: ignore[list-item]

    def follow(self) -> int:
        """Does what rank 0 says, until it says with which exit code to end.

        Raises:
            RankError: this rank raised an exception, and rank 0 did not.
        """
        patience, report = math.inf, ""  # rank 0 may take any time for the reference; torchrun sees it end
        while True:
            if not self._wait(f"work {self._count}", patience):
                raise RankError(f"rank {self.rank} raised an exception, and rank 0 has not for {_RAISED:g} s: {report}")
            work, args, nudge, own_only = self._received(f"work {self._count}")
            if work is None:
                return int(args)
            module = self._model if isinstance(self._model, nn.Module) else None
            with in_float64(module, nudge) if nudge is not None else nullcontext():
                result, error = self._outcome(work, args)
            report = crash_report(error) if error is not None else ""
            self._send(f"answer {self._count} of {self.rank}", (None if own_only else result, report))
            self._count += 1
            patience = _RAISED if error is not None else math.inf

    def end(self, code: int) -> None:
        """Ends the other ranks with this exit code."""
        self._send(f"work {self._count}", (None, code, None, True))

    def calling(self, model: Model) -> Model:
        """The model as a function that runs on every rank."""

        @wraps(getattr(model, "forward", model))
        def call(*args: Any, **options: Any) -> Any:
            return self.do(_called, args, options, own_only=True)[0]

        return call

    def whole(self) -> nn.Module:
        """The model for this rank alone: of FSDP2's a copy with all parameters, of any other it itself.

        Raises:
            NotImplementedError: it cannot be copied; says why.
        """
        if not isinstance(self._model, nn.Module):
            raise NotImplementedError("only a torch module is run on one rank")
        copied = self.do(without_fsdp, own_only=True)[0]
        if isinstance(copied, str):
            raise NotImplementedError(f"it cannot be copied: {copied}")
        return self._model if copied is None else copied

    @contextmanager
    def in_float64(self, module: nn.Module, nudge: int = 0) -> Iterator[InFloat64]:
        """As `precision.in_float64`, on every rank.

        Raises:
            NotImplementedError: FSDP2 rounds some parameters, and not all, before it computes.
        """
        if len(self.precisions) > 1 and self.precisions != _precisions(module):
            raise NotImplementedError("FSDP2 computes with some of its parameters in a lower precision")
        self.do(_unshard)  # now: gathering parameters writes into buffers of their own type
        self._nudge = nudge
        try:
            with in_float64(module, nudge) as met:
                yield met
        finally:
            self._nudge = None
            self.do(reshard)

    @cached_property
    def precisions(self) -> frozenset[torch.dtype]:
        """Those of the parameters as the model computes with them: FSDP2 may store them in a finer one."""
        self.do(_unshard)
        try:
            return _precisions(self._model)
        finally:
            self.do(reshard)

    def _outcome(self, work: Callable[..., Result], args: Any) -> tuple[Result | None, Exception | None]:
        try:
            return work(self._model, self._checkpoint, *args), None
        except Exception as error:
            return None, error

    def _answers(self, error: Exception | None) -> Mapping[int, tuple[Any, str]]:
        """Rank -> what its work returned, and the report of the exception that it raised."""
        patience = _ANSWERS if error is None else _RAISED
        answers = {}
        for rank in range(1, self.size):
            key = f"answer {self._count} of {rank}"
            if not self._wait(key, patience):
                own = f"; rank 0 raised an exception: {crash_report(error)}" if error is not None else ""
                raise RankError(f"rank {rank} has not answered for {patience:g} s{own}")
            answers[rank] = self._received(key)
        self._count += 1
        return answers

    def _send(self, key: str, value: object) -> None:
        self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes, too

    def _received(self, key: str) -> Any:
        return pickle.loads(self._store.get(key))

    def _wait(self, key: str, seconds: float) -> bool:
        """Waits for a key, in Python, where Ctrl-C is heard; returns False when the time is over."""
        end = time.monotonic() + seconds
        while not self._store.check([key]):
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
        return True


@torch.inference_mode()
def _called(model: Model, checkpoint: Any, args: Any, options: Any) -> Any:
    """What the model returns, its sharded tensors made whole."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is not None:
        args, options = tree_map_only(Tensor, lambda tensor: tensor.to(parameter.device), (args, options))
    output = model(*args, **options)
    logits = getattr(output, "logits", None)
    return logits.full_tensor() if is_sharded(logits) else tree_map_only(Tensor, _whole, output)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def inside_ddp(model: Any) -> Any:
    """The module inside `DistributedDataParallel`, which computes the same; anything else as it is."""
    from torch.nn.parallel import DistributedDataParallel

    return model.module if isinstance(model, DistributedDataParallel) else model


class Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, whatever would send something to other ranks, and wait for them, raises an error instead."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "c10d" in func.namespace:
            raise NotImplementedError(f"{func} sends something to other ranks")
        return func(*args, **(kwargs or {}))


def without_fsdp(model: nn.Module, checkpoint: Any = None) -> nn.Module | str | None:
    """On rank 0 a copy without FSDP2, whose parameters are whole, or why there is none; None if it is not FSDP2's."""
    sharded = list(_fully_sharded(model))
    if not sharded:
        return None
    _unshard(model, checkpoint)
    try:
        return _deep_copy(model, sharded) if distributed.get_rank() == 0 else None
    except Exception as error:  # somebody's module may hold anything, such as what no process can copy
        return crash_report(error)
    finally:
        reshard(model)


def _deep_copy(model: nn.Module, sharded: "Sequence[FSDPModule]") -> nn.Module:
    """A deep copy in classes without FSDP2; its hooks, and its own state of each module, are left out."""
    from torch.distributed.fsdp import FSDPModule

    copies: dict[int, Any] = {}  # deepcopy's memory: id -> what is taken as the copy
    for part in model.modules():
        for name, kept in vars(part).items():
            if isinstance(kept, dict) and name not in ("_parameters", "_buffers", "_modules"):
                own = {key: each for key, each in kept.items() if not _is_torchs(each)}
                if len(own) < len(kept):
                    copies[id(kept)] = type(kept)(own)
    for module in sharded:
        original = next(each for each in type(module).__mro__ if not issubclass(each, FSDPModule))
        copies[id(module)] = original.__new__(original)
    for module in sharded:
        vars(copies[id(module)]).update(copy.deepcopy(vars(module), copies))
    return copy.deepcopy(model, copies)


def _is_torchs(kept: Any) -> bool:
    return str(getattr(kept, "__module__", "")).startswith("torch.distributed.")


# ------------------------------------------------------------------------------------------------- sharded parameters


def is_sharded(value: Any) -> "TypeGuard[DTensor]":
    """Whether this is a tensor of torch.distributed (`DTensor`), of which a rank may hold a part."""
    return hasattr(value, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: of a plain one all, the tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def own_part(parameter: Tensor) -> tuple[slice | Tensor, ...]:
    """Where the part that this rank holds lies in the whole parameter, as an index of a tensor of its shape.

    torch is asked to share out the numbers of each axis as it has shared out the parameter: some ways to do that leave
    a rank with several pieces.

    Args:
        parameter: any; of a plain one a rank holds all.

    Returns:
        A slice for each axis, which makes the index a view; a tensor of places for an axis in several pieces.
    """
    if not is_sharded(parameter):
        return (slice(None),) * parameter.dim()
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    assert isinstance(parameter, DTensor)
    index: list[slice | Tensor] = []
    for axis, length in enumerate(parameter.shape):
        placements = [
            _first_axis(each) if getattr(each, "dim", None) == axis else Replicate() for each in parameter.placements
        ]
        # Without a source rank, each rank cuts its own copy, and nothing is sent.
        shared = distribute_tensor(torch.arange(length), parameter.device_mesh, placements, src_data_rank=None)
        places = shared.to_local().cpu()
        first, count = int(places[0]) if len(places) else 0, len(places)
        joined = torch.equal(places, torch.arange(first, first + count))
        index.append(slice(first, first + count) if joined else places)
    return tuple(index)


def _first_axis(placement: Any) -> Any:
    """The same way of sharding, for a tensor of one axis."""
    pieces = getattr(placement, "split_factor", None)  # of a rank: FSDP2 over tensor parallel
    return type(placement)(0) if pieces is None else type(placement)(0, split_factor=pieces)


def _precisions(model: Model | None) -> frozenset[torch.dtype]:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return frozenset(parameter.dtype for parameter in parameters if parameter.is_floating_point())


@torch.inference_mode()  # as in forward passes, so that the same buffers are written
def _unshard(model: Model, checkpoint: Any) -> None:
    """Gathers all parameters of FSDP2 on every rank."""
    for module in _fully_sharded(model):
        module.unshard()


def reshard(model: Model, checkpoint: Any = None) -> None:
    """Frees what FSDP2 has gathered; afterwards parameters are shards, wherever a forward pass has left off."""
    for module in _fully_sharded(model):
        module.reshard()


def _fully_sharded(model: Model) -> "Iterator[FSDPModule]":
    from torch.distributed.fsdp import FSDPModule

    modules = model.modules() if isinstance(model, nn.Module) else ()
    return (module for module in modules if isinstance(module, FSDPModule))
