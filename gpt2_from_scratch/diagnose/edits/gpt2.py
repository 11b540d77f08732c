"""Edits that know what GPT-2 has, in the words of torch and numpy: each function makes those of one kind."""

import ast
import itertools
import re
from collections.abc import Iterator

from gpt2_from_scratch.diagnose.edits.changes import with_argument
from gpt2_from_scratch.diagnose.edits.syntax import Code, Edit, Place, called, filled, in_turn, orders, receiver

_SETTINGS = {
    "gelu": ['approximate="tanh"'],
    "GELU": ['approximate="tanh"'],
    "var": ["unbiased=False", "correction=0"],
    "std": ["unbiased=False", "correction=0"],
    "var_mean": ["unbiased=False", "correction=0"],
    "softmax": ["dim=-1"],
    "Softmax": ["dim=-1"],
    "triu": ["diagonal=1"],
    "tril": ["diagonal=0"],
    "scaled_dot_product_attention": ["is_causal=True"],
    "MultiheadAttention": ["batch_first=True"],
    "TransformerEncoderLayer": [
        "norm_first=True",
        "batch_first=True",
        'activation=lambda x: FUNCTIONAL.gelu(x, approximate="tanh")',
    ],
    "LayerNorm": ["eps=1e-5"],
    "layer_norm": ["eps=1e-5"],
    "dropout": ["training=self.training", "training=False"],
}
_REDUCTIONS = ("sum", "mean", "var", "std", "max", "min", "amax", "norm", "prod", "logsumexp")
_TWINS = {
    "tril": ("triu",),
    "triu": ("tril",),
    "ones": ("zeros",),
    "zeros": ("ones",),
    "view": ("reshape",),
    "sum": ("mean",),
    "max": ("mean",),
    "std": ("var",),
    "sqrt": ("rsqrt",),
    "rsqrt": ("sqrt",),
    "erf": ("tanh",),
    "sigmoid": ("tanh",),
    "exp2": ("exp",),
    "vstack": ("hstack",),
    "stack": ("cat", "concatenate"),
    "tiny": ("min",),
    "eps": ("min",),
    "softmin": ("softmax",),
    "log_softmax": ("softmax",),
}
_OPERATORS = {
    ast.Add: ("-", "*"),
    ast.Sub: ("+",),
    ast.Mult: ("/", "+", "**", "@"),
    ast.Div: ("*", "//"),
    ast.Pow: ("*",),
    ast.MatMult: ("*",),
    ast.FloorDiv: ("*", "/"),
}
_IDLE: dict[type[ast.AST], str] = {
    ast.Add: "0",
    ast.Sub: "0",
    ast.Mult: "1",
    ast.Div: "1",
}  # what such an operation is as good as left out with
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
# GPT-2's own numbers, sqrt(2 / pi) among them, and what hides a score.
_FLOATS = ("0.5", "1.0", "0.044715", "0.7978845608028654", "1e-5", '-float("inf")', "-0.5", "2.0", "3.0", "0.0")
_INTEGERS = ("0", "1", "-1", "2", "3", "-2", "-3", "0.5", "4")
_ROOT = 0.7978845608028654
_ACTIVATION = re.compile(r"relu|elu\b|silu|sigmoid|tanh|mish|swish|softplus|erf|exp\b|maximum|clamp", re.IGNORECASE)
_MASK = re.compile(r"mask|tri[lu]|ones|future|visible|allowed|causal|bias|==|<|>")


def keywords(code: Code, place: Place) -> Iterator[Edit]:
    """Arguments that GPT-2 needs: added, put in the place of others, or turned."""
    for node in code.expressions(place):
        if not isinstance(node, ast.Call):
            continue
        name, given = called(node), {keyword.arg: keyword for keyword in node.keywords}
        settings = list(_SETTINGS.get(name, ()))
        if name in _REDUCTIONS:
            axis, keep = ("axis=-1", "keepdims=True") if code.numpy else ("dim=-1", "keepdim=True")
            settings += [f"{axis}, {keep}", axis, keep]
        for setting in (each.replace("FUNCTIONAL", _functional(code)) for each in settings):
            key, _, value = setting.partition("=")
            if key in given:
                yield code.replace(given[key].value, value.partition(",")[0])
            else:
                yield with_argument(code, node, setting)
        if name == "scaled_dot_product_attention":
            dropout = [keyword for keyword in node.keywords if keyword.arg == "dropout_p"]
            kept = ", ".join(map(code.text, (*node.args[:3], *dropout)))
            yield code.replace(node, f"{code.text(node.func)}({kept}, is_causal=True)")


