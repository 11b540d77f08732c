"""The record of a pass, read as GPT-2: which element of which parameter is which of GPT-2's.

`read` starts at the logits and goes back: head, final norm, residual stream, and for each product that was added to the
stream what it reads, until the tables are reached. What a product's columns are for is known from where they go: what
multiplies the probabilities is a value, the rows of a score are queries. Everything that GPT-2 does not have is noted
as a contradiction, in words. Reading proves nothing by itself; `proof` does.

Canonical order: a column of the residual stream counts as the column of the token table that it starts from; heads
count as they come in the output projection's inputs; columns of a head as they come in the mix and in the scores.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout.events import Event, Record, distinct


class Contradiction(Exception):
    """Something that GPT-2 does not do, in words."""


@dataclass(frozen=True)
class Norm:
    """A layer norm as read, or that there is none.

    Args:
        stream: the features that are normalised.
        gain: numbers ``[E]``, zeros where it has none.
        bias: the same.
        event: the index of the event that read the stream; -1 without a norm.
        columns: which of that event's features they are.
        centred: whether a mean is subtracted.
        divides: the index of the event that divides, or -1.
    """

    stream: Tensor
    gain: Tensor
    bias: Tensor
    columns: Tensor
    event: int = -1
    centred: bool = False
    divides: int = -1

    @property
    def normalised(self) -> bool:
        """Whether there is a norm at all."""
        return self.event >= 0


@dataclass(frozen=True)
class Linear:
    """A linear layer as read: for each of its columns the weights ``[n, k]``, their inputs, and the bias ``[n]``."""

    weight: Tensor
    inputs: Tensor
    bias: Tensor
    event: int


@dataclass(frozen=True)
class Stream:
    """A residual stream as read, as a sum.

    Args:
        columns: for each of its features the canonical column.
        tokens: the token table, if it is part of the sum.
        positions: the position table, if it is.
        products: pairs of an event and the features ``[E]`` that it contributed.
        vectors: pairs of an event and the biases ``[E]`` that it added.
    """

    columns: Tensor
    tokens: Tensor | None
    positions: Tensor | None
    products: tuple[tuple[int, Tensor], ...]
    vectors: tuple[tuple[int, Tensor], ...]


@dataclass
class Branch:
    """What reads the stream through a norm and is added to it: attention or feed-forward.

    Args:
        attention: which of the two.
        event: of the product whose result is added.
        norm: that it reads through.
        parts: linear layers by name: q, k, v or fc, numbers ``[out, in]`` in canonical order.
        projection: numbers ``[in, E]``.
        bias: of the projection, numbers ``[E]``.
        reads: the stream that its norm reads.
        input_event: a product that reads what the norm gives.
        places: for each row of `projection` its place among the inputs of the product `event`.
        heads: of attention.
        all_events: the products that are added; several, where heads are added one by one.
    """

    attention: bool
    event: int
    norm: Norm
    parts: dict[str, tuple[Tensor, Tensor]]
    projection: Tensor
    bias: Tensor
    reads: Stream
    input_event: int
    places: Tensor
    heads: int = 0
    all_events: tuple[int, ...] = ()


@dataclass
class Reading:
    """Which numbers are GPT-2's.

    Args:
        canonical: canonical name -> int32 numbers in canonical shape and orientation; 0 where theirs has no element.
        head_bias: numbers of a bias that the head has and GPT-2 lacks, or None.
        tied: whether the head is the token table itself.
        branches: in execution order.
        final: the final norm.
        contradictions: what does not fit, in words.
        deviations: departures of the wiring that a layout can be read in spite of, in words.
        width: of the token table, if there is one.
    """

    canonical: dict[str, Tensor] = field(default_factory=dict)
    head_bias: Tensor | None = None
    tied: bool = True
    branches: list[Branch] = field(default_factory=list)
    final: Norm | None = None
    final_stream: Stream | None = None
    head_event: int = -1
    contradictions: list[str] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    width: int | None = None


def read(record: Record, logits: Tensor | None, config: GPTConfig) -> Reading:
    """Reads a record.

    Args:
        record: of one pass over as many tokens as the context has.
        logits: the numbers of its logits ``[1, T, V]``.
        config: what GPT-2 is expected.

    Returns:
        A `Reading`; with contradictions, where it is not GPT-2's.
    """
    reader = _Reader(record, config)
    try:
        reader.walk(logits)
    except Contradiction as error:
        reader.reading.contradictions.append(str(error))
    except (IndexError, RuntimeError) as error:  # numbers in places where GPT-2 has none of this shape
        reader.reading.contradictions.append(f"what was recorded could not be read: {error}")
    return reader.reading


class _Reader:
    def __init__(self, record: Record, config: GPTConfig) -> None:
        self.record = record
        self.config = config
        self.reading = Reading()
        self.streams: dict[bytes, Stream] = {}

    # ------------------------------------------------------------------------------------------------- the whole

    def walk(self, logits: Tensor | None) -> None:
        config, reading = self.config, self.reading
        if logits is None or logits.numel() == 0:
            raise Contradiction("the logits do not depend on any parameter of the module")
        last = logits.reshape(-1, logits.shape[-1])[-1]
        head = self.linear(last, "the logits")
        x = self.same_inputs(head, "the logits")
        reading.head_event = head.event
        reading.final = norm = self.norm(x)
        if not norm.normalised:
            reading.deviations.append("there is no norm before the head")
        reading.final_stream = stream = self.stream(norm.stream)
        branches = self.branches(stream)
        reading.branches = branches
        tokens, positions = self.tables(stream, branches)
        put = reading.canonical
        if tokens is not None:
            put["wte.weight"] = tokens
        if positions is not None:
            put["wpe.weight"] = positions
        self.place(branches)
        if norm.normalised:
            put["ln_f.weight"], put["ln_f.bias"] = self.gain_and_bias(norm, stream, "the final norm")
        weight = _ordered(head.weight, stream.columns, 1)
        reading.tied = tokens is not None and tokens.shape == weight.shape and torch.equal(tokens, weight)
        if not reading.tied:
            put["lm_head.weight"] = weight
        if bool(head.bias.any()):
            reading.head_bias = head.bias
        if last.numel() != config.vocab_size:
            reading.contradictions.append(f"the logits have {last.numel()} columns, not {config.vocab_size}")

    def branches(self, final: Stream) -> list[Branch]:
        """Everything that was added to the stream, in execution order; found from the final stream back."""
        found: dict[int, Branch] = {}
        todo = [final]
        vectors = dict(final.vectors)
        while todo:
            stream = todo.pop()
            grouped: dict[object, list[Branch]] = {}  # heads that write to the stream one by one are one attention
            for event, features in stream.products:
                if any(event in branch.all_events for branch in found.values()):
                    continue
                branch = self.branch(event, features, stream)
                reads = branch.norm.stream.numpy(force=True).tobytes()
                grouped.setdefault(reads if branch.attention else event, []).append(branch)
            for group in grouped.values():
                branch = _joined(group)
                found[branch.event] = branch
                todo.append(branch.reads)
                vectors.update(branch.reads.vectors)
        ordered = [found[event] for event in sorted(found)]
        for time, bias in sorted(vectors.items(), key=lambda item: item[0]):
            before = [branch for branch in ordered if min(branch.all_events) < time]
            if not before or bool(before[-1].bias.any()):
                raise Contradiction(
                    f"{self.names(bias)} is added to the residual stream, where GPT-2 has no bias left to add"
                )
            before[-1].bias = bias
        return ordered

    def tables(self, final: Stream, branches: list[Branch]) -> tuple[Tensor | None, Tensor | None]:
        """The token and position tables, wherever a stream shows them."""
        config, contradictions = self.config, self.reading.contradictions
        streams = [*(branch.reads for branch in branches), final]
        tokens = next((stream.tokens for stream in streams if stream.tokens is not None), None)
        positions = next((stream.positions for stream in streams if stream.positions is not None), None)
        expected = {"token": (config.vocab_size, config.n_embd), "position": (config.n_positions, config.n_embd)}
        if tokens is not None:
            self.reading.width = tokens.shape[-1]
        for what, table in (("token", tokens), ("position", positions)):
            if table is None and what == "token":
                contradictions.append(f"no token table {list(expected[what])} is looked up by the ids")
            elif table is None:
                contradictions.append(
                    f"no learned positions {list(expected[what])} are added to the tokens: they are computed "
                    f"(sinusoidal, for example), or there are none"
                )
            elif tuple(table.shape) != expected[what]:
                names = self.names(table[:1])
                whole = self.record.parameters.get(names)  # which may have more rows than were looked up
                shape = list(table.shape if whole is None else whole.shape)
                contradictions.append(f"the {what} table ({names}) is {shape}, expected {list(expected[what])}")
        return tokens, positions

    def place(self, branches: list[Branch]) -> None:
        """Gives every branch its layer, and its parameters their canonical names."""
        config, reading = self.config, self.reading
        roles = [branch.attention for branch in branches]
        expected = [True, False] * config.n_layer
        if roles != expected:
            reading.contradictions.append(
                f"{sum(roles)} attentions and {len(roles) - sum(roles)} feed-forwards are added to the residual stream"
                + (
                    ", and not by turns"
                    if sorted(roles) == sorted(expected)
                    else f", expected {config.n_layer} of each"
                )
            )
            return
        for index, branch in enumerate(branches):
            layer = index // 2
            h, norm_name = f"h.{layer}", "ln_1" if branch.attention else "ln_2"
            put, where = reading.canonical, f"layer {layer}"
            self.wiring(branches, index, where)
            if not branch.norm.normalised:
                reading.deviations.append(f"{where}: there is no norm before {role(branch)}")
            else:
                put[f"{h}.{norm_name}.weight"], put[f"{h}.{norm_name}.bias"] = self.gain_and_bias(
                    branch.norm, branch.reads, f"{where}: the norm before {role(branch)}"
                )
            if branch.attention:
                self.attention_sizes(branch, where)
                weights, biases = zip(*(branch.parts[letter] for letter in "qkv"), strict=True)
                put[f"{h}.attn.c_attn.weight"] = torch.cat(weights).t()
                put[f"{h}.attn.c_attn.bias"] = torch.cat(biases)
                put[f"{h}.attn.c_proj.weight"], put[f"{h}.attn.c_proj.bias"] = branch.projection, branch.bias
            else:
                weight, bias = branch.parts["fc"]
                if len(weight) != config.inner_dim:
                    reading.contradictions.append(
                        f"{where}: the feed-forward is {len(weight)} wide, not {config.inner_dim}"
                    )
                put[f"{h}.mlp.c_fc.weight"], put[f"{h}.mlp.c_fc.bias"] = weight.t(), bias
                put[f"{h}.mlp.c_proj.weight"], put[f"{h}.mlp.c_proj.bias"] = branch.projection, branch.bias

    def attention_sizes(self, branch: Branch, where: str) -> None:
        config = self.config
        columns = sum(len(branch.parts[letter][0]) for letter in "qkv")
        if columns != 3 * config.n_embd:
            raise Contradiction(
                f"{where}: query, key and value have {columns} columns together, not {3 * config.n_embd}"
            )
        if branch.heads != config.n_head:
            raise Contradiction(f"{where}: attention has {branch.heads} heads, not {config.n_head}")
        for letter, what in (("q", "query"), ("k", "key"), ("v", "value")):
            weight = branch.parts[letter][0]
            if len(distinct(weight[:, 0])) < len(weight):
                raise Contradiction(
                    f"{where}: several heads share {what} columns of {self.names(weight)} (grouped queries)"
                )

    def wiring(self, branches: list[Branch], index: int, where: str) -> None:
        """Notes what a branch's norm should read and does not, or reads and should not."""
        branch = branches[index]
        expected = {event for other in branches[:index] for event in other.all_events}
        found = {event for event, _ in branch.reads.products}
        if found == expected and branch.reads.tokens is not None:
            return
        missing = [_named(branches, event) for event in sorted(expected - found)]
        more = [_named(branches, event) for event in sorted(found - expected)]
        if branch.reads.tokens is None:
            missing.insert(0, "the embedding")
        parts = [
            *(f"the sum that {role(branch)} reads lacks {each}" for each in dict.fromkeys(missing)),
            *(f"the sum that {role(branch)} reads has {each} in it" for each in dict.fromkeys(more)),
        ]
        self.reading.deviations.append(f"{where}: " + ", ".join(parts))

    def gain_and_bias(self, norm: Norm, stream: Stream, what: str) -> tuple[Tensor, Tensor]:
        if not norm.centred:
            raise Contradiction(f"{what} does not subtract the mean (RMSNorm{_at(self.record.events[norm.event])})")
        if not bool(norm.gain.all()):
            raise Contradiction(f"{what} has no gain")
        return _ordered(norm.gain, stream.columns, 0), _ordered(norm.bias, stream.columns, 0)

    # ------------------------------------------------------------------------------------------------- its parts

    def branch(self, event_index: int, features: Tensor, stream: Stream) -> Branch:
        """One product that was added to a stream: what it is, and what it reads."""
        event = self.record.events[event_index]
        batch = len(event.operands[0])
        columns = features - event.first
        batches = distinct(columns // (event.count // batch))
        if len(batches) != 1:
            raise Contradiction(f"{self.say(event)} contributes columns of several matrices to the residual stream")
        which = int(batches[0])
        weight = event.operands[1][which][:, (columns % (event.count // batch)).long()]
        weight = _ordered(weight, stream.columns, 1)  # [in, E]
        inputs = event.operands[0][which]
        if event.scrambled:
            raise Contradiction(f"{self.say(event)}: columns change their meaning along positions")
        kinds = {self.record.events[index].kind for index, _ in self.segments(inputs, self.say(event))}
        nothing = torch.zeros(weight.shape[1], dtype=torch.int32, device=weight.device)
        if kinds == {"mix"}:
            return self.attention(event_index, inputs, weight, nothing)
        if kinds == {"function"}:
            gate = self.record.event_of(int(inputs[0]))
            raise Contradiction(
                f"two projections are multiplied with each other (a gated feed-forward, such as SwiGLU){_at(gate)}"
            )
        first = self.linear(inputs, f"what {self.say(event)} reads")
        x = self.same_inputs(first, "the feed-forward")
        norm = self.norm(x)
        reads = self.stream(norm.stream)
        parts = {"fc": (_ordered(first.weight, reads.columns, 1), first.bias)}
        places = torch.arange(len(weight))
        return Branch(
            False, event_index, norm, parts, weight, nothing, reads, first.event, places, all_events=(event_index,)
        )

    def attention(self, event_index: int, inputs: Tensor, weight: Tensor, nothing: Tensor) -> Branch:
        """An attention from its output projection's inputs: heads and their columns, values, and queries and keys."""
        record = self.record
        heads: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (mix, batch) -> (column, place)
        for place, number in enumerate(inputs.tolist()):
            index = record.index_of(number)
            mix = record.events[index]
            width = mix.count // len(mix.operands[0])
            heads.setdefault((index, (number - mix.first) // width), []).append(((number - mix.first) % width, place))
        places, values, lefts, rights = [], [], [], []
        for (index, batch), columns in heads.items():
            mix = record.events[index]
            if mix.scrambled:
                raise Contradiction(f"{self.say(mix)}: values change their meaning along positions")
            for column, place in sorted(columns):
                places.append(place)
                values.append(mix.operands[1][batch, column])
            number = int(mix.operands[0][batch])
            scores = record.event_of(number)
            if scores.kind != "scores":
                raise Contradiction(f"the attention's scores are changed: {self.say(scores)}")
            if scores.scrambled:
                raise Contradiction(f"{self.say(scores)}: queries or keys change their meaning along positions")
            row = (number - scores.first) // scores.rows
            queries, keys = scores.operands[0][row], scores.operands[1][row]
            lefts.append(keys if mix.keys_left else queries)
            rights.append(queries if mix.keys_left else keys)
        found = {
            "q": self.linear(torch.cat(lefts), "the query"),
            "k": self.linear(torch.cat(rights), "the key"),
            "v": self.linear(torch.stack(values), "the value"),
        }
        inputs_of = {letter: self.same_inputs(linear, f"attention's {letter}") for letter, linear in found.items()}
        if not torch.equal(inputs_of["q"], inputs_of["k"]) or not torch.equal(inputs_of["q"], inputs_of["v"]):
            shared = [sorted(inputs.tolist()) for inputs in inputs_of.values()]
            if shared[0] != shared[1] or shared[0] != shared[2]:
                raise Contradiction("query, key and value of one attention read different things")
        norm = self.norm(inputs_of["v"])
        reads = self.stream(norm.stream)
        parts = {}
        for letter, linear in found.items():
            order = self.stream(self.norm(inputs_of[letter]).stream).columns
            parts[letter] = (_ordered(linear.weight, order, 1), linear.bias)
        return Branch(
            True,
            event_index,
            norm,
            parts,
            weight[torch.tensor(places)],
            nothing,
            reads,
            found["v"].event,
            torch.tensor(places),
            heads=len(heads),
            all_events=(event_index,),
        )

    def norm(self, x: Tensor) -> Norm:
        """Peels gain, bias and normalising off; gives `x` itself back where there is no norm."""
        nothing = torch.zeros_like(x)
        stream, gain, bias, read, centred, first, divides = x, nothing, nothing, nothing, False, -1, -1
        while True:
            segments = self.segments(stream, "what a norm reads")
            if len(segments) != 1:
                break
            index = segments[0][0]
            event = self.record.events[index]
            columns = (stream - event.first).long()
            if event.kind in ("norm", "rms_norm"):
                if event.scrambled:
                    raise Contradiction(f"{self.say(event)}: columns change their meaning along positions")
                gain = event.operands[1][columns] if bool(event.operands[1].any()) else gain
                bias = event.operands[2][columns] if bool(event.operands[2].any()) else bias
                centred, first, read, divides = event.kind == "norm", index, columns, index
                stream = event.operands[0][columns]
                break
            if event.kind == "sum" and divides < 0 and event.operands[-1].dim() == 2 and not bool(bias.any()):
                if len(event.operands[-1]) != 1:
                    break
                bias = event.operands[-1][0][columns]
            elif event.kind == "gain" and not bool(gain.any()) and len(event.operands[1]) == 1:
                gain = event.operands[1][0][columns]
            elif event.kind in ("centred", "normalised"):
                centred, first, read = centred or event.kind == "centred", index, columns
                divides = index if event.kind == "normalised" else divides
            else:
                break
            stream = event.operands[0][columns]
        if divides < 0:
            return Norm(x, nothing, nothing, nothing)
        return Norm(stream, gain, bias, read, first, centred, divides)

    def stream(self, features: Tensor) -> Stream:
        """Reads a residual stream: everything that was summed."""
        key = features.numpy(force=True).tobytes()
        if key in self.streams:
            return self.streams[key]
        terms, vectors = self.terms(features)
        tokens, positions, columns = None, None, torch.arange(len(features))
        products, biases = [], []
        for term in terms:
            segments = self.segments(term, "the residual stream")
            event = self.record.events[segments[0][0]]
            if len(segments) > 1:
                raise Contradiction("the residual stream is put together from several pieces")
            if event.kind == "lookup" and tokens is None:
                columns = (term - event.first).long()
                tokens = event.operands[0]
                if len(distinct(columns)) != len(columns) or tokens.shape[1] != len(columns):
                    raise Contradiction(
                        f"the residual stream is {len(columns)} wide, the token table {list(tokens.shape)}"
                    )
            elif event.kind == "product":
                products.append((segments[0][0], term))
            elif event.kind in ("norm", "rms_norm", "gain", "normalised", "centred"):
                raise Contradiction(
                    f"the residual stream itself is normalised (post-norm): {self.say(event)}; in GPT-2 only what "
                    f"attention, feed-forward and head read is"
                )
            else:
                raise Contradiction(f"the residual stream has a term that GPT-2 lacks: {self.say(event)}")
        for time, table in vectors:
            if len(table) > 1 and positions is None:
                positions = _ordered(table, columns, 1)
            elif len(table) > 1:
                raise Contradiction(f"a second table is added to the residual stream: {self.names(table)}")
            else:
                biases.append((time, _ordered(table[0], columns, 0)))
        result = Stream(columns, tokens, positions, tuple(products), tuple(biases))
        self.streams[key] = result
        return result

    def linear(self, numbers: Tensor, what: str) -> Linear:
        """Reads features as columns of one or several products with parameters, and their biases."""
        terms, vectors = self.terms(numbers)
        weight: Tensor | None = None
        inputs: Tensor | None = None
        made = torch.full((len(numbers),), -1)  # the event of the product that each number is of
        first_event = -1
        for term in terms:
            for index, places in self.segments(term, what):
                event = self.record.events[index]
                if event.kind != "product":
                    raise Contradiction(f"{what}: expected a product with a parameter, found {self.say(event)}")
                if event.scrambled:
                    raise Contradiction(f"{what}: columns change their meaning along positions ({self.say(event)})")
                first_event = max(first_event, index)
                if weight is None or inputs is None:
                    size = event.operands[0].shape[1]
                    weight = torch.zeros(len(numbers), size, dtype=torch.int32)
                    inputs = torch.zeros(len(numbers), size, dtype=torch.int32)
                columns = (term[places] - event.first).long()
                batch = len(event.operands[0])
                width = event.count // batch
                if batch == 1 and len(places) == len(numbers) and len(terms) == 1:  # the usual case, without a copy
                    first, last = int(columns[0]), int(columns[-1]) + 1
                    row = last - first == len(columns) and bool((columns.diff() == 1).all())
                    matrix = event.operands[1][0]
                    weight = (matrix[:, first:last] if row else matrix.index_select(1, columns)).t()
                    inputs = event.operands[0].expand(len(numbers), -1)
                    continue
                if event.operands[0].shape[1] != weight.shape[1]:
                    raise Contradiction(f"{what}: products with inputs of several widths")
                if bool(weight[places].any()):
                    outer = self.record.event_of(int(numbers[0]))
                    if bool((made[places] == index).all()) and outer.kind == "sum":
                        raise Contradiction(
                            f"{what}: its columns are mixed with each other before the scores, as rotary positions do"
                            f"{_at(outer)}"
                        )
                    raise Contradiction(
                        f"{what}: a second product is added to the first ({self.names(event.operands[1])})"
                    )
                weight[places] = event.operands[1][columns // width, :, columns % width]
                inputs[places] = event.operands[0][columns // width]
                made[places] = index
        if weight is None or inputs is None or not bool((weight != 0).all()):
            raise Contradiction(f"{what}: expected a product with a parameter")
        bias = torch.zeros(len(numbers), dtype=torch.int32)
        for _, table in vectors:
            if len(table) > 1 or bool((bias[table[0] != 0]).any()):
                raise Contradiction(f"{what}: {self.names(table)} is added, where GPT-2 adds one bias")
            bias = torch.where(table[0] != 0, table[0], bias)
        return Linear(weight, inputs, bias, first_event)

    def same_inputs(self, linear: Linear, what: str) -> Tensor:
        """The features that every column of a linear layer reads."""
        if linear.inputs.stride(0) and not bool((linear.inputs == linear.inputs[:1]).all()):
            raise Contradiction(f"{what}: not all columns read the same")
        return linear.inputs[0]

    def terms(self, numbers: Tensor) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
        """Features as a sum: its summands ``[n]``, and pairs of an event and the parameters ``[rows, n]`` it adds."""
        leaves: list[Tensor] = []
        vectors: list[tuple[int, Tensor]] = []
        todo = [numbers]
        while todo:
            array = todo.pop()
            shown = array.nonzero().flatten()
            if not len(shown):
                continue
            segments = [(i, shown[places]) for i, places in self.segments(array[shown], "a sum")]
            events = {index: self.record.events[index] for index, _ in segments}
            if all(event.kind != "sum" for event in events.values()):
                leaves.append(array)
                continue
            for slot in range(max(len(event.operands) for event in events.values() if event.kind == "sum")):
                part = torch.zeros_like(array)
                table: Tensor | None = None
                time = 0
                for index, places in segments:
                    event = events[index]
                    if event.kind != "sum":
                        if slot == 0:
                            part[places] = array[places]
                        continue
                    if slot >= len(event.operands):
                        continue
                    columns = (array[places] - event.first).long()
                    operand = event.operands[slot]
                    if operand.dim() == 1:
                        part[places] = operand[columns]
                    else:
                        if table is None:
                            table = torch.zeros(len(operand), len(array), dtype=torch.int32)
                        if len(table) != len(operand):
                            raise Contradiction("a vector and a table are added to parts of one tensor")
                        table[:, places] = operand[:, columns]
                        time = index
                todo.append(part)
                if table is not None:
                    vectors.append((time, table))
        return leaves, vectors

    def segments(self, numbers: Tensor, what: str) -> list[tuple[int, Tensor]]:
        low = int(numbers.min())
        if low == 0:
            raise Contradiction(f"{what}: some of it does not depend on any parameter")
        if low <= self.record.last_element:
            raise Contradiction(f"{what}: {self.names(numbers)} itself, not a function of the tokens")
        return self.record.segments(numbers)

    def names(self, numbers: Tensor) -> str:
        return ", ".join(self.record.names_of(numbers))

    def say(self, event: Event) -> str:
        """What an event is, and the parameters in it, in words."""
        names: list[str] = []
        for operand in event.operands:
            names += [name for name in self.record.names_of(operand.flatten()[:1]) if name not in names]
        words = {
            "lookup": "rows of a table",
            "product": "a product",
            "sum": "a sum",
            "gain": "a product with a gain",
            "norm": "a layer norm",
            "rms_norm": "a norm that subtracts no mean",
            "statistic": "a statistic",
            "centred": "a subtraction of a mean",
            "normalised": "a division by a norm",
            "gain_over_statistic": "a gain divided by a norm",
            "scores": "a product of two activations",
            "changed_scores": "a sum or a product of scores and a parameter",
            "mix": "an attention",
            "function": "an elementwise function of two different activations",
            "unknown": "an operation that is not followed",
        }
        of = f" of {', '.join(names)}" if names else ""
        return f"{words[event.kind]}{of} ({event.operation}{_at(event)})"


def _at(event: Event) -> str:
    """Where in the user's code an event was, after a comma; nothing where that is not known."""
    return f", {event.line}" if event.line else ""


def _joined(group: list[Branch]) -> Branch:
    """One attention whose heads have output projections of their own, added up."""
    first = group[0]
    if len(group) == 1:
        return first
    ordered = sorted(group, key=lambda branch: (branch.event, int(branch.projection.flatten()[0])))
    parts = {
        letter: (
            torch.cat([branch.parts[letter][0] for branch in ordered]),
            torch.cat([branch.parts[letter][1] for branch in ordered]),
        )
        for letter in first.parts
    }
    return replace(
        first,
        event=max(branch.event for branch in group),
        parts=parts,
        projection=torch.cat([branch.projection for branch in ordered]),
        heads=sum(branch.heads for branch in ordered),
        all_events=tuple(event for branch in ordered for event in branch.all_events),
    )


def _ordered(numbers: Tensor, columns: Tensor, axis: int) -> Tensor:
    """Numbers along an axis put into canonical order: place ``i`` of the axis goes to place ``columns[i]``."""
    if torch.equal(columns, torch.arange(len(columns))) or numbers.shape[axis] != len(columns):
        return numbers
    return numbers.index_select(axis, columns.argsort())


def role(branch: Branch) -> str:
    """What a branch is, in words."""
    return "attention" if branch.attention else "the feed-forward"


def _named(branches: Iterable[Branch], event: int) -> str:
    for index, branch in enumerate(branches):
        if event in branch.all_events:
            return f"{role(branch)} of layer {index // 2}"
    return "something"


__all__ = ["Branch", "Contradiction", "Linear", "Norm", "Reading", "Stream", "read"]
