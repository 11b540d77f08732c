"""Text to token ids and back: a `tiktoken.Encoding` built from a checkpoint's own tokenizer files, or its GGUF file.

The one idea: GPT-2's byte-level BPE is a vocabulary (token -> id) *and* a list of merges (which neighbours
are joined first). tiktoken keeps only the vocabulary: an id is its own priority, and any neighbours that
spell a token are joined. The two give the same ids where ids rise in the order of the merges and every merge
can happen. That is checked for each file, and a file that fails is refused: a nearly right tokenizer gives
fluent, wrong text.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Unpack

import tiktoken

from gpt2_from_scratch.checkpoint import TINY, HubOptions
from gpt2_from_scratch.config import read_json
from gpt2_from_scratch.errors import CheckpointError, TokenizerError
from gpt2_from_scratch.loading import Checkpoint, Source

# How GPT-2 cuts text into pieces before it merges inside each of them; `encoder.py` of OpenAI's release,
# verbatim, because a tokenizer.json may spell it out. In turn: English contractions, with a straight
# apostrophe and in lower case only; runs of letters, of digits, of other symbols, each with at most one space
# before it; white space up to its last character if something follows (a last space belongs to the next
# word); and the white space that is left.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# GPT-2's files write a token as text, one visible character per byte: printable Latin-1 bytes stand for
# themselves, the 68 others are U+0100, U+0101, ... in turn, so a space is U+0120. In GPT-2's order.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTES = bytes((*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)))
BYTE_SYMBOLS = bytes(_PRINTABLE).decode("latin-1") + "".join(map(chr, range(0x100, 0x100 + 68)))
_SYMBOL_TO_BYTE = str.maketrans(BYTE_SYMBOLS, _BYTES.decode("latin-1"))

# 50,304 is the next multiple of 128, to which nanoGPT and llm.c pad the embedding for speed.
_GPT2_VOCAB_SIZES = (50257, 50304)

# Of OpenAI's vocab.bpe, as pinned by tiktoken too. These merges pass `_check_reachable` (a test runs it) in
# about a second, which every load of the tokenizer that nearly all models use would otherwise spend again.
_GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"

_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_SIDE_FILES = ("added_tokens.json", "tokenizer_config.json")
FILES = tuple(name for form in _FORMS for name in form) + _SIDE_FILES
_GGUF = ".gguf"
_MAX_BYTES = 1 << 26  # GPT-2's tokenizer.json has 1.4 MB; the largest byte-level ones, of 200k tokens, near 30 MB

_EXPECTED = "expected tokenizer.json, or vocab.json with merges.txt, or encoder.json with vocab.bpe"
_USE_TRANSFORMERS = "tokenize with transformers, and give this package the token ids"


def load_tokenizer(
    source: Source | Checkpoint, *, vocab_size: int | None = None, **options: Unpack[HubOptions]
) -> tiktoken.Encoding:
    """The tokenizer of a checkpoint, from the checkpoint's own files.

    Added tokens become special tokens of the Encoding. transformers recognises these in any text, tiktoken
    only when told to: ``encode(text, allowed_special="all")`` gives transformers' ids,
    ``encode_ordinary(text)`` reads ``<|endoftext|>`` as punctuation and letters, and ``encode(text)`` raises
    when the text contains it.

    Args:
        source: a directory; a GGUF file with a tokenizer in it; any other file (its folder is used); a Hub id
            (``openai-community/gpt2``); ``tiny``, the model inside the package; or an opened `Checkpoint`.
        vocab_size: rows of the model's embedding, ``V``; every id must be below it. By default what
            `config.json` or `hparams.json` beside the files says. Where there are no tokenizer files and ``V``
            is GPT-2's 50,257 (or 50,304, padded), tiktoken's own ``gpt2`` is used, which it downloads once.
        **options: where on the Hub; see `HubOptions`. An opened checkpoint brings its own.

    Returns:
        An Encoding, named after the file it was read from.

    Raises:
        TokenizerError: no tokenizer, a damaged one, or one that is not GPT-2's byte-level BPE.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # the smallest tokenizer: 256 bytes and no merges
        ...     vocab = {symbol: token_id for token_id, symbol in enumerate(BYTE_SYMBOLS)}
        ...     _ = Path(folder, "vocab.json").write_text(json.dumps(vocab))
        ...     _ = Path(folder, "merges.txt").write_text("#version: 0.2")
        ...     load_tokenizer(folder).encode("Hi!")
        [39, 72, 0]
    """
    if isinstance(source, Checkpoint):
        located, options = source.located, source.hub_options
        vocab_size = source.config.vocab_size if vocab_size is None else vocab_size
        if located.repo_id is None:
            return tokenizer_at(located.weights, vocab_size)
        source = located.repo_id
    path = TINY if source == TINY.name and not Path(source).exists() else Path(source)
    if path.exists():
        return tokenizer_at(path, vocab_size)
    # Here and not above: files on disk do without it.
    from gpt2_from_scratch.checkpoint import hub

    if not isinstance(source, str) or not hub.is_repo_id(source):
        raise TokenizerError(
            f"{source} does not exist", hint="give a directory, a file inside one, or a Hub id (owner/name)"
        )
    fetched = hub.fetch(
        source,
        (*FILES, "config.json", "spiece.model"),  # the last one only to be refused by name
        **options,
    )
    folder = next(iter(fetched.values())).parent if fetched else None
    if folder is None or not tokenizer_files(folder):
        missed = hub.unknown(source, FILES, **options)
        if missed:  # and GPT-2's tokenizer must not take the place of one that nobody looked for
            raise TokenizerError(
                f"{source}: there is no tokenizer in the Hub's cache, nor is it known whether the repository has one "
                f"({', '.join(missed)})",
                hint="load it once with the network on, or give token ids",
            )
    return tokenizer_at(folder, vocab_size) if folder else _gpt2_encoding(source, vocab_size)


def tokenizer_files(place: Path) -> tuple[Path, ...]:
    """The files `tokenizer_at` reads: the first complete form, and what adds tokens to it.

    A GGUF file's own tokenizer goes before its neighbours. Of those, `tokenizer.json` goes before `vocab.json` with
    `merges.txt`, as in transformers; then come OpenAI's, and a GGUF file, if there is but one.

    Args:
        place: the checkpoint's folder, or a file in it.

    Returns:
        Existing paths, the vocabulary first; empty if no form is complete.

    Example:
        >>> tokenizer_files(Path("no such folder"))
        ()
    """
    if place.is_file() and _holds_tokenizer(place):
        return (place,)
    directory = _folder(place)
    for form in _FORMS:
        if all((directory / name).is_file() for name in form):
            return tuple(path for name in (*form, *_SIDE_FILES) if (path := directory / name).is_file())
    found = tuple(directory.glob(f"*{_GGUF}"))
    return found if place.is_dir() and len(found) == 1 and _holds_tokenizer(found[0]) else ()


def vocabulary(place: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """What the tokenizer's files in `place` say, as they say it: for writing them in another form.

    Returns:
        Token -> id and merges, first merge first, in GPT-2's byte symbols; added tokens -> id, as plain text.

    Raises:
        TokenizerError: as in `load_tokenizer`, but whether tiktoken can do the same is not asked.
    """
    return _read(tokenizer_files(place))


def tokenizer_at(place: Path, vocab_size: int | None = None) -> tiktoken.Encoding:
    """The tokenizer whose files lie in `place`: what `load_tokenizer` does once they are on disk.

    Args:
        place: the checkpoint's folder, or a file in it.
        vocab_size: rows of the model's embedding, ``V``, as in `load_tokenizer`.

    Returns:
        An Encoding, named after the file it was read from.

    Raises:
        TokenizerError: as in `load_tokenizer`.

    Example:
        >>> tokenizer_at(Path("no such folder"))
        Traceback (most recent call last):
        gpt2_from_scratch.errors.TokenizerError: no such folder has no tokenizer files
          hint: expected tokenizer.json, or vocab.json with merges.txt, or encoder.json with vocab.bpe
    """
    directory, files = _folder(place), tokenizer_files(place)
    if vocab_size is None and not (files and files[0].suffix == _GGUF):  # which has a token for each row
        vocab_size = _model_vocab_size(directory)
    if not files:
        _refuse_other_tokenizers(directory)
        return _gpt2_encoding(str(directory), vocab_size)
    vocab, merges, added = _read(files)
    with _naming(files[0]):
        _check_ids(vocab, added, vocab_size)
        _check_merges(vocab, merges)
        special_tokens = _special_tokens(vocab, merges, added)
    mergeable = (*BYTE_SYMBOLS, *(left + right for left, right in merges))
    return tiktoken.Encoding(
        str(files[0]),
        pat_str=GPT2_SPLIT,
        mergeable_ranks={_to_bytes(token): vocab[token] for token in mergeable},
        special_tokens=special_tokens,
    )


class StreamDecoder:
    """Turns token ids into text one at a time, as they are generated.

    A token is a run of bytes and may end inside a character (most emoji are several tokens), so that ids
    decoded one by one show U+FFFD. Here an unfinished character is held back until its last byte has come.

    Args:
        encoding: the tokenizer whose ids are fed.

    Example:
        >>> byte_ids = {bytes([byte]): byte for byte in range(256)}
        >>> encoding = tiktoken.Encoding("bytes", pat_str=".", mergeable_ranks=byte_ids, special_tokens={})
        >>> stream = StreamDecoder(encoding)
        >>> [stream.feed(byte) for byte in "né".encode()], stream.flush()
        (['n', '', 'é'], '')
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this id completes; may be empty.

        Raises:
            TokenizerError: no token has this id.
        """
        try:
            token = self._encoding.decode_single_token_bytes(token_id)
        except (KeyError, OverflowError):  # OverflowError: not a 32-bit number
            raise TokenizerError(
                f"{self._encoding.name} has no token with id {token_id}; its ids end at "
                f"{self._encoding.max_token_value}",
                hint="a model's padded rows have no tokens; any other such id is from another tokenizer",
            ) from None
        return self._utf8.decode(token)

    def flush(self) -> str:
        """What is still held back, as U+FFFD; the decoder is then as new.

        All pieces together are what `Encoding.decode` makes of all ids.
        """
        return self._utf8.decode(b"", final=True)


def _folder(place: Path) -> Path:
    return place.parent if place.is_file() else place


def _holds_tokenizer(path: Path) -> bool:
    """Whether this is a GGUF file with a tokenizer in it; if it is damaged, reading it says so."""
    if path.suffix != _GGUF:
        return False
    from gpt2_from_scratch.checkpoint import gguf  # here and not above, as in `load_tokenizer`

    try:
        return gguf.vocabulary(path) is not None
    except CheckpointError:
        return True


def _model_vocab_size(directory: Path) -> int | None:
    for name, field in (("config.json", "vocab_size"), ("hparams.json", "n_vocab")):
        if (path := directory / name).is_file():
            content = read_json(path)
            size = content.get(field) if isinstance(content, dict) else None
            return size if isinstance(size, int) else None
    return None


def _gpt2_encoding(where: str, vocab_size: int | None) -> tiktoken.Encoding:
    """GPT-2's, from tiktoken, for a checkpoint without tokenizer files and with as many ids as GPT-2."""
    if vocab_size is None:
        raise TokenizerError(f"{where} has no tokenizer files", hint=_EXPECTED)
    if vocab_size not in _GPT2_VOCAB_SIZES:
        raise TokenizerError(
            f"{where} has no tokenizer files, and {vocab_size} ids are not GPT-2's 50257 (50304, padded)",
            hint=f"{_EXPECTED}; without them, give token ids",
        )
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # no network or no disk; a download with the wrong digest
        raise TokenizerError(
            f"{where} has no tokenizer files, and tiktoken cannot provide GPT-2's: {error}",
            hint="connect once (TIKTOKEN_CACHE_DIR keeps it), or put GPT-2's tokenizer files beside the weights",
        ) from error


