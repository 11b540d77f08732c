"""The reference: transformers' `GPT2LMHeadModel`. transformers is imported only here.

Wherever transformers can read a checkpoint, it reads the file itself, so the reference does not depend on this
package's loader. It is run in more than one way (eager and SDPA attention, float32 and float64): the distance between
these runs is the noise floor, in which every other difference is measured.

Three properties of transformers are allowed for. It follows the file's dtype unless told otherwise. It fills a tensor
that it cannot find with random numbers and logs a line. Its eager attention rounds differently with a cache.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.compare import EXACT_THRESHOLD, FLOAT32_ULP, USABLE, noise_floor
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout
from gpt2_from_scratch.precision import holding, in_float64, parameters_in_float64, undisturbed
from gpt2_from_scratch.streaming import Units
from gpt2_from_scratch.trace import Site, trace

_REMEMBERED = 1 << 27  # bytes of states: GPT-2's for 40,000 tokens in float32
# In units of the largest logit's last place: rounding moves logits by about ten, a setting that is ignored by millions.
_IGNORED = 1e4
_PROVEN, _SEED = 17, 71  # tokens on which the reference is compared with our own float64 run; the seed of their ids


@dataclass(frozen=True)
class Reference:
    """A `GPT2LMHeadModel` in float32 and eval mode, run without a cache, except in `continued`.

    Its public methods run it `undisturbed`. Those with an underscore are run inside, as `undisturbed` would switch off
    modes that were entered there.

    Args:
        model: the transformers model.
        config: of the checkpoint.
        units: the parts of the model that run one after another.
        kernels: those of transformers' attention implementations that compute this model.
    """

    model: Any
    config: GPTConfig
    units: Units = field(repr=False, compare=False)
    kernels: tuple[str, ...] = ("eager", "sdpa")
    # Attention, precision and ids -> what the blocks made of them: the noise floor, the float64 run and the search ask
    # for the same prompts. Logits are computed of it anew, as they are a hundred times larger.
    _answers: dict[tuple[str, torch.dtype, bytes], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def layout(self) -> Layout:
        """Where the model's modules are, under canonical names."""
        return LAYOUTS["huggingface"][0]

    @property
    def attention(self) -> str:
        """Which of transformers' attention implementations it runs."""
        return str(self.model.config._attn_implementation)

    def logits(self, input_ids: Tensor) -> Tensor:
        """Float32 logits ``[B, T, V]`` of ids ``[B, T]``."""
        return self._answered(torch.float32, input_ids)

    def run_together(self, prompts: Sequence[Tensor], measured: Sequence[Tensor] = ()) -> None:
        """Runs some prompts block by block, so that every weight is read, and converted, once for all of them.

        `logits` and `other_roundings` take little time for these prompts afterwards.

        Args:
            prompts: int64 ``[B, T]`` each, for `logits`.
            measured: the same, for `other_roundings`.
        """
        self._blocks(torch.float32, prompts)
        for attention in self.kernels:
            with self._attention(attention):
                self._blocks(torch.float32, measured)
        self._blocks(torch.float64, measured)

    def other_roundings(self, input_ids: Tensor, exact: int | None = None) -> Iterator[tuple[str, Tensor]]:
        """The same logits computed in other ways; only rounding differs. Their distances make the noise floor.

        Args:
            input_ids: int64 ``[B, T]``.
            exact: tokens that are run in float64, from the beginning; None: all.

        Yields:
            A name, and logits: with the other attention kernel in float32, and in float64.
        """
        for attention in self.kernels:
            if attention != self.model.config._attn_implementation:
                with self._attention(attention):
                    yield attention, self.logits(input_ids)
        yield "float64", self.in_float64(input_ids[:, :exact])

    def in_float64(self, input_ids: Tensor) -> Tensor:
        """Float64 logits ``[B, T, V]``: the same code and weights, rounded 2^29 times finer."""
        return self._answered(torch.float64, input_ids)

    def _answered(self, dtype: torch.dtype, input_ids: Tensor) -> Tensor:
        """Logits with weights and arithmetic of this precision."""
        states = self._blocks(dtype, [input_ids])
        with undisturbed(), self._computing_in(dtype):
            return self._head(dtype, states[0])

    def _blocks(self, dtype: torch.dtype, prompts: Sequence[Tensor]) -> list[Tensor]:
        """What the last block returns for each prompt. It is kept for the next call; nobody writes into it."""
        keys = [(self.attention, dtype, bytes(str(input_ids.tolist()), "ascii")) for input_ids in prompts]
        asked = {key: ids for key, ids in zip(keys, prompts, strict=True) if key not in self._answers}
        with undisturbed(), self._computing_in(dtype):
            found = dict(zip(asked, self._through_blocks(dtype, list(asked.values())), strict=True))
        found = {key: found[key] if key in found else self._answers[key] for key in keys}
        for key, states in found.items():
            if sum(each.nbytes for each in self._answers.values()) + states.nbytes <= _REMEMBERED:
                self._answers[key] = states
        return [found[key] for key in keys]

    @contextlib.contextmanager
    def _computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside, the model computes in this precision. Each unit's weights are converted when it is its turn."""
        with torch.inference_mode(), self.units.computing_in(dtype):
            if dtype != torch.float64:
                yield
                return
            with self._not_upcasting(), in_float64():
                yield

    def _through_blocks(self, dtype: torch.dtype, prompts: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings and blocks, as transformers calls them, for some prompts side by side."""
        calls = [self._up_to_the_blocks(input_ids) for input_ids in prompts]
        states = [call.states for call in calls]
        for block in self.model.transformer.h:
            with self.units.ready(block, dtype):
                for at, call in enumerate(calls):
                    output = block(states[at], *call.args, **call.kwargs)
                    states[at] = output if isinstance(output, Tensor) else output[0]  # a tuple before transformers 5
        return states

    def _up_to_the_blocks(self, input_ids: Tensor) -> "_Blocks":
        """What transformers' own code calls its blocks with."""
        body, blocks = self.model.transformer, _Blocks()
        own = body.h, body.ln_f
        body.h, body.ln_f = torch.nn.ModuleList([blocks]), torch.nn.Identity()
        try:
            body(input_ids, use_cache=False)
        finally:
            body.h, body.ln_f = own
        return blocks

    def _head(self, dtype: torch.dtype, states: Tensor) -> Tensor:
        """Logits of what the last block returned, as transformers computes them."""
        norm, head = self.model.transformer.ln_f, self.model.lm_head
        stored = dtype == torch.float64  # `in_float64` widens some columns of the head at a time
        with self.units.ready(norm, dtype), self.units.ready(head, None if stored else dtype):
            return head(norm(states))  # type: ignore[no-any-return]

    def continued(self, input_ids: Tensor, steps: int) -> Tensor:
        """Ids ``[B, T]`` with its greedy continuation behind them, ``[B, T + steps]``; it runs with its cache.

        Args:
            input_ids: int64 ``[B, T]``.
            steps: tokens to choose; as many at most as the context has room for.
        """
        ids, unread, cache = input_ids, input_ids, None
        with undisturbed(), torch.inference_mode():
            for _ in range(min(steps, self.config.n_positions - input_ids.size(1))):
                output = self.model(unread, past_key_values=cache, use_cache=True)
                cache, unread = output.past_key_values, output.logits[:, -1:].argmax(-1)
                ids = torch.cat([ids, unread], dim=1)
        return ids

    def logits_in(self, dtype: torch.dtype, input_ids: Tensor) -> Tensor:
        """Logits of the same model with weights and arithmetic in a lower precision, as float32."""
        return self._answered(dtype, input_ids).float()

    @contextlib.contextmanager
    def with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, it has other numbers as these weights: canonical name -> tensor in its own precision."""
        self._answers.clear()
        try:
            with holding({parameter: weights[name] for name, parameter in self._named() if name in weights}):
                yield
        finally:
            self._answers.clear()

    def with_weights_in(self, precision: torch.dtype | Mapping[str, torch.dtype]) -> AbstractContextManager[None]:
        """Inside, weights are rounded to a lower precision; arithmetic stays float32.

        Args:
            precision: of all weights, or canonical name -> that of this tensor; others stay as they are.
        """
        if isinstance(precision, torch.dtype):
            precision = {name: precision for name, _ in self._named()}
        exact = {name: parameter.data for name, parameter in self._named() if name in precision}
        return self.with_weights({name: data.to(precision[name]).to(data.dtype) for name, data in exact.items()})

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Its parameters, by canonical name."""
        for name, parameter in self.model.named_parameters():
            yield name.removeprefix("transformer."), parameter

    def matrices_in(self, dtype: torch.dtype) -> Mapping[str, torch.dtype]:
        """The precision of each matrix where vectors stay as they are, as in GGUF files; see `with_weights_in`."""
        return {name: dtype for name, parameter in self._named() if parameter.dim() > 1}

    def gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """Loss of the next tokens, in nats per token, and its gradient by each tensor: canonical name -> gradient."""
        with _recording():
            return self._gradients(input_ids)

    def _gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        names = {parameter: name for name, parameter in self._named()}
        logits = self.model(input_ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(names))
        return float(loss.detach()), dict(zip(names.values(), gradients, strict=True))

    def other_gradients(self, input_ids: Tensor) -> Mapping[str, Tensor]:
        """The same gradients with the other attention kernel, or in float64. Their distance is the noise floor."""
        for other in self.kernels:
            if other != self.model.config._attn_implementation:
                with self._attention(other):
                    return self.gradients(input_ids)[1]
        return self.exact_gradients(input_ids)[1]

    def trace(self, input_ids: Tensor, dtype: torch.dtype = torch.float32) -> Mapping[str, Site]:
        """Inputs and outputs of every module of the layout, by canonical name, in execution order.

        Attention is eager, because fused kernels write no probabilities down.

        Args:
            input_ids: int64 ``[B, T]``.
            dtype: of weights and arithmetic.
        """
        names = {theirs[0]: site for site, theirs in self.layout.sites(self.config)}
        attention = [name for name, site in names.items() if site.endswith(".attn")]

        def run() -> None:
            with self._computing_in(dtype):
                self._head(dtype, self._through_blocks(dtype, [input_ids])[0])

        with undisturbed(), self._attention("eager"):
            sites = trace(self.model, names, run, attention=attention)
        return {names[name]: site for name, site in sites.items()}

    def exact_gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """Loss and gradients as from `gradients`, computed in float64."""
        with _recording(), self._not_upcasting(), parameters_in_float64(self.model):
            return self._gradients(input_ids)

    @contextlib.contextmanager
    def _not_upcasting(self) -> Iterator[None]:
        """Inside, `reorder_and_upcast_attn` is off, as it casts to float32; the mathematics is the same."""
        upcasting = [block.attn for block in self.model.transformer.h if block.attn.reorder_and_upcast_attn]
        try:
            for attention in upcasting:
                attention.reorder_and_upcast_attn = False
            yield
        finally:
            for attention in upcasting:
                attention.reorder_and_upcast_attn = True

    @contextlib.contextmanager
    def _attention(self, name: str) -> Iterator[None]:
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(name)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)