def activations(code: Code, place: Place) -> Iterator[Edit]:
    """GPT-2's activation in the place of another, of a formula, or of a part of one."""
    values = code.values(place)
    for node in (each for each in values if _ACTIVATION.search(code.text(each))):
        if isinstance(node, ast.Call) and called(node)[:1].isupper():  # nn.ReLU()
            yield code.replace(node, f'{code.text(node.func)[: -len(called(node))]}GELU(approximate="tanh")')
        inside = [each for each in ast.walk(node) if each in values and not isinstance(each, ast.Constant)]
        for x in dict.fromkeys(text for text in map(code.text, inside) if not _ACTIVATION.search(text)):
            cubic = filled(f"{_ROOT} * ({{}} + 0.044715 * {{}} ** 3)", x, x)
            curve = f"0.5 * (1 + {'np' if code.numpy else 'torch'}.tanh({cubic}))"
            whole = filled(f"{{}} * {curve}", x) if code.numpy else f'{_functional(code)}.gelu({x}, approximate="tanh")'
            yield from (code.replace(node, whole), code.replace(node, curve))


def _functional(code: Code) -> str:
    """What the file calls ``torch.nn.functional``."""
    known = {"F": r"functional as F\b", "functional": r"import functional$", "nn.functional": r"\bnn$"}
    for name, pattern in known.items():
        if re.search(pattern, code.source, re.MULTILINE):
            return name
    return "torch.nn.functional"


def numbers(code: Code, place: Place) -> Iterator[Edit]:
    """Another number: GPT-2's own, the neighbours, the negative."""
    negated = [node.operand for node in code.expressions(place) if isinstance(node, ast.UnaryOp)]
    for node in (each for each in code.expressions(place) if each not in negated):
        match node:
            case ast.Constant(value=bool(value)):
                yield code.replace(node, str(not value))
            case ast.Tuple(elts=elements) if all(isinstance(each, ast.Constant | ast.UnaryOp) for each in elements):
                yield from (code.replace(node, axis) for axis in ("-1", "1", "0", "-2"))  # of axes
            case ast.Constant(value=int(value)):
                near = [*map(str, (value - 1, value + 1, -value)), *_INTEGERS]
                idle = _IDLE.get(type(operation.op)) if isinstance(operation := code.parent(node), ast.BinOp) else None
                yield from (code.replace(node, number) for number in near if number != idle)
            case ast.Constant(value=float(value)) | ast.UnaryOp(operand=ast.Constant(value=float(value))):
                yield from (code.replace(node, number) for number in _floats_like(value))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                near = [*map(str, (-value - 1, -value + 1, value)), "0", "1", "2", "-0.5"]
                yield from (code.replace(node, number) for number in near)
            case ast.Call(func=ast.Name(id="float")) | ast.Attribute(attr="inf" | "max"):
                yield code.replace(node, f"-{code.text(node)}")


def _floats_like(value: float) -> Iterator[str]:
    """GPT-2's numbers, those first that are about as large."""
    if abs(value) < 1e-2:
        yield "1e-5" if value else '-float("inf")'
    if value and abs(value) < float("inf"):
        yield from (f"{each:g}" for each in (value, -value, 1 / value, -1 / value))
    size = {text: 1e9 if "inf" in text else abs(float(text)) for text in _FLOATS}
    yield from sorted(_FLOATS, key=lambda text: abs(abs(value) - size[text]))