def _refuse_other_tokenizers(directory: Path) -> None:
    """Where some other tokenizer was meant, GPT-2's must not take its place."""
    if parts := [name for name in FILES if (directory / name).is_file()]:
        raise TokenizerError(f"{directory} has {', '.join(parts)}, not a whole tokenizer", hint=_EXPECTED)
    if models := sorted(path.name for path in directory.glob("*.model")):
        raise TokenizerError(
            f"{directory} has {', '.join(models)}: sentencepiece, not GPT-2's byte-level BPE",
            hint=_USE_TRANSFORMERS,
        )


# ---- From files to vocabulary (token -> id, in byte symbols), merges, and added tokens (text -> id) ----


def _read(files: Sequence[Path]) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    main = files[0]
    if main.suffix == _GGUF:
        return _read_gguf(main)
    vocab = _read_object(main)
    entries: list[dict[str, Any]] = []
    if main.name == "tokenizer.json":
        with _naming(main):
            model = _gpt2_model(vocab)
            entries += _array(vocab.get("added_tokens") or [], "added_tokens")
            vocab = _object(model.get("vocab"), "the vocabulary")
            merges = _pairs(_array(model.get("merges"), "the list of merges"))
    else:
        merges = _read_merges(files[1])
    for path in files:
        if path.name == "added_tokens.json":
            entries += [{"content": text, "id": token_id} for text, token_id in _read_object(path).items()]
        if path.name == "tokenizer_config.json":
            with _naming(path):
                entries += _configured_tokens(_read_object(path))
    with _naming(main.parent):
        return vocab, merges, _added_tokens(entries)


