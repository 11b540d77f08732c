"""Where the candidate's objects were built: the call, its argument, and what gives one object two names."""

import ast
import inspect
from collections.abc import Sequence

from torch import nn

from gpt2_from_scratch.diagnose.lines import classes, origins, source
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot

_TRANSFORMERS = "torch.nn.modules.transformer"
_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def building_call(root: nn.Module, module: nn.Module) -> Expression | None:
    """The call in a class of the user's that built a module: itself, or the layer of torch's that built it."""
    name = next((name for name, each in root.named_modules() if each is module), "")
    parts = name.split(".")
    kinds = [type(module)]
    for count in range(len(parts) - 1, -1, -1) if name else ():
        owner = root.get_submodule(".".join(parts[:count]))
        if isinstance(owner, _LAYERS) and parts[count] != "activation":  # it builds its parts itself
            kinds = [type(owner)]
        elif type(owner).__module__ == _TRANSFORMERS:
            kinds.append(type(owner))
        if type(owner).__module__.startswith("torch."):
            continue
        for kind in kinds:
            found = classes.constructions(kind, type(owner), ".".join(parts[count:]))
            if found:
                return found[0]
    return None


def argument_named(call: Expression, names: Sequence[str], kind: type | None = None) -> Expression | None:
    """The argument of a call for the first of these parameters that it gives.

    Args:
        call: the call.
        names: of parameters.
        kind: the class that it builds, by whose signature positions are named.
    """
    node = call.node
    if not isinstance(node, ast.Call):
        return None
    positional = list(inspect.signature(kind).parameters) if kind is not None else []
    for name in names:
        for keyword in node.keywords:
            if keyword.arg == name:
                return Expression(call.file, keyword.value, None)
        at = positional.index(name) if name in positional else len(node.args)
        if at < len(node.args) and not any(isinstance(each, ast.Starred) for each in node.args[: at + 1]):
            return Expression(call.file, node.args[at], None)
    return None


def without_bias(call: Expression) -> Spot:
    """What built a module without a bias: where the one False that the call is given was written, or the call."""
    node = call.node
    given = [*node.args, *(each.value for each in node.keywords)] if isinstance(node, ast.Call) else []
    written = [origins.origin(Expression(call.file, each, None), (), False) for each in given]
    off = [each for each in written if isinstance(each.node, ast.Constant) and each.node.value is False]
    return off[0].spot if len(off) == 1 else call.spot


def number_givers(root: nn.Module | None, attribute: Expression, value: object) -> list[Expression]:
    """What gave a number to the objects that hold it, by the attribute ``self.x`` that an operation takes.

    Args:
        root: the candidate's module.
        attribute: the expression ``self.x``.
        value: the number that the operation took.

    Returns:
        One argument, or one default, for each line that gave the number; empty where the class computes it.
    """
    node, assigned = attribute.node, classes.attribute_behind(attribute)
    around, name = source.class_around(node), source.is_parameter(assigned) if assigned is not None else None
    scope = source.scope_of(assigned.node) if assigned is not None else None
    if root is None or not isinstance(node, ast.Attribute) or around is None or name is None:
        return []
    if not isinstance(scope, ast.FunctionDef) or scope.name != "__init__":
        return []
    found: dict[tuple[str, int], Expression] = {}
    for module in root.modules():
        if (
            around.name not in [kind.__name__ for kind in type(module).__mro__]
            or getattr(module, node.attr, None) != value
        ):
            continue
        call = building_call(root, module)
        if call is None or not isinstance(call.node, ast.Call):
            continue
        given = source.passed(call.node, scope, name, bound=True)
        file = call.file if given is not None else attribute.file
        given = given if given is not None else source.default_of(scope, name)
        if given is not None:
            found.setdefault((file, given.lineno), Expression(file, given, None))
    return list(found.values())


def one_object(root: nn.Module | None, weight: object) -> Expression | None:
    """What gave the module that owns a weight a second name in its class, or a second list; None if it has one name."""
    for owner in root.modules() if root is not None else ():
        if type(owner).__module__.startswith("torch."):
            continue
        names = [
            name
            for name, module in owner._modules.items()
            if module is not None and any(each is weight for each in module._parameters.values())
        ]
        assigned = [each for name in names if (each := classes.attribute_in(type(owner), name)) is not None]
        if len(names) > 1 and assigned:
            return max(assigned, key=lambda each: each.node.lineno)
        put = _put_into_lists(owner, weight)
        if put is not None:
            return put
    return None


def _put_into_lists(owner: nn.Module, weight: object) -> Expression | None:
    """The last call that puts an object which is there already into a list, if two lists of a module's hold it."""
    names = [
        name
        for name, module in owner._modules.items()
        if isinstance(module, nn.ModuleList) and any(weight is own for part in module for own in part.parameters())
    ]
    made = classes.attribute_in(type(owner), names[0]) if len(names) > 1 else None
    around = source.class_around(made.node) if made is not None else None
    put = [
        each
        for each in (ast.walk(around) if around is not None else ())
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr == "append"
        if source.last_name(each.func.value) in names and each.args and not isinstance(each.args[0], ast.Call)
    ]
    return Expression(made.file, max(put, key=lambda each: each.lineno), None) if made is not None and put else None


def too_few_blocks(root: nn.Module | None, first: object, second: object) -> Expression | None:
    """What says how many blocks are built, given one weight of each of two blocks that follow each other.

    Args:
        root: the candidate's module.
        first: a parameter of one block.
        second: the same of the next one, None if there is one block.
    """
    if root is None:
        return None
    names = {id(each): name.split(".") for name, each in root.named_parameters()}
    one, other = names.get(id(first), []), names.get(id(second), [])
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    shared = shared if other else next((at for at, part in enumerate(one) if part.isdigit()), 0)
    for count in range(shared - 1, -1, -1):
        owner = root.get_submodule(".".join(one[:count]))
        if isinstance(owner, nn.TransformerEncoder):
            call = building_call(root, owner)
            return argument_named(call, ["num_layers"], type(owner)) if call is not None else None
        if not type(owner).__module__.startswith("torch."):
            return origins.count_of(type(owner), one[count])
    return None