def operators(code: Code, place: Place) -> Iterator[Edit]:
    """Another operator, another function of the same kind."""
    for node in code.expressions(place):
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                for other in _OPERATORS.get(type(op), ()):
                    yield code.replace(node, filled(f"{{}} {other} {{}}", code.text(left), code.text(right)))
            case ast.Compare(left=left, ops=[_], comparators=[right]):
                yield from (code.replace(node, f"{code.text(left)} {sign} {code.text(right)}") for sign in _COMPARISONS)
                yield code.replace(node, f"{code.text(right)} < {code.text(left)}")
            case ast.Attribute(attr=name) if name.endswith("_") and not name.startswith("_"):
                end = code.span(node)[1]
                yield Edit(end - 1, end, "")  # x.add_(y) changes x, x.add(y) does not
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in _TWINS:
                end = code.span(node)[1]
                yield from (Edit(end - len(name), end, twin) for twin in _TWINS[name])
            case ast.Call(args=[*_, by]) if called(node) in ("tril", "triu") and re.fullmatch(r"-?\d+", code.text(by)):
                name, (start, end) = called(node), code.span(node.func)
                twin = code.source[start : end - len(name)] + _TWINS[name][0]
                yield code.replace(node, f"{twin}{code.source[end : code.span(by)[0]]}{-int(code.text(by))})")


def axes(code: Code, place: Place) -> Iterator[Edit]:
    """Other axes of a transpose, other letters of an einsum, a step that moves axes in the place of another."""
    split, cat = "{}.chunk(%d, dim=-1)", "torch.cat({}, dim=-1)"
    if code.numpy:
        split, cat = "np.split({}, %d, axis=-1)", "np.concatenate({}, axis=-1)"
    for node in code.expressions(place):
        name, of = called(node), receiver(node)
        if not isinstance(node, ast.Call):
            continue
        if name in ("transpose", "swapaxes", "permute", "movedim") and 2 <= len(node.args) <= 5:
            pairs = itertools.combinations(range(-2, 4), 2)
            for order in itertools.permutations(range(len(node.args))) if name == "permute" else pairs:
                start, end = code.span(node.args[-len(order)])[0], code.span(node.args[-1])[1]
                yield Edit(start, end, ", ".join(map(str, order)))
        if of is not None and name in ("reshape", "view", "flatten", "unflatten", "swapaxes", "permute", "contiguous"):
            turn = "swapaxes" if code.numpy else "transpose"
            yield from (
                code.replace(node, filled(f"{{}}.{turn}({pair})", code.text(of))) for pair in ("-2, -1", "1, 2")
            )
        if of is not None and name in ("unbind", "chunk", "view", "unflatten", "split", "permute"):
            sources = [code.text(each) for each in map(receiver, _chain(of)) if each is not None]
            yield from (code.replace(node, filled(split % parts, each)) for each in sources for parts in (3, 2))
        for each in _chain(node):
            if called(each) in ("stack", "vstack", "cat", "concatenate") and each.args:
                yield code.replace(node, cat.format(code.text(each.args[0])))
        match node.args:
            case [ast.Constant(value=str(letters)) as equation, *_] if "->" in letters:
                yield from (code.replace(equation, f'"{other}"') for other in _other_equations(letters))


def _chain(node: ast.AST) -> Iterator[ast.Call]:
    """``x.f().g()``: the calls of g and f."""
    while isinstance(node, ast.Call):
        yield node
        node = node.func.value if isinstance(node.func, ast.Attribute) else node.func


def _other_equations(equation: str) -> Iterator[str]:
    """Two letters exchanged in one operand of an einsum, in its result, or in two of these."""
    terms = equation.replace("->", ",->").split(",")
    pairs = list(itertools.combinations(dict.fromkeys(letter for letter in equation if letter.isalpha()), 2))
    for several in (1, 2):
        for chosen, pair in itertools.product(itertools.combinations(range(len(terms)), several), pairs):
            table = str.maketrans("".join(pair), "".join(reversed(pair)))
            changed = [term.translate(table) if at in chosen else term for at, term in enumerate(terms)]
            yield ",".join(changed).replace(",->", "->")


