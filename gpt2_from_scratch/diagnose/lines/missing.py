"""The lines for a step of GPT-2's that the candidate never takes, judged by the weights of that step.

If the candidate does not hold them, the line is the one that builds the module without them. If it holds them and
never uses them, the line is the end of the method that should have used them.
"""

from torch import nn

from gpt2_from_scratch.diagnose.lines import classes, source
from gpt2_from_scratch.diagnose.lines.built import argument_named, building_call, without_bias
from gpt2_from_scratch.diagnose.lines.explain import is_weight
from gpt2_from_scratch.diagnose.lines.places import Observed, built_at, spot_of, use_of
from gpt2_from_scratch.diagnose.lines.source import Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Operation

# The module whose weights a step is the first to use.
_MODULES = {"attn.output": "attn.c_proj", "mlp.inner": "mlp.c_fc", "mlp.output": "mlp.c_proj"}


def not_built(observed: Observed, operation: Operation, number: int, place: str) -> Spot | None:
    """Where a module is built without weights of GPT-2's that the candidate does not hold.

    Args:
        observed: the candidate's run.
        operation: that takes what stands in the place of the missing step.
        number: the value that it takes.
        place: key of the step, such as ``h.0.ln_2``.
    """
    root, module = observed.root, _module_of(place)
    if root is None:
        return None
    gain, bias = (observed.parameter(f"{module}.{name}") for name in ("weight", "bias"))
    if gain is not None and bias is None and f"{module}.bias" in observed.table.by_key:
        owner = next((each for each in root.modules() if any(gain is own for own in each._parameters.values())), None)
        call = building_call(root, owner) if owner is not None else None
        return without_bias(call) if call is not None else None
    made = observed.trial.made(number)
    label = observed.trial.labels[number].entry
    if gain is None and made is not None and label is not None and label.key.startswith(f"{place}."):
        return built_at(observed, made)
    if gain is not None or bias is not None or not _is_norm(module):
        return None
    maker = observed.trial.recording.maker(number)
    names = {id(each): name for name, each in root.named_modules()}
    parts = names.get(id(maker.module), "").split(".") if maker is not None else []
    for count in range(len(parts)):
        around = root.get_submodule(".".join(parts[:count]))
        if isinstance(around, nn.TransformerEncoder):
            call = building_call(root, around)
            norm = argument_named(call, ("norm",), type(around)) if call is not None else None
            return (norm or call).spot if call is not None else None
    return built_at(observed, operation) or _listed_at(observed, operation)


def _listed_at(observed: Observed, operation: Operation) -> Spot | None:
    """Where the module that an operation is in was built, as a part of a sequence that no class builds."""
    here = source.at(operation.frames[0])
    kind = source.class_around(here.node) if here is not None else None
    for owner in observed.root.modules() if observed.root is not None else ():
        parts = list(owner) if isinstance(owner, nn.Sequential) else []
        for position, part in enumerate(parts):
            if part is operation.module or (operation.module is None and kind and type(part).__name__ == kind.name):
                for file in sorted({frame.file for frame in operation.frames}):
                    call = classes.call_with(file, [type(each).__name__ for each in parts], position)
                    if call is not None:
                        return call.spot
                return only.spot if (only := classes.only_construction(type(part), operation.frames[0].file)) else None
    return None


def not_called(observed: Observed, operation: Operation, number: int, place: str) -> Spot | None:
    """Where a method ends that holds the module of a missing step and does not call it."""
    root, module = observed.root, _module_of(place)
    weight = observed.parameter(f"{module}.weight")
    if root is None or weight is None:
        return None
    for each in observed.before.recording.operations:
        entries = [observed.before.labels[taken].entry for taken in each.inputs]
        if any(entry is not None and entry.key == f"{module}.weight" for entry in entries):
            return None
    kinds = _owner(root, weight)
    maker = observed.trial.recording.maker(_step_behind(observed, number))
    while maker is not None and maker.frames:
        here = source.at(maker.frames[0])
        around = source.class_around(here.node) if here is not None else None
        if around is not None and around.name in kinds:
            scope = (maker.frames[0].file, maker.frames[0].function, maker.frames[0].first_line)
            same = any((frame.file, frame.function, frame.first_line) == scope for frame in operation.frames)
            if same and not _of_other_block(observed, operation, module):
                return None  # the value has not left the method: it is used too early
            calls = [source.at(frame, depth + 1) for depth, frame in enumerate(maker.frames[1:])]
            if module == "ln_f" and any(each is not None and source.loop_around(each.node) for each in calls):
                return None  # the method of a block, which has done its part
            end = source.return_of(here) if here is not None else None
            return end or use_of(observed, maker)
        maker = observed.trial.recording.maker(maker.inputs[0]) if maker.name in VIEWS and maker.inputs else None
    return None


def belongs_at(observed: Observed, operation: Operation, place: str) -> Spot | None:
    """The line of the class that owns the module of a missing step, on the way to an operation that lacks it."""
    weight = observed.parameter(f"{_module_of(place)}.weight")
    kinds = _owner(observed.root, weight) if observed.root is not None and weight is not None else []
    for depth, frame in enumerate(operation.frames):
        here = source.at(frame, depth)
        around = source.class_around(here.node) if here is not None else None
        if around is not None and around.name in kinds:
            return spot_of(frame)
    return None


def _owner(root: nn.Module, weight: object) -> list[str]:
    """Names of the class, and of its bases, that holds the module with a weight; none if only torch's classes do."""
    path = next(name for name, each in root.named_parameters() if each is weight).split(".")
    for count in range(len(path) - 2, -1, -1):
        owner = root.get_submodule(".".join(path[:count]))
        if not type(owner).__module__.startswith("torch."):
            return [kind.__name__ for kind in type(owner).__mro__]
    return []


def _step_behind(observed: Observed, number: int) -> int:
    """The step of GPT-2's that a value is a form of, in a norm that is written out: what the norm is taken of."""
    labels = observed.trial.labels
    while (maker := observed.trial.recording.maker(number)) is not None:
        entry = labels[number].entry
        inputs = [each for each in maker.inputs if labels[each].entry is not None and not is_weight(labels[each])]
        if entry is None or entry.main or not _is_norm(entry.key.rpartition(".")[0]) or not inputs:
            break
        number = inputs[0]
    return number


def _of_other_block(observed: Observed, operation: Operation, module: str) -> bool:
    """Whether an operation takes weights of another block than a module's: then the method has ended since."""
    entries = [observed.trial.labels[number].entry for number in operation.inputs]
    blocks = {entry.layer for entry in entries if entry is not None and entry.weight}
    return bool(blocks) and all(f"h.{block}." not in f"{module}." for block in blocks)


def _module_of(place: str) -> str:
    for step, module in _MODULES.items():
        if place.endswith(f".{step}"):
            return place.removesuffix(step) + module
    return place


def _is_norm(module: str) -> bool:
    return module.rpartition(".")[2] in ("ln_1", "ln_2", "ln_f")