def _read_gguf(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    from gpt2_from_scratch.checkpoint import gguf

    known = gguf.vocabulary(path)
    assert known is not None, "asked by `tokenizer_files`"
    apart = {*known.special, *known.unused}
    with _naming(path):
        if len(set(known.tokens)) < len(known.tokens):
            raise TokenizerError("two ids have the same token", hint="convert the model again")
        vocab = {token: token_id for token_id, token in enumerate(known.tokens) if token_id not in apart}
        return vocab, _pairs(known.merges), {known.tokens[token_id]: token_id for token_id in known.special}


def _gpt2_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` of a tokenizer.json, once all that changes the ids is known to be as in GPT-2.

    Not looked at: `decoder` (bytes are bytes), `truncation` and `padding` (transformers sets them in each
    call), and `unk_token`, `fuse_unk` and `byte_fallback` (no byte is unknown).
    """
    model = _object(content.get("model"), "the model")
    kind = model.get("type", "BPE" if "merges" in model else None)  # GPT-2's own file is from before types
    if kind != "BPE":
        raise _unlike_gpt2(f"the model's type is {kind!r}, not 'BPE'")
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(setting):
            raise _unlike_gpt2(f"the model sets {setting}: {model[setting]!r}")
    if content.get("normalizer") is not None:
        raise _unlike_gpt2(f"text is changed by a normalizer, {_type(content['normalizer'])}")
    _check_pre_tokenizer(content.get("pre_tokenizer"))
    _check_post_processor(content.get("post_processor"))
    return model


def _check_pre_tokenizer(step: Any) -> None:
    """ByteLevel, or its two halves: a Split at GPT-2's pattern, then a ByteLevel that does not split."""
    steps = _array(step.get("pretokenizers"), "pretokenizers") if _type(step) == "Sequence" else [step]
    kinds = [_type(step) for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise _unlike_gpt2(f"the pre-tokenizer is {' + '.join(kinds) or 'empty'}, not ByteLevel")
    *split, byte_level = steps
    if byte_level.get("add_prefix_space") is not False:
        raise _unlike_gpt2("the pre-tokenizer has add_prefix_space: true, a space before every text")
    if byte_level.get("use_regex", True) is bool(split):  # True in files from before this setting
        raise _unlike_gpt2("text is cut twice" if split else "text is not cut at all (use_regex: false)")
    gpt2_split = {"type": "Split", "pattern": {"Regex": GPT2_SPLIT}, "behavior": "Isolated", "invert": False}
    if split and split != [gpt2_split]:
        raise _unlike_gpt2(f"text is cut by {split[0]}, not at {GPT2_SPLIT}")


def _check_post_processor(step: Any) -> None:
    """ByteLevel moves offsets only; a template may add tokens to every text, which an Encoding cannot do."""
    if _type(step) not in ("None", "ByteLevel", "TemplateProcessing"):
        raise _unlike_gpt2(f"the post-processor is {_type(step)}")
    if _type(step) == "TemplateProcessing" and "SpecialToken" in str(step.get("single")):
        raise _unlike_gpt2(f"the post-processor adds tokens to every text: {step['single']}")


def _configured_tokens(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer_config.json, once its settings are known to be GPT-2's."""
    for setting in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if config.get(setting):
            raise _unlike_gpt2(f"{setting} is true")
    decoder = _object(config.get("added_tokens_decoder") or {}, "added_tokens_decoder")
    if strange := [key for key in decoder if not key.isdecimal()]:
        raise TokenizerError(f"added_tokens_decoder has {_some(strange)} for a token id")
    return [{**_object(entry, f"added token {key}"), "id": int(key)} for key, entry in decoder.items()]


def _added_tokens(entries: Iterable[Any]) -> dict[str, int]:
    """Text -> id; several files may name the same token, if they agree."""
    added: dict[str, int] = {}
    for entry in entries:
        text, token_id = _object(entry, "an added token").get("content"), entry.get("id")
        if not text or not isinstance(text, str):
            raise TokenizerError(f"added token {token_id} has no text: {entry}")
        for setting in ("lstrip", "rstrip", "single_word"):
            if entry.get(setting):
                raise _unlike_gpt2(f"added token {text!r} sets {setting}, which tiktoken does not have")
        if added.setdefault(text, token_id) != token_id:
            raise TokenizerError(f"added token {text!r} has two ids, {added[text]} and {token_id}")
    return added


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = _read_text(path).removesuffix("\n").split("\n")
    with _naming(path):
        return _pairs(lines[1:] if lines[0].startswith("#version:") else lines)


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    """Merges as pairs; files write "a b", and since tokenizers 0.20 also ["a", "b"]."""
    pairs = []
    for number, merge in enumerate(merges, start=1):
        halves = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(halves, list) or [*map(type, halves)] != [str, str] or "" in halves:
            raise TokenizerError(f"merge {number} is {repr(merge)[:60]}, not two tokens")
        pairs.append((halves[0], halves[1]))
    return pairs


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, without duplicate keys: of two ids for one token, readers disagree on which counts."""
    text = _read_text(path)
    with _naming(path):
        try:
            return _object(json.loads(text, object_pairs_hook=_no_duplicates), "the content")
        except TokenizerError:
            raise
        except (ValueError, RecursionError) as error:  # ValueError: also a number of 4,300 digits
            raise TokenizerError(
                f"not JSON: {error}; it begins with {text[:40]!r}",
                hint="download it again; in a git clone, `git lfs pull` fetches the files behind pointers",
            ) from None


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        raise TokenizerError(f"key {next(a for a, b in pairwise(keys) if a == b)!r} appears twice")
    return content


def _read_text(path: Path) -> str:
    r"""The text, with every line end as \n: clones of OpenAI's files made on Windows have CRLF."""
    with _naming(path):
        try:
            if (size := path.stat().st_size) > _MAX_BYTES:
                raise TokenizerError(f"{size:,} bytes; a tokenizer file has at most {_MAX_BYTES:,}")
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"not text: {error}", hint="download it again") from None
        except OSError as error:
            raise TokenizerError(f"cannot be read: {error.strerror}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TokenizerError(f"{what} is {str(value)[:40]}, not a JSON object")
    return value


def _array(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise TokenizerError(f"{what} is {str(value)[:40]}, not a JSON array")
    return value


def _type(step: Any) -> str:
    return str(step.get("type")) if isinstance(step, dict) else repr(step)


def _unlike_gpt2(what: str) -> TokenizerError:
    return TokenizerError(f"not GPT-2's tokenizer: {what}", hint=_USE_TRANSFORMERS)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name before the message of a TokenizerError."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error.message}", hint=error.hint) from None


# ---- From those to ranks: where tiktoken's reading is GPT-2's ----


def _check_ids(vocab: Mapping[str, int], added: Mapping[str, int], vocab_size: int | None) -> None:
    """Every token has one id, every id one token and a row in the model, every byte a token."""
    token_of: dict[int, str] = {}
    for token, token_id in (*vocab.items(), *added.items()):
        # tiktoken's ids are 32-bit, and it keeps the last one for "none". A bool is an int in Python.
        if type(token_id) is not int or not 0 <= token_id < 0xFFFF_FFFF:
            raise TokenizerError(f"token {token!r} has {token_id!r} for an id")
        if vocab.get(token, token_id) != token_id:
            raise TokenizerError(f"token {token!r} has two ids, {vocab[token]} and (added) {token_id}")
        if token_of.setdefault(token_id, token) != token:
            raise TokenizerError(f"id {token_id} has two tokens, {token_of[token_id]!r} and {token!r}")
    if missing := [symbol for symbol in BYTE_SYMBOLS if symbol not in vocab]:
        raise _unlike_gpt2(f"{len(missing)} of the 256 byte symbols are missing, {_some(missing)}")
    if vocab_size is not None and (outside := sorted(id_ for id_ in token_of if id_ >= vocab_size)):
        raise TokenizerError(
            f"{len(outside)} ids are outside the model's {vocab_size} rows, first {outside[0]} "
            f"({token_of[outside[0]]!r})",
            hint="these are another model's files, or tokens were added and the model was not resized",
        )


def _check_merges(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """What tiktoken makes of the vocabulary is what GPT-2 makes of the merges."""
    symbols = set(BYTE_SYMBOLS)
    highest = -1
    for rank, (left, right) in enumerate(merges):
        if not symbols.issuperset(left + right):
            raise _unlike_gpt2(f"{_merge(rank, left, right)} has characters that are not byte symbols")
        if left + right not in vocab:
            raise TokenizerError(
                f"{_merge(rank, left, right)} makes a token that is not in the vocabulary",
                hint="vocabulary and merges are of two different tokenizers, or one of them is damaged",
            )
        token_id = vocab[left + right]
        if token_id <= highest:
            raise TokenizerError(
                f"{_merge(rank, left, right)} makes id {token_id}, after one that makes id {highest}; tiktoken "
                "merges low ids first",
                hint=_USE_TRANSFORMERS,
            )
        highest = token_id
    as_file = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    if hashlib.sha256(as_file.encode()).hexdigest() != _GPT2_MERGES_SHA256:
        _check_reachable(merges)


def _check_reachable(merges: Sequence[tuple[str, str]]) -> None:
    """Every merge can happen: of the token it makes, the merges before it leave just the two halves.

    Why that is enough. tiktoken joins any neighbours X, Y that spell a token T, GPT-2 only the pair listed
    for T. Say both have agreed until it is T's turn. Nothing has been joined across T's ends (what is joined
    stays joined), so inside T both have done what they do to T alone, which leaves the listed pair: X, Y is
    that pair. And T alone becomes T, which tiktoken takes for granted where a whole piece of text is in its
    vocabulary.
    """
    ranks: dict[tuple[str, str], int] = {}
    for rank, (left, right) in enumerate(merges):
        parts = _byte_pair_encode(left + right, ranks)
        if parts != [left, right]:
            raise TokenizerError(
                f"{_merge(rank, left, right)} never happens: those before it make {parts}",
                hint=f"tiktoken would make {left + right!r} where GPT-2 does not; {_USE_TRANSFORMERS}",
            )
        ranks[left, right] = rank


def _byte_pair_encode(symbols: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """GPT-2's algorithm: join the neighbours with the lowest rank, the first such, until no pair has one."""
    parts = list(symbols)
    while found := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _special_tokens(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Mapping[str, int]
) -> dict[str, int]:
    """Added tokens, and tokens of the vocabulary that no merge makes."""
    made = {left + right for left, right in merges}.union(BYTE_SYMBOLS, added)
    special = {token: token_id for token, token_id in vocab.items() if token not in made}
    # OpenAI's files declare nothing, not even <|endoftext|>; vocabularies that people train often start with
    # an undeclared <s> <pad> </s> <unk> <mask>. A token without such brackets has lost its merge: else a
    # merges file that was cut short would pass for a tokenizer.
    if lost := [token for token in special if token[:1] + token[-1:] not in ("<>", "[]")]:
        raise TokenizerError(
            f"{len(lost)} of {len(vocab)} tokens are made by none of the {len(merges)} merges: {_some(lost)}",
            hint="the merges are cut short, or special tokens lack a declaration in added_tokens.json",
        )
    special |= added
    for short, long in pairwise(sorted(special)):
        if long.startswith(short):  # transformers takes the longest, tiktoken whichever it tries first
            raise _unlike_gpt2(f"special token {long!r} begins with another one, {short!r}")
    return special


def _merge(rank: int, left: str, right: str) -> str:
    return f"merge {rank + 1} ({left!r} + {right!r})"


def _to_bytes(token: str) -> bytes:
    return token.translate(_SYMBOL_TO_BYTE).encode("latin-1")


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:3])) + ", ..." * (len(tokens) > 3)