def reshapes(code: Code, place: Place) -> Iterator[Edit]:
    """The sizes of a view and the order of axes before or behind it: ``x.view(b, t, h, d).transpose(1, 2)``."""
    turns = [f".{'swapaxes' if code.numpy else 'transpose'}({pair})" for pair in ("1, 2", "0, 1", "2, 3", "-2, -1")]
    for node in code.values(place):
        turned = called(node) in ("permute", "transpose", "swapaxes")
        view = receiver(node) if turned else node
        of = receiver(view) if view is not None else None
        if view is None or of is None or called(view) not in ("view", "reshape") or not isinstance(view, ast.Call):
            continue
        sizes, x = [code.text(each) for each in view.args], code.text(of)
        tail = code.source[code.span(view)[1] : code.span(node)[1]]
        for order in orders(sizes):
            split = f"reshape({', '.join(order)})"
            behind = (code.replace(node, f"{x}.{split}{turn}") for turn in (tail, "", *turns))
            yield from in_turn((behind, (code.replace(node, f"{x}{turn}.{split}") for turn in (tail, *turns))))


def masks(code: Code, place: Place) -> Iterator[Edit]:
    """A mask in the other sense, as booleans or with all its rows; GPT-2's mask in front of the softmax."""
    for node in code.values(place):
        text, of = code.text(node), receiver(node)
        if _MASK.search(called(node) or text) and called(node) not in ("masked_fill", "masked_fill_"):
            senses = ("~{}", "{} == 0", "1 - {}", *(() if code.numpy else ("{}.bool()", "~{}.bool()")))
            yield from (code.replace(node, filled(sense, text)) for sense in senses)
        match node:
            case ast.Call(args=[_, *_], keywords=settings) if called(node) == "ones":
                size = code.text(node.args[-1])
                square = ", ".join((size, size, *(code.source[slice(*code.span(each))] for each in settings)))
                made = f"{code.text(node.func)}({square})"
                yield code.replace(node, f"np.tril({made})" if code.numpy else f"{made}.tril()")
            case ast.Call(args=[_, given, *_]) if called(node) in ("masked_fill", "masked_fill_", "where"):
                yield code.replace(node, _masked(code, code.text(of if of is not None else given)))
            case ast.Call(args=[scores, *_]) if "softmax" in called(node).lower() and of is None:
                yield code.replace(scores, _masked(code, code.text(scores)))
            case ast.Call() if called(node) == "softmax" and of is not None:
                yield code.replace(of, _masked(code, code.text(of)))


def _masked(code: Code, scores: str) -> str:
    """Scores with those of later keys hidden."""
    if code.numpy:
        return filled("{} + np.triu(np.full({}.shape[-2:], -np.inf), 1)", scores, scores)
    return filled(f'{{}} + torch.full_like({scores}, -float("inf")).triu(1)', scores)


def norms(code: Code, place: Place) -> Iterator[Edit]:
    """The norm's formula: a value centred, a variance instead of a deviation, or all of it."""
    function = place.functions[0] if place.functions else None
    around = code.text(function) if function is not None else ""
    if function is None or not re.search(r"mean|var|std|norm", around) or not re.search(r"sqrt|\*\*|std|norm", around):
        return
    keep, root = ("axis=-1, keepdims=True", "np") if code.numpy else ("-1, keepdim=True", "torch")
    variables = code.names(place)
    for node in code.values(place):
        text = code.text(node)
        match node:
            case ast.Name() if text in variables:
                yield code.replace(node, f"{text} - {text}.mean({keep})")
            case ast.BinOp(left=ast.Call() as deviation, right=small) if called(deviation) == "std":
                variance = code.text(deviation).replace("std(", "var(", 1)
                biased = variance if code.numpy or "unbiased" in variance else variance[:-1] + ", unbiased=False)"
                yield code.replace(node, f"{root}.sqrt({biased} + {code.text(small)})")
    if isinstance(place.statement, ast.Return) and place.statement.value is not None:
        x = next((each.arg for each in function.args.args if each.arg != "self"), "x")
        parameters = [each for each in (*variables, *code.attributes(place)) if each != x and not each.endswith("eps")]
        for gain, bias in itertools.permutations(parameters[-5:], 2):
            by_hand = f"{gain} * ({x} - {x}.mean({keep})) / ({x}.var({keep}) + 1e-5) ** 0.5 + {bias}"
            torchs = f"{_functional(code)}.layer_norm({x}, {x}.shape[-1:], {gain}, {bias}, 1e-5)"
            yield code.replace(place.statement.value, by_hand if code.numpy else torchs)


