"""Token ids in, more token ids out: greedy decoding and sampling, in batches, and as a stream of text.

The one idea: there is one loop, `_decode`, which yields one new id per row and step. `generate` collects its steps,
`stream` hands them on as they come, `stream_text` decodes them. A row that has finished leaves the batch, so that it
costs nothing more; its place in the result is filled with padding.

Greedy ids, and what `top_k` and `top_p` leave to draw from, are those of transformers' ``generate``. The model decides
how it is computed: `EXACT` gives the same bits, `FUSED` decodes fastest, and its greedy ids can differ at a tie only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch
from torch import Tensor, nn

from gpt2_from_scratch.cache import FixedCache, KVCache
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.tokenizer import StreamDecoder

if TYPE_CHECKING:
    import tiktoken


class Options(TypedDict, total=False):
    """What `stream` and `stream_text` pass on; `generate` says what each of them means."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    eos_token_id: int | Sequence[int] | None
    use_cache: bool
    cuda_graph: bool


def generate(
    model: GPTModel,
    input_ids: Tensor,
    max_new_tokens: int = 20,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    attention_mask: Tensor | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    use_cache: bool = True,
    cuda_graph: bool = False,
    on_token: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Continues every prompt of a batch, until it has ended itself or has `max_new_tokens` more.

    Args:
        model: in training mode it is put into eval mode for the computation, and back.
        input_ids: int64 ``[B, T]``. Shorter prompts are padded on the left: `left_pad`.
        max_new_tokens: at most so many ids are added. The prompt, its padding, and all of these but the last, which the
            model need not read, must fit into the context.
        temperature: 0 takes the likeliest id; above 0 ids are drawn, with logits divided by it: below 1 bolder, above
            1 more evenly.
        top_k: draw from the `top_k` likeliest ids only.
        top_p: then draw from the fewest ids that together have at least this probability.
        seed: the same seed, model, prompts and machine draw the same ids. None: different ones each time. PyTorch's
            global generator is neither used nor changed.
        attention_mask: ``[B, T]``, 1 at text and 0 at padding, which must lie to its left; positions are counted from
            the first 1. None: no padding.
        eos_token_id: the id at which a text ends, or several. None: those of ``model.config``; ``()``: none.
        use_cache: keep keys and values of earlier tokens; without, each step computes everything again.
        cuda_graph: on a CUDA device, record a step once and repeat it: the GPU no longer waits for Python between a
            small model's hundreds of calls. Attention then reads the cache's whole capacity, and rows that leave the
            batch cost another recording.
        on_token: is called with the new ids ``[B]`` of each step.

    Returns:
        int64 ``[B, T + n]``: the prompts, and ``n <= max_new_tokens`` new ids. A row that ended earlier than others has
        its end-of-text id, then ``model.config.pad_token_id`` or, if there is none, the end-of-text id again.

    Raises:
        ValueError: an argument out of range, too many tokens for the context, padding that is not on the left,
            logits that are NaN or infinite, or `cuda_graph` without a CUDA device or without a cache.

    Example:
        >>> from gpt2_from_scratch import GPTConfig
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> input_ids, attention_mask = left_pad([[1, 2, 3], [4]])
        >>> generate(model, input_ids, max_new_tokens=5, attention_mask=attention_mask).shape
        torch.Size([2, 8])
    """
    steps = []
    for step in _steps(
        model,
        input_ids,
        max_new_tokens,
        attention_mask=attention_mask,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_token_id=eos_token_id,
        use_cache=use_cache,
        cuda_graph=cuda_graph,
    ):
        steps.append(step)
        if on_token is not None:
            on_token(step)
    return torch.cat([input_ids, torch.stack(steps, dim=1)], dim=1)  # out of inference mode: fit for training again


def stream(model: GPTModel, ids: Sequence[int], max_new_tokens: int = 20, **options: Unpack[Options]) -> Iterator[int]:
    """The new ids of one prompt, one by one as they are computed; together the same as from `generate`.

    Args:
        model: as in `generate`.
        ids: the prompt, at least one id.
        max_new_tokens: as in `generate`.
        **options: as in `generate`.

    Returns:
        An iterator; each id is computed when it is asked for. The end-of-text id comes last, if the text ends.

    Raises:
        ValueError: as in `generate`; wrong arguments at once, not with the first id.

    Example:
        >>> from gpt2_from_scratch import GPTConfig
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> [1, 2, 3, *stream(model, [1, 2, 3], 5)] == generate(model, torch.tensor([[1, 2, 3]]), 5)[0].tolist()
        True
    """
    input_ids = torch.tensor([list(ids)], dtype=torch.int64, device=model.wte.weight.device)
    return (int(step) for step in _steps(model, input_ids, max_new_tokens, **options))


def stream_text(
    model: GPTModel,
    encoding: "tiktoken.Encoding",
    prompt: str,
    max_new_tokens: int = 20,
    **options: Unpack[Options],
) -> Iterator[str]:
    """The text that continues a prompt, piece by piece as it is computed, never with half a character.

    Args:
        model: as in `generate`.
        encoding: the model's tokenizer, from `load_tokenizer`.
        prompt: special tokens such as ``<|endoftext|>`` are recognised in it, as in transformers. ``""`` starts a text
            from nothing: after the model's start-of-text id, or else its end-of-text id, which is what separated the
            texts that GPT-2 was trained on.
        max_new_tokens: as in `generate`.
        **options: as in `generate`.

    Returns:
        An iterator over the new text, without the prompt and without the end-of-text token.

    Raises:
        ValueError: as in `stream`; or an empty prompt, and a model without an id to start from.
        TokenizerError: the model chose an id that no token has.

    Example:
        >>> import tiktoken
        >>> from gpt2_from_scratch import GPTConfig
        >>> byte_ids = {bytes([byte]): byte for byte in range(256)}
        >>> encoding = tiktoken.Encoding("bytes", pat_str=".", mergeable_ranks=byte_ids, special_tokens={})
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=256, n_positions=16))
        >>> text = "".join(stream_text(model, encoding, "Hi!", max_new_tokens=5))
    """
    ids = encoding.encode(prompt, allowed_special="all") or [_start_id(model)]
    stop = _stop_ids(model, options.get("eos_token_id"))
    return _pieces(stream(model, ids, max_new_tokens, **options), StreamDecoder(encoding), stop)


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Puts prompts of different lengths into one batch, for `generate`.

    Args:
        prompts: token ids, at least one each.
        pad_id: what to fill up with. Masked, so any id of the vocabulary will do.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[B, T]`` with ``T`` the longest prompt's length.

    Raises:
        ValueError: no prompts, or an empty one.

    Example:
        >>> left_pad([[5, 6, 7], [8]])
        (tensor([[5, 6, 7],
                [0, 0, 8]]), tensor([[1, 1, 1],
                [0, 0, 1]]))
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or 0 in lengths:
        which = f"prompt {lengths.index(0)} is empty" if lengths else "there are no prompts"
        raise ValueError(f"{which}: GPT-2 continues at least one token, such as the end-of-text id")
    gaps = [max(lengths) - length for length in lengths]
    input_ids = [[pad_id] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    attention_mask = [[0] * gap + [1] * length for gap, length in zip(gaps, lengths, strict=True)]
    return torch.tensor(input_ids), torch.tensor(attention_mask)


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution that `generate` draws from: temperature, then top-k, then top-p.

    Args:
        logits: finite, float32 ``[B, V]``.
        temperature: as in `generate`, above 0.
        top_k: as in `generate`. Ids as likely as the last of them are kept too.
        top_p: as in `generate`.

    Returns:
        float32 ``[B, V]``; every row sums to 1.

    Example:
        >>> probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_p=0.7)
        tensor([[0.6250, 0.3750, 0.0000]])
    """
    # The largest becomes 0 first, so that no temperature overflows: not even one that float32 would round to 0.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / max(temperature, torch.finfo(logits.dtype).tiny)
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -math.inf)
    if top_p is not None:
        # From the unlikely end: whatever fits into the remaining 1 - top_p goes. Transformers counts from there too,
        # and another order of summation would round another way, so that an id more or less would be kept.
        ascending, ids = logits.sort(dim=-1)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        tail[:, -1] = False
        logits = logits.masked_fill(tail.scatter(-1, ids, tail), -math.inf)
    return logits.softmax(dim=-1)