class _Blocks(torch.nn.Module):
    """In place of the blocks: keeps what the first of them is called with."""

    states: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.states, self.args, self.kwargs = states, args, kwargs
        return states


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Inside, gradients are recorded, whatever the process has switched off."""
    with undisturbed(), torch.inference_mode(False), torch.enable_grad():
        yield


def can_stream(checkpoint: Checkpoint) -> bool:
    """Whether the reference of this checkpoint can be run without being in memory: transformers maps its file."""
    return _readable_by_transformers(checkpoint) is not None


def load_reference(checkpoint: Checkpoint, prompt: Tensor | None = None, stream: bool = False) -> Reference:
    """Builds the reference for a checkpoint.

    transformers reads a Hugging Face checkpoint itself. Forms that it cannot read are handed over tensor by tensor.

    Args:
        checkpoint: an opened one. Where transformers can read the file, its tensors are used for a check only.
        prompt: ids ``[1, T]`` for this check, a comparison with a float64 run by `anatomy`. Ids that are asked for
            again later save time. None: random ids.
        stream: hold one unit of the model in memory at a time, for files larger than memory; see `can_stream`.

    Returns:
        The reference, which has passed the check.

    Raises:
        CheckpointError: transformers cannot load the checkpoint, would fill tensors in with random numbers, or is
            not installed.
    """
    with _quiet():
        from transformers import GPT2Config, GPT2LMHeadModel

        # Eager attention where SDPA lacks the setting (upcasting), or ignored it before transformers 5.4 (scaling).
        config = checkpoint.config
        eager = (
            config.reorder_and_upcast_attn or config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights
        )
        transformers_gpt2: Any = GPT2LMHeadModel  # its types do not say what `output_loading_info` returns
        options = {
            # Other fields of a config.json change nothing that is compared, and many end transformers in an error.
            "config": GPT2Config(**replace(config, extra={}).to_hf()),
            "dtype": checkpoint.dtype if stream and checkpoint.dtype != torch.float64 else torch.float32,
            "attn_implementation": "eager" if eager else "sdpa",
            "output_loading_info": True,
        }
        directory = _readable_by_transformers(checkpoint)
        if stream and directory is None:
            raise CheckpointError(
                f"{checkpoint.located.source} cannot be streamed: transformers does not read it as it stands",
                hint="write it as a directory that it does: gpt2 convert SOURCE DESTINATION --to huggingface",
            )
        try:
            if directory is not None:
                model, info = transformers_gpt2.from_pretrained(directory, local_files_only=True, **options)
            else:
                state = {
                    name if name.startswith("lm_head") else f"transformer.{name}": read().float()
                    for name, read in checkpoint.tensors.items()
                }
                model, info = transformers_gpt2.from_pretrained(None, state_dict=state, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"transformers cannot load {checkpoint.located.source}: {error}") from None
    missing = sorted(set(info["missing_keys"]) - ({"lm_head.weight"} if config.tie_word_embeddings else set()))
    if missing or info["mismatched_keys"]:
        raise CheckpointError(
            f"transformers would fill {len(missing) + len(info['mismatched_keys'])} tensors of "
            f"{checkpoint.located.source} with random numbers, such as {(missing or info['mismatched_keys'])[0]!r}"
        )
    body = model.eval().transformer
    units = Units((body.wte, body.wpe), (*body.h, body.ln_f, model.lm_head), torch.float32)
    if stream:
        units.stream(checkpoint.container.files)
    reference = Reference(model, config, units)
    ids = prompt if prompt is not None else _drawn(config)
    _prove(reference, checkpoint, ids)
    return replace(reference, kernels=_kernels(reference, ids))


def _drawn(config: GPTConfig) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(config.vocab_size, (1, min(_PROVEN, config.n_positions)), generator=generator)


def _prove(reference: Reference, checkpoint: Checkpoint, ids: Tensor) -> None:
    """Compares the reference with a float64 run of the checkpoint by `anatomy`.

    Code that was imported before may have replaced functions of torch or of transformers (it is common to replace
    `F.scaled_dot_product_attention`). The reference would compute with them, and be wrong.

    Raises:
        CheckpointError: the two differ.
    """
    usual, exact = reference.logits(ids), reference.in_float64(ids)
    with undisturbed(), torch.inference_mode():
        wrong = _wrong_arithmetic()
        independent = forward.logits(checkpoint.config, _Read(checkpoint), ids)
    if not bool(torch.isfinite(independent).all()):
        return  # a checkpoint that overflows; the comparison with the candidate says so
    scale = float(independent.abs().max())
    rounding, apart = float((usual - exact).abs().max()), float((exact - independent).abs().max())
    if wrong or not apart <= EXACT_THRESHOLD * noise_floor((rounding,), scale) or not rounding <= USABLE * scale:
        what = wrong or f"its logits are {apart:.1e} from those of an independent computation in float64"
        raise CheckpointError(
            f"transformers' GPT2LMHeadModel does not compute GPT-2 in this process and cannot be the reference: {what}",
            hint="some code that was imported has replaced functions of torch or transformers, such as "
            "F.scaled_dot_product_attention, or has left a mode on: check in a process in which it does not",
        )


def _kernels(reference: Reference, ids: Tensor) -> tuple[str, ...]:
    """The attention implementations that agree within rounding: before 5.4, SDPA ignored some settings."""
    usual, agreeing = reference.logits(ids), [reference.attention]
    for other in {"eager", "sdpa"} - {reference.attention}:
        with reference._attention(other):
            apart = float((reference.logits(ids) - usual).abs().max())
        if not apart > _IGNORED * FLOAT32_ULP * float(usual.abs().max()):  # NaN is reported where logits are compared
            agreeing.append(other)
    return tuple(agreeing)


class _Read(Mapping[str, Tensor]):
    """A checkpoint's tensors, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tensors = checkpoint.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _wrong_arithmetic() -> str:
    """Compares functions of torch that `anatomy` uses with Python's. Names those that are wrong; "" if none is."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    numbers = x.tolist()
    powers = [math.exp(number) for number in numbers]
    both = {
        "tanh": (torch.tanh(x), [math.tanh(number) for number in numbers]),
        "erf": (torch.erf(x), [math.erf(number) for number in numbers]),
        "sigmoid": (torch.sigmoid(x), [power / (1 + power) for power in powers]),
        "softmax": (torch.softmax(x, dim=-1), [power / sum(powers) for power in powers]),
        "square": (x.square(), [number * number for number in numbers]),
    }
    close = {name: all(map(math.isclose, actual.tolist(), expected)) for name, (actual, expected) in both.items()}
    return ", ".join(f"torch's {name} is not {name}" for name in close if not close[name])


def _readable_by_transformers(checkpoint: Checkpoint) -> str | None:
    """The directory, if it is one that `from_pretrained` reads as it stands."""
    located = checkpoint.located
    standard = located.weights.name in ("model.safetensors", "model.safetensors.index.json")
    readable = "self" not in checkpoint.config.extra  # which transformers passes on as an argument of that name
    if checkpoint.as_found and checkpoint.layout.name == "huggingface" and standard and readable and located.config:
        return str(located.directory)
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bars, tables or warnings: `load_reference` reports what matters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a notebook, tqdm asks for ipywidgets
            from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise CheckpointError(
            f"the reference, transformers' GPT2LMHeadModel, cannot be imported: {error}",
            hint="pip install transformers; or skip what is compared with it: logits, generation, gradients",
        ) from error

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