def blocks(code: Code, place: Place) -> Iterator[Edit]:
    """What stands around the layers: post-norm, a norm on the wrong side, blocks that are one object, positions."""
    for node in code.expressions(place):
        match node:
            case ast.Call(func=norm, args=[ast.BinOp(left=left, op=ast.Add(), right=ast.Call(args=[x, *_]) as call)]):
                head = code.source[code.span(call)[0] : code.span(x)[0]]
                tail = code.source[code.span(x)[1] : code.span(call)[1]]
                yield code.replace(node, f"{code.text(left)} + {head}{code.text(norm)}({code.text(x)}){tail}")
            case ast.BinOp(left=ast.Call(args=[x]) as one, op=ast.Add(), right=ast.Call(args=[y]) as other):
                for f, g in itertools.permutations((code.text(one.func), code.text(other.func))):
                    yield code.replace(node, f"{code.text(x)} + {f}({g}({code.text(y)}))")
            case ast.BinOp(left=ast.List(elts=[one]), op=ast.Mult(), right=count):
                yield code.replace(node, f"[{code.text(one)} for _ in range({code.text(count)})]")
            case ast.BinOp(left=scores, op=ast.Mult(), right=ast.Name(id=mask)):
                yield code.replace(node, f"{code.text(scores)} * {mask} - 1e10 * (1 - {mask})")
            case ast.ListComp(elt=ast.Name() as element) if "import copy" in code.source:
                yield code.replace(element, f"copy.deepcopy({code.text(element)})")
            case ast.Lambda(args=ast.arguments(args=[one]), body=body):
                inside = dict.fromkeys(each.id for each in ast.walk(body) if isinstance(each, ast.Name))
                yield from (Edit(*code.span(one), name) for name in inside)
            case ast.Call(args=[x, *_]) if "pos" in code.text(node.func).lower():
                arange = "np.arange" if code.numpy else "torch.arange"
                counts = (way for name in code.names(place) for way in (f"{name}.shape[1]", name))
                yield from (code.replace(x, f"{arange}({count})") for count in counts)


def scales(code: Code, place: Place) -> Iterator[Edit]:
    """A transpose, a root, a half or a scale that is missing."""
    turn = "swapaxes" if code.numpy else "transpose"
    steps = [f"{{}}.{turn}({pair})" for pair in ("-2, -1", "1, 2", "0, 1")]
    steps += ["{}.T", "{} ** 0.5", "{} ** -0.5", "0.5 * {}", "1 + {}", "-{}", "{} * -1e9"]
    layers = code.layers(place)
    variables, attributes = code.names(place), [each for each in code.attributes(place) if each not in layers]
    widths = [f"{{}} / ({each}.shape[-1] ** 0.5)" for each in variables]
    widths += [f"{{}} / ({each} ** 0.5)" for each in (*attributes, *variables)]
    values = [node for node in code.values(place) if not isinstance(node, ast.Constant)]
    for node in values:
        operation = getattr(code.parent(node), "op", None)
        if called(code.parent(node)) == "sqrt" or isinstance(operation, ast.Pow):
            yield from (code.replace(node, f"{code.text(node)} // {each}") for each in (*attributes, *variables))
        elif isinstance(operation, ast.Mult | ast.Div) and isinstance(node, ast.Name | ast.Attribute | ast.BinOp):
            yield code.replace(node, filled("{} ** 0.5", code.text(node)))
    waiting = []
    for node in values:
        text = code.text(node)
        product = re.search(r"@|matmul|einsum|dot", text) is not None
        ways = [*widths, *steps] if product else [*steps, *widths]
        waiting.append([code.replace(node, filled(way, text)) for way in ways])
    yield from in_turn(waiting)
