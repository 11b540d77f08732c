"""`gpt2 generate`: continues a text or token ids, as text, as ids or as JSON."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpt2_from_scratch.cli.exit_codes import VERIFIED
from gpt2_from_scratch.cli.options import device_choice, dtype_choice, opened
from gpt2_from_scratch.errors import printable

if TYPE_CHECKING:
    from gpt2_from_scratch.generation import Decoding
    from gpt2_from_scratch.loading import Checkpoint
    from gpt2_from_scratch.model import GPTModel
    from gpt2_from_scratch.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Request:
    """What is continued, and how; loaded and checked."""

    model: "GPTModel"
    tokenizer: "Tokenizer | None"
    prompt: str | None  # None: ids were given
    ids: list[int]
    decodings: "list[Decoding]"  # one for each sample
    max_new_tokens: int
    stop: list[str]


def generate(arguments: argparse.Namespace) -> int:
    """`gpt2 generate`: the text, piece by piece as it comes; with ``--json``, everything at the end."""
    import json

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows ? and does not end the text
    request = _request(arguments)
    with warnings.catch_warnings(record=True) as caught:  # what the library warns of, in one line
        warnings.simplefilter("always")
        samples = [_written(request, decoding) for decoding in request.decodings]
        notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if request.tokenizer is not None and request.tokenizer.assumed:
        notes.append(request.tokenizer.assumed)
    for note in notes:
        print(f"gpt2: note: {printable(note)}", file=sys.stderr)
    if arguments.json:
        fields = {"checkpoint": arguments.checkpoint, "prompt": request.prompt, "prompt_ids": request.ids}
        found = [_sample(request, decoding) for decoding in request.decodings]
        print(json.dumps({**fields, "samples": found, "notes": notes}, ensure_ascii=False, indent=2))
        return VERIFIED
    for number, pieces in enumerate(samples):
        if number:
            print()
        piece = ""
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        except BaseException:
            if piece:
                print()  # the error stands on a line of its own
            raise
        print()
    return VERIFIED


def _request(arguments: argparse.Namespace) -> _Request:
    from gpt2_from_scratch.generation import Decoding, prompt_ids
    from gpt2_from_scratch.model import GPTModel
    from gpt2_from_scratch.reference import can_stream
    from gpt2_from_scratch.streaming import larger_than_memory

    decoding = Decoding(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    count = arguments.num_samples
    if count < 1:
        raise ValueError(f"--num-samples is {count}; it must be at least 1")
    if count > 1 and decoding.temperature == 0:
        raise ValueError("without --temperature all samples are the same text: give --temperature 1, or one sample")
    if "" in arguments.stop:
        raise ValueError("--stop is empty: every text would end at once")
    device = device_choice(arguments.device)
    prompt = _prompt(arguments)
    checkpoint = opened(arguments)
    tokenizer = _tokenizer(checkpoint, needed=prompt is not None or bool(arguments.stop))
    larger = larger_than_memory(checkpoint.config.num_parameters)
    stream = device.type == "cpu" and larger and can_stream(checkpoint)
    model = GPTModel.from_pretrained(checkpoint, dtype=dtype_choice(arguments.dtype), device=device, stream=stream)
    if not stream:
        model.pack()
    seeds = [None if decoding.seed is None else decoding.seed + number for number in range(count)]
    return _Request(
        model,
        tokenizer,
        prompt,
        ids=arguments.ids if prompt is None or tokenizer is None else prompt_ids(model, tokenizer, prompt),
        decodings=[replace(decoding, seed=seed) for seed in seeds],
        max_new_tokens=arguments.max_new_tokens,
        stop=arguments.stop,
    )


def _prompt(arguments: argparse.Namespace) -> str | None:
    """The text to continue: from the command line, or from stdin; None where ids are given."""
    if arguments.ids is not None:
        if arguments.prompt is not None:
            raise ValueError("a prompt and --ids are two beginnings: give one of them")
        return None
    if arguments.prompt is None and sys.stdin.isatty():
        raise ValueError("there is no prompt: give a text, - or a pipe for stdin, or --ids 5,3,1")
    if arguments.prompt not in (None, "-"):
        return str(arguments.prompt)
    try:
        return sys.stdin.read().removesuffix("\n")  # the end of the last line is not part of what people mean
    except UnicodeDecodeError as error:
        raise ValueError(f"what stdin gives is not text: {error}") from None


def _tokenizer(checkpoint: "Checkpoint", needed: bool) -> "Tokenizer | None":
    """The checkpoint's tokenizer; None where it has none, and ids do without."""
    from gpt2_from_scratch.errors import CheckpointError
    from gpt2_from_scratch.tokenizer import load_tokenizer

    try:
        return load_tokenizer(checkpoint)
    except CheckpointError:
        if needed:
            raise
        return None


def _written(request: _Request, decoding: "Decoding") -> Iterator[str]:
    """The prompt and what continues it, in pieces; ids where there is no tokenizer. Checks everything at once."""
    from gpt2_from_scratch.generation import stream, stream_text

    model, tokenizer, length = request.model, request.tokenizer, request.max_new_tokens
    if tokenizer is None:
        ids = stream(model, request.ids, length, decoding)
        return (piece for part in ([",".join(map(str, request.ids))], (f",{id_}" for id_ in ids)) for piece in part)
    prompt = tokenizer.decode(request.ids) if request.prompt is None else request.prompt
    pieces = stream_text(model, tokenizer, request.ids, length, decoding, request.stop)
    return (piece for part in ([prompt], pieces) for piece in part)


def _sample(request: _Request, decoding: "Decoding") -> dict[str, Any]:
    """One continuation for ``--json``: new ids, their text up to a stop text, and why it ended."""
    from gpt2_from_scratch.generation import stop_ids, stream, until

    ends, tokenizer = stop_ids(request.model, decoding), request.tokenizer
    ids: list[int] = []
    text, ended_by = None if tokenizer is None else "", "max_new_tokens"
    for token_id in stream(request.model, request.ids, request.max_new_tokens, decoding):
        ids.append(token_id)
        if token_id in ends:
            ended_by = "end of text"
            break
        if tokenizer is not None:
            whole = tokenizer.decode(ids)
            text = "".join(until(iter([whole]), request.stop))
            if text != whole:
                ended_by = "stop"
                break
    return {"ids": ids, "text": text, "ended_by": ended_by}