# ---------------------------------------------------------------------------------------------------------- the loop


def _steps(
    model: GPTModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    attention_mask: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    use_cache: bool = True,
    cuda_graph: bool = False,
) -> Iterator[Tensor]:
    """Checks everything now, computes later: the new ids ``[B]`` of each step. Arguments as in `generate`."""
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(
            f"input_ids must be token ids [B, T] with at least one token, not of shape {list(input_ids.shape)}"
        )
    _check_room(model.config.n_positions, input_ids.size(1), max_new_tokens)
    choose = _chooser(temperature, top_k, top_p, seed, input_ids.device)
    text = _checked_mask(attention_mask, input_ids)
    if cuda_graph:
        _check_recordable(model.wte.weight.device, use_cache)
    stop_ids = _stop_ids(model, eos_token_id)
    return _decode(model, input_ids, text, max_new_tokens, choose, stop_ids, use_cache, cuda_graph)


@torch.inference_mode()  # as a decorator it ends at each `yield`; a `with` in here would reach into the caller's code
def _decode(
    model: GPTModel,
    ids: Tensor,
    text: Tensor | None,
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor],
    stop_ids: tuple[int, ...],
    use_cache: bool,
    cuda_graph: bool,
) -> Iterator[Tensor]:
    """Yields each step's ids ``[B]``. `ids` and `text` (where `ids` are no padding) are of the rows still running."""
    batch, length = ids.shape
    pad, modules = model.config.pad_token_id, list(model.modules())
    capacity = length + max_new_tokens - 1
    cache = model.new_cache(batch, capacity) if use_cache else None
    stop = torch.tensor(stop_ids, dtype=torch.int64, device=ids.device)
    fill = pad if pad is not None and pad >= 0 else next(iter(stop_ids), 0)  # of no use where nothing stops
    rows = torch.arange(batch, device=ids.device)  # where in the whole batch the running rows belong
    step: _RecordedStep | None = None
    for _ in range(max_new_tokens):
        with _evaluating(modules):
            if cuda_graph and cache is not None and cache.length:
                step = step or _RecordedStep(model, cache, text)
                logits = step(ids[:, -1:])
                cache.advance(1)
            else:
                logits = model.lm_head(_last_hidden_state(model, ids, text, cache)).float()  # (B, V)
        _check_finite(logits, ids.size(1), model.wte.weight.dtype)
        new = choose(logits)  # (B,)
        yield torch.full((batch,), fill, device=ids.device).index_copy(0, rows, new)
        ids = torch.cat([ids, new[:, None]], dim=1)
        text = torch.cat([text, torch.ones_like(text[:, :1])], dim=1) if text is not None else None
        running = torch.isin(new, stop, invert=True)
        if not running.any():
            return
        if not running.all():
            rows, ids, text = rows[running], ids[running], text[running] if text is not None else None
            if cache is not None:
                cache.keep_rows(running.nonzero().squeeze(1))
                step = None


# Tokens read in one pass: eight whole contexts, whose inner activations are 0.1 GB in the smallest GPT-2, 0.2 in the
# largest. A prompt by itself is never cut, so that its bits stay those of transformers.
_AT_ONCE = 8192


def _last_hidden_state(model: GPTModel, ids: Tensor, text: Tensor | None, cache: KVCache | None) -> Tensor:
    """Reads the tokens that the cache does not hold; a large batch of long prompts in pieces. Returns ``[B, E]``."""
    batch, length = ids.shape
    past, piece = (cache.length, max(1, _AT_ONCE // batch)) if cache is not None else (0, length)
    visible = positions = None
    for start in range(past, length, piece):
        end = min(start + piece, length)
        if text is not None:
            visible = text[:, :end]
            positions = (visible.cumsum(dim=-1) - 1).clamp(min=0)[:, start:]  # padding needs one, too: any
        hidden = model.hidden_states(ids[:, start:end], visible, positions, cache)  # (B, T, E)
    return hidden[:, -1]


class _RecordedStep:
    """Reads one token of each row, always in the same memory: the calls are recorded once and repeated."""

    def __init__(self, model: GPTModel, cache: KVCache, text: Tensor | None) -> None:
        self.model, self.cache = model, FixedCache(cache)
        batch, device = cache.batch_size, cache.keys.device
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.there = torch.zeros(batch, cache.capacity, dtype=torch.bool, device=device)
        self.there[:, : cache.length] = text[:, : cache.length] if text is not None else True
        self.positions = self.there.sum(dim=1, keepdim=True)  # of the next token of each row
        self.repeat = _recorded(self.compute, device)
        self.cache.end.sub_(1)  # the trial is undone; what it wrote there is written again
        self.positions.sub_(1)

    def compute(self) -> Tensor:
        self.there.index_fill_(1, self.cache.end, True)
        hidden = self.model.hidden_states(self.ids, self.there, self.positions, self.cache)  # (B, 1, E)
        self.positions.add_(1)
        return self.model.lm_head(hidden[:, -1]).float()  # type: ignore[no-any-return]  # (B, V)

    def __call__(self, ids: Tensor) -> Tensor:
        """From ids ``[B, 1]`` to logits ``[B, V]``, which the next call overwrites."""
        self.ids.copy_(ids)
        return self.repeat()


def _recorded(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Computes once for trial, since libraries prepare themselves in their first call, then records."""
    with torch.cuda.device(device):
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            compute()
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            result = compute()

    def repeat() -> Tensor:
        graph.replay()
        return result

    return repeat


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in, frozen dropouts included."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _chooser(
    temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A function from logits ``[B, V]`` to ids ``[B]``."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be 0 (the likeliest id) or above (draw)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; at least 1 id must be left to draw from")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be a probability above 0, at most 1")
    if temperature == 0:
        for name, value in (("top_k", top_k), ("top_p", top_p)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value}, but at temperature 0 nothing is drawn: set a temperature above 0, "
                    f"or leave {name} out"
                )
        return lambda logits: logits.argmax(dim=-1)
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()  # from the system; a new generator always starts with the same seed
    else:
        generator.manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial(probabilities(logits, temperature, top_k, top_p), 1, generator=generator).squeeze(1)

    return draw


# ------------------------------------------------------------------------------------------------------------ checks


def _check_recordable(device: torch.device, use_cache: bool) -> None:
    if device.type != "cuda":
        raise ValueError(f"cuda_graph is for a model on a CUDA device; this one is on {device}")
    if not use_cache:
        raise ValueError("cuda_graph repeats a step that reads one token; without use_cache each reads more")


def _check_room(context: int, length: int, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    room = context + 1 - length  # the last new token is not read, so it needs no position
    if max_new_tokens > room:
        remedy = f"ask for at most {room} new tokens" if room > 0 else f"shorten the prompt to {context} tokens at most"
        raise ValueError(
            f"{length} prompt tokens and {max_new_tokens} new ones do not fit into the context of {context}: {remedy}"
        )


def _checked_mask(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """Where the text is: bool ``[B, T]``; None: everywhere."""
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {list(input_ids.shape)}, "
            f"not {list(attention_mask.shape)}"
        )
    text = attention_mask.bool()
    if bool((text != attention_mask).any()):
        raise ValueError("attention_mask must hold 1 at text and 0 at padding, and nothing else")
    wrong = ~text[:, -1] | (text[:, :-1] & ~text[:, 1:]).any(dim=1)
    if bool(wrong.any()):
        raise ValueError(
            f"row {int(wrong.nonzero()[0])} of attention_mask has padding after its text, or no text; pad on the left "
            "(`left_pad` does), because new tokens are added on the right"
        )
    return None if bool(text.all()) else text


def _check_finite(logits: Tensor, tokens: int, dtype: torch.dtype) -> None:
    if not bool(logits.amax(dim=-1).isfinite().all()):  # a maximum passes NaN on
        raise ValueError(
            f"the logits of token {tokens} are NaN or infinite: the model's weights are, or its {dtype} overflows "
            "(float32 and bfloat16 have the range GPT-2 needs)"
        )


def _stop_ids(model: GPTModel, eos_token_id: int | Sequence[int] | None) -> tuple[int, ...]:
    if eos_token_id is None:
        return model.config.eos_token_ids
    return (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)


# -------------------------------------------------------------------------------------------------------------- text


def _start_id(model: GPTModel) -> int:
    config = model.config
    for token_id in (config.bos_token_id, *config.eos_token_ids):
        if token_id is not None and 0 <= token_id < config.vocab_size:
            return token_id
    raise ValueError(
        f"the prompt is empty, and the model has no token to start from: bos_token_id {config.bos_token_id} and "
        f"eos_token_id {config.eos_token_id} are not in its vocabulary of {config.vocab_size}; give a prompt"
    )


def _pieces(ids: Iterator[int], decoder: StreamDecoder, stop_ids: tuple[int, ...]) -> Iterator[str]:
    for token_id in ids:
        if token_id in stop_ids:
            break
        if piece := decoder.feed(token_id):
            yield piece
    if rest := decoder.flush():
        yield rest
