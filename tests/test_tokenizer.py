"""Tokenizers, as they are read here, against three oracles: tiktoken, transformers and `tokenizers` itself.

tiktoken is an implementation of its own and takes the vocabulary only, so the ids of byte-level BPE are compared with
it. What is about files (which of them count, in which form, with which added tokens) is compared with transformers.
"""

import json
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from gpt2_from_scratch.checkpoint import hub
from gpt2_from_scratch.errors import CheckpointError, ConfigError, TokenizerError
from gpt2_from_scratch.tokenizer import (
    BYTE_SYMBOLS,
    GPT2_SPLIT,
    StreamDecoder,
    Tokenizer,
    load_tokenizer,
    tokenizer_at,
    tokenizer_files,
    vocabulary,
)

EOT = "<|endoftext|>"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; they've met.",
    "hello hello world    hello\n\n\nworld  \t they'll say: it's 2019, 2020 or 12345!",
    "naïve façade, Ωmega и Привет, 日本語のテキスト, emoji 🎉🎉 👩‍👩‍👧 and more 🎉",
] * 4

# Text that exercises GPT-2's split: contractions (and what only looks like one), white space of every kind and in
# runs, digits, letters with marks, joined emoji, then anything Unicode has except lone surrogates.
CONTRACTIONS = ["'s", "'S", "'ll", "n't", "\u2019t", " the", "The", "hello"]
SPACES = [" ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u3000"]
SYMBOLS = ["0", "12", "½", "²", "é", "e\u0301", "日本", "🎉", "👩\u200d👩\u200d👧", "!!", "...", "\x00", "\ufffd", "<|"]
fragments = st.sampled_from(CONTRACTIONS + SPACES + SYMBOLS)
texts = st.lists(st.one_of(fragments, st.text(max_size=6)), max_size=12).map("".join)


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def write_pair(folder: Path, content: dict[str, Any], names: tuple[str, str], newline: str = "\n") -> Path:
    lines = ["#version: 0.2", *map(" ".join, content["model"]["merges"]), ""]
    (folder / names[0]).write_text(json.dumps(content["model"]["vocab"]))
    (folder / names[1]).write_text(newline.join(lines), newline="")
    return folder


def by_hand(merges: Iterable[tuple[str, str]], *more: str) -> dict[str, Any]:
    """A tokenizer.json: 256 bytes, the merges in order, then further tokens."""
    merges = list(merges)
    tokens = dict.fromkeys([*BYTE_SYMBOLS, *(a + b for a, b in merges), *more])
    return {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }


@pytest.fixture(scope="module")
def oracle() -> Backend:
    """A trained tokenizer; unlike GPT-2's, its special token comes first, so no id is its merge's rank + 256."""
    tokenizer = Backend(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def trained(oracle: Backend) -> dict[str, Any]:
    content = json.loads(oracle.to_str())
    assert len(content["model"]["merges"]) > 100  # else there would be little to test below
    return content


@pytest.fixture(scope="module")
def encoding(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    found = load_tokenizer(write(tmp_path_factory.mktemp("trained"), trained))
    found.encode_ordinary("")  # prepares itself in the first call, which must not count as a slow example
    return found


# ---- What it is compared with ----


@pytest.fixture(scope="module")
def tik(trained: dict[str, Any]) -> tiktoken.Encoding:
    """The trained tokenizer in tiktoken, which is given each token's bytes and derives the merges from the ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    in_order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    byte_of = dict(zip(BYTE_SYMBOLS, in_order, strict=True))
    vocab = {token: token_id for token, token_id in trained["model"]["vocab"].items() if token != EOT}
    ranks = {bytes(byte_of[symbol] for symbol in token): token_id for token, token_id in vocab.items()}
    return tiktoken.Encoding("trained", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={EOT: 0})


@given(text=texts)
def test_ids_are_those_of_tiktoken_and_tokenizers(
    text: str, encoding: Tokenizer, oracle: Backend, tik: tiktoken.Encoding
) -> None:
    assert encoding.encode_ordinary(text) == tik.encode_ordinary(text) == oracle.encode(text).ids
    assert encoding.encode(text) == tik.encode(text)


@given(parts=st.lists(st.one_of(st.just(EOT), texts), max_size=4))
def test_special_tokens_are_those_of_tiktoken(parts: list[str], encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    text = "".join(parts)
    assert encoding.encode_ordinary(text) == tik.encode_ordinary(text)
    for allowed in ("all", {EOT}):
        assert encoding.encode(text, allowed_special=allowed) == tik.encode(text, allowed_special=allowed)
    if EOT in text:
        with pytest.raises(ValueError, match=r"contains the special token '<\|endoftext\|>': give allowed_special"):
            encoding.encode(text)


@given(text=texts)
def test_text_survives_the_round_trip(text: str, encoding: Tokenizer) -> None:
    assert encoding.decode(encoding.encode_ordinary(text)) == text


@given(ids=st.lists(st.integers(0, 300)))
def test_any_ids_decode_as_in_tiktoken(ids: list[int], encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    assert encoding.decode(ids) == tik.decode(ids)


def test_what_the_book_asks_of_a_tokenizer(encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    assert (encoding.n_vocab, encoding.eot_token) == (tik.n_vocab, tik.eot_token)
    assert encoding.decode(encoding.encode(f"Hello{EOT}", allowed_special={EOT})) == f"Hello{EOT}"
    assert repr(encoding).startswith("Tokenizer('") and len(repr(encoding)) < 200


def test_bytes_that_are_no_text_are_read_as_tiktoken_reads_them(encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    """Python passes on a file name, or an argument, that is no UTF-8 with lone surrogates."""
    assert encoding.encode("a\udcffb") == tik.encode("a\udcffb") == encoding.encode("a\ufffdb")


def test_a_long_piece_is_merged_like_a_short_one(encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    for text in ("hello" * 400, "thethen" * 300, "🎉" * 300, " " * 2000 + "x"):
        assert encoding.encode_ordinary(text) == tik.encode_ordinary(text)


def test_a_long_merge_takes_no_longer(tmp_path: Path) -> None:
    """Time grew with the square of a merge's length when merges were checked one by one: 4.5 s for this one."""
    length, merges = 2, [("a", "a")]
    while length < 8192:
        merges.append(("a" * length, "a" * length))
        length *= 2
    load_tokenizer(write(tmp_path, by_hand(merges))).encode("a" * 9000)


@st.composite
def merges_of_ab(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Any merges of any earlier tokens into new ones: most could not have come from training."""
    tokens, merges = ["a", "b"], []
    for _ in range(draw(st.integers(1, 6))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append((left, right))
    return merges


def by_the_book(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """GPT-2's algorithm: join the neighbours whose merge is listed first, the first such pair, until there is none."""
    parts = list(text)
    while found := [(merges.index(pair), at) for at, pair in enumerate(pairwise(parts)) if pair in merges]:
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


ALL_AB = ["".join(letters) for length in range(1, 9) for letters in product("ab", repeat=length)]


@settings(max_examples=40, derandomize=True)
@given(merges=merges_of_ab())
def test_any_merges_are_run_as_they_are(merges: list[tuple[str, str]], tmp_path_factory: Any) -> None:
    content = by_hand(merges)
    ids = content["model"]["vocab"]
    for form in (write, lambda folder, content: write_pair(folder, content, ("vocab.json", "merges.txt"))):
        encoding = tokenizer_at(form(tmp_path_factory.mktemp("ab"), content))
        for text in ALL_AB[::7]:
            assert encoding.encode(text) == [ids[token] for token in by_the_book(text, merges)], text


# ---- Forms ----


@pytest.mark.parametrize(
    "form",
    ["tokenizer.json", "merges as strings", "split written out", "vocab.json", "encoder.json", "crlf", "no version"],
)
def test_every_form_is_the_same_tokenizer(
    form: str, trained: dict[str, Any], encoding: Tokenizer, tmp_path: Path
) -> None:
    content = json.loads(json.dumps(trained))
    match form:
        case "tokenizer.json":
            write(tmp_path, content)
        case "merges as strings":
            content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
            del content["model"]["type"]  # as in GPT-2's own file
            write(tmp_path, content)
        case "split written out":
            split = {"type": "Split", "pattern": {"Regex": GPT2_SPLIT}, "behavior": "Isolated", "invert": False}
            content["pre_tokenizer"] |= {"use_regex": False}
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
            write(tmp_path, content)
            text = CORPUS[1]
            assert Backend.from_str(json.dumps(content)).encode(text).ids == encoding.encode(text)
        case "vocab.json":
            write_pair(tmp_path, content, ("vocab.json", "merges.txt"))
        case "encoder.json":
            write_pair(tmp_path, content, ("encoder.json", "vocab.bpe"))
        case "crlf":
            write_pair(tmp_path, content, ("encoder.json", "vocab.bpe"), newline="\r\n")
        case "no version":
            write_pair(tmp_path, content, ("vocab.json", "merges.txt"))
            lines = (tmp_path / "merges.txt").read_text().split("\n")
            (tmp_path / "merges.txt").write_text("\n".join(lines[1:-1]))
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.special_tokens, loaded.n_vocab) == (encoding.special_tokens, encoding.n_vocab)
    for text in [*CORPUS[:3], EOT, *trained["model"]["vocab"]]:
        assert loaded.encode(text, allowed_special="all") == encoding.encode(text, allowed_special="all")
    assert vocabulary(tmp_path) == vocabulary(Path(encoding.name).parent)
    assert loaded.name == str(tokenizer_files(tmp_path)[0])


def test_a_file_stands_for_its_folder(trained: dict[str, Any], tmp_path: Path) -> None:
    weights = write(tmp_path, trained) / "model.safetensors"
    weights.touch()
    assert load_tokenizer(weights).name == str(tmp_path / "tokenizer.json")


def test_what_transformers_reads_first_is_read_first(trained: dict[str, Any], tmp_path: Path) -> None:
    write_pair(tmp_path, trained, ("encoder.json", "vocab.bpe"))
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    (tmp_path / "added_tokens.json").write_text("{}")
    assert [path.name for path in tokenizer_files(tmp_path)] == ["vocab.json", "merges.txt", "added_tokens.json"]
    write(tmp_path, trained)
    assert [path.name for path in tokenizer_files(tmp_path)] == ["tokenizer.json", "added_tokens.json"]


# ---- Special tokens ----


def test_added_tokens_are_recognised_as_in_transformers(oracle: Backend, tmp_path: Path) -> None:
    grown = Backend.from_str(oracle.to_str())
    grown.add_special_tokens([AddedToken("<pad>")])
    grown.add_tokens([AddedToken("<émoji 🎉>"), AddedToken("<extra_1>"), AddedToken("<é>", lstrip=True)])
    encoding = load_tokenizer(write(tmp_path, json.loads(grown.to_str())))
    text = f"hello<émoji 🎉> world{EOT}{EOT}<pad><extra_1><extra_2>"
    ids = encoding.encode(text, allowed_special="all")
    assert ids == grown.encode(text).ids
    assert encoding.decode(ids) == text
    assert encoding.decode(encoding.encode("<é>", allowed_special="all")) == "<é>"  # in tokenizers, a broken byte
    assert (
        encoding.encode("a  <é>", allowed_special="all")
        == grown.encode("a  <é>").ids
        == [
            *grown.encode("a").ids,
            grown.token_to_id("<é>"),
        ]
    )
    assert encoding.eot_token == 0
    assert encoding.encode_ordinary(EOT) == oracle.encode("<|endo").ids + oracle.encode("ftext|>").ids != [0]
    with pytest.raises(ValueError, match="contains the special token '<pad>'"):
        encoding.encode("<pad>", allowed_special={EOT})


def test_added_tokens_come_from_every_file(trained: dict[str, Any], tmp_path: Path) -> None:
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    decoder = {"0": {"content": EOT, "special": True}, "900": {"content": "<pad>", "lstrip": True}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"add_prefix_space": False, "added_tokens_decoder": decoder, "tokenizer_class": "GPT2Tokenizer"})
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 900, "plain word": 901}))
    encoding = load_tokenizer(tmp_path)
    assert encoding.special_tokens == vocabulary(tmp_path).added == {EOT: 0, "<pad>": 900, "plain word": 901}
    assert encoding.n_vocab == 902
    assert encoding.encode("a plain word", allowed_special="all")[-1] == 901
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 901}))
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: added token '<pad>' has two ids, 901 and 900"):
        load_tokenizer(tmp_path)


def test_files_beside_a_tokenizer_json_add_tokens_to_it(trained: dict[str, Any], tmp_path: Path) -> None:
    size = len(trained["model"]["vocab"])
    (write(tmp_path, trained) / "added_tokens.json").write_text(json.dumps({"<b>": size + 1, "<a>": size, EOT: 0}))
    encoding = load_tokenizer(tmp_path)
    assert encoding.special_tokens == vocabulary(tmp_path).added == {EOT: 0, "<a>": size, "<b>": size + 1}
    assert encoding.encode("<b><a>", allowed_special="all") == [size + 1, size]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": size + 5}))
    with pytest.raises(TokenizerError, match=rf"token '<a>' has two ids, {size} and \(added\) {size + 5}"):
        load_tokenizer(tmp_path)


def test_undeclared_tokens_in_brackets_are_special(tmp_path: Path) -> None:
    content = by_hand([("a", "b")], "<s>", "[PAD]", EOT)
    assert load_tokenizer(write_pair(tmp_path, content, ("vocab.json", "merges.txt"))).special_tokens == {
        "<s>": 257,
        "[PAD]": 258,
        EOT: 259,
    }


def test_merges_that_were_cut_short_are_noticed(trained: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads(json.dumps(trained))
    total, merges = len(content["model"]["vocab"]), len(content["model"]["merges"])
    del content["model"]["merges"][-20:]
    with pytest.raises(TokenizerError, match=rf"20 of {total} tokens are made by none of the {merges - 20} merges: '"):
        load_tokenizer(write_pair(tmp_path, content, ("vocab.json", "merges.txt")))


# ---- Refusals ----


def changed(path: str, value: Any) -> dict[str, Any]:
    """A small valid tokenizer.json with one value replaced."""
    content = by_hand([("a", "b"), ("ab", "c")], EOT)
    *folders, name = path.split(".")
    place = content
    for folder in folders:
        place = place[folder]
    place[name] = value
    return content


def test_the_tokenizer_that_the_refusals_change_is_accepted(tmp_path: Path) -> None:
    assert load_tokenizer(write(tmp_path, changed("version", "1.0"))).encode("abcab") == [257, 256]


REFUSED = {
    "no model": (changed("model", None), "the file cannot be read: "),
    "merge of one": (changed("model.merges", ["a b", "ab"]), "the file cannot be read: "),
    "dropout": (changed("model.dropout", 0.1), "the model sets dropout: 0.1, so that the same text has other ids each"),
    "text for an id": (changed("model.vocab.abc", "257"), "the file cannot be read: "),
    "prefix": (changed("model.continuing_subword_prefix", "##"), "the file cannot be read: "),  # the library panics
    "same id": (changed("model.vocab.abc", 256), "id 256 has two tokens, 'ab' and 'abc'"),
    "not in vocab": (changed("model.merges", ["a b", "b c"]), "the file cannot be read: "),
}
NOT_A_PAIR = {
    "merge of three": ("a b c", {}, r"it cannot be read together with merges.txt: .*Merges text file invalid"),
    "merge of one": ("ab", {}, r"it cannot be read together with merges.txt: .*Merges text file invalid"),
    "not in vocab": ("b c", {}, r"vocabulary and merges are of two different tokenizers, or damaged: .*`bc`"),
    "half not in vocab": ("日 本", {}, r"vocabulary and merges are of two different tokenizers, or damaged: .*`日"),
    "text for an id": (None, {"abc": "257"}, "token 'abc' has '257' for an id"),
    "true for an id": (None, {"abc": True}, "token 'abc' has 'True' for an id"),
    "negative id": (None, {"abc": -1}, "token 'abc' has '-1' for an id"),
    "33-bit id": (None, {"abc": 2**32}, "token 'abc' has '4294967296' for an id"),
    "same id": (None, {"abc": 256}, "id 256 has two tokens, 'ab' and 'abc'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(write(tmp_path, content))
    assert caught.value.message.startswith(str(tmp_path))


@pytest.mark.parametrize("case", NOT_A_PAIR)
def test_vocabulary_and_merges_are_refused_by_name(case: str, tmp_path: Path) -> None:
    merge, ids, message = NOT_A_PAIR[case]
    content = changed("version", "1.0")
    content["model"]["vocab"] |= ids
    write_pair(tmp_path, content, ("vocab.json", "merges.txt"))
    if merge is not None:
        with (tmp_path / "merges.txt").open("a", encoding="utf-8") as file:
            file.write(f"{merge}\n")
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.message.startswith(str(tmp_path))


# ---- Tokenizers of other kinds, whose tokenizer.json says all


def of_another_kind(kind: str) -> Backend:
    """Trained on the same text, with everything that GPT-2's does not have."""
    special = ["[UNK]", "[CLS]", "[SEP]"]
    if kind == "WordPiece":
        backend = Backend(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    elif kind == "Unigram":
        backend = Backend(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="[UNK]", show_progress=False
        )
    elif kind == "characters":
        backend = Backend(models.BPE(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        backend.decoder = decoders.Fuse()
        trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    else:
        backend = Backend(models.BPE(unk_token="[UNK]", ignore_merges=True))
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.train_from_iterator(CORPUS, trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    backend.enable_truncation(5)
    backend.enable_padding(length=9)
    return backend


KINDS = ["WordPiece", "Unigram", "characters", "byte-level with more"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_json_of_another_kind_is_used_as_it_is(kind: str, tmp_path: Path) -> None:
    backend = of_another_kind(kind)
    encoding = load_tokenizer(write(tmp_path, json.loads(backend.to_str())))
    backend.no_truncation()
    backend.no_padding()
    for text in (*CORPUS[:3], "12 naïve words, and [SEP]!", ""):
        ids = backend.encode(text).ids
        assert encoding.encode(text, allowed_special="all") == ids
        assert encoding.decode(ids) == backend.decode(ids, skip_special_tokens=False)
        stream = StreamDecoder(encoding)
        pieces = [stream.feed(token_id) for token_id in ids]
        assert "".join(pieces) + stream.flush() == encoding.decode(ids)
    assert encoding.encode_ordinary("hello") == backend.encode("hello", add_special_tokens=False).ids
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: not GPT-2's tokenizer: its .*(normalizer|model|post_pro)"
    ):
        vocabulary(tmp_path)


def test_a_text_that_a_tokenizer_has_no_token_for_is_refused(tmp_path: Path) -> None:
    backend = Backend(models.Unigram([("a", 0.0)], unk_id=None))
    encoding = load_tokenizer(write(tmp_path, json.loads(backend.to_str())))
    with pytest.raises(TokenizerError, match=r"cannot encode this text: .*unk_id"):
        encoding.encode("zebra")


NOT_TO_BE_WRITTEN = {
    "ignore_merges": (changed("model.ignore_merges", True), "its model differs"),
    "normalizer": (changed("normalizer", {"type": "NFC"}), "its normalizer differs"),
    "no pre-tokenizer": (changed("pre_tokenizer", None), "its pre_tokenizer differs"),
    "prefix space": (changed("pre_tokenizer.add_prefix_space", True), "its pre_tokenizer differs"),
    "no split": (changed("pre_tokenizer.use_regex", False), "its pre_tokenizer differs"),
    "roberta": (
        changed("post_processor", {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        "its post_processor differs, and vocabulary and merges cannot say so",
    ),
}


@pytest.mark.parametrize("case", NOT_TO_BE_WRITTEN)
def test_what_vocabulary_and_merges_cannot_say_is_refused(case: str, tmp_path: Path) -> None:
    content, message = NOT_TO_BE_WRITTEN[case]
    load_tokenizer(write(tmp_path, content))
    with pytest.raises(TokenizerError, match=message):
        vocabulary(tmp_path)


def test_missing_bytes_are_refused(tmp_path: Path) -> None:
    content = by_hand([])
    for symbol in "ĀĠaz":
        del content["model"]["vocab"][symbol]
    with pytest.raises(TokenizerError, match=r"4 of the 256 byte symbols are missing, 'a', 'z', 'Ā', \.\.\.\n"):
        load_tokenizer(write(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": ', r"is not a readable JSON file: Expecting value"),
        ("version https://git-lfs.github.com/spec/v1\n", r"is not a readable JSON file: (.|\n)*git lfs pull"),
        ("<!DOCTYPE html>", "is not a readable JSON file"),
        ("[" * 200_000, "is not a readable JSON file: .*recursion"),
        ('{"a": ' + "9" * 5000 + "}", "is not a readable JSON file: .*4300 digits"),
        ('{"model": {"vocab": {"a": 0, "b": 1, "a": 2}}}', "key 'a' appears twice"),
        ("[]", r"the content is \[\], not a JSON object"),
        ("\udcff", "is not a readable JSON file: .*invalid start byte"),
    ],
)
def test_damaged_files_are_called_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.message.startswith(str(path))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate((1 << 26) + 1)  # sparse
    with pytest.raises(TokenizerError, match="67,108,865 bytes, and such a file at most 67,108,864"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"add_prefix_space": True}, "not GPT-2's tokenizer: add_prefix_space is true"),
        ({"add_bos_token": True}, "not GPT-2's tokenizer: add_bos_token is true"),
        ({"added_tokens_decoder": {"x": {}}}, r"added_tokens_decoder has 'x': \{\}, not an id with its token"),
        ({"added_tokens_decoder": {"9": "x"}}, "added_tokens_decoder has '9': x, not an id with its token"),
        ({"added_tokens_decoder": {"9": {"content": ""}}}, "added_tokens_decoder has '9': .* not an id with its token"),
        ({"added_tokens_decoder": [1]}, r"added_tokens_decoder is \[1\], not a JSON object"),
        ({"tokenizer_class": "CLIPTokenizer"}, "tokenizer_class is CLIPTokenizer"),
        ({"tokenizer_class": "GPT2TokenizerFast"}, None),
        ({"added_tokens_decoder": []}, None),
    ],
)
def test_settings_beside_the_vocabulary_count(
    config: dict[str, Any], message: str | None, trained: dict[str, Any], tmp_path: Path
) -> None:
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if message is None:
        load_tokenizer(tmp_path)
        return
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer_config.json") in str(caught.value)


# ---- The model's vocabulary, and checkpoints without a tokenizer ----


@pytest.mark.parametrize(("file", "field"), [("config.json", "vocab_size"), ("hparams.json", "n_vocab")])
def test_ids_must_have_rows_in_the_model(file: str, field: str, trained: dict[str, Any], tmp_path: Path) -> None:
    size = len(trained["model"]["vocab"])
    write(tmp_path, trained)
    message = rf"2 ids are outside the model's {size - 2} rows, first {size - 2} \('"
    assert tokenizer_at(tmp_path, size).n_vocab == size
    with pytest.raises(TokenizerError, match=message):
        tokenizer_at(tmp_path, size - 2)
    (tmp_path / file).write_text(json.dumps({field: size - 2}))
    assert tokenizer_at(tmp_path, size).n_vocab == size  # what the caller says goes before the file
    with pytest.raises(TokenizerError, match=message):
        tokenizer_at(tmp_path)


def test_a_damaged_configuration_is_an_error(trained: dict[str, Any], tmp_path: Path) -> None:
    (write(tmp_path, trained) / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not a readable JSON file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("vocab_size", [50257, 50304])
def test_without_files_gpt2s_is_assumed_and_said_to_be(
    vocab_size: int, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache = tmp_path / "hub"
    hub_cache.mkdir()
    asked: list[Any] = []

    def fetch(repo_id: str, names: Iterable[str], **options: Any) -> dict[str, Path]:
        asked.append((repo_id, tuple(names), options))
        return {"tokenizer.json": write(hub_cache, trained) / "tokenizer.json"}

    monkeypatch.setattr(hub, "fetch", fetch)
    (tmp_path / "ckpt.pt").touch()
    found = load_tokenizer(tmp_path / "ckpt.pt", vocab_size=vocab_size, local_files_only=True, revision="v2", token="t")
    assert found.name == str(hub_cache / "tokenizer.json")
    assert found.assumed == (
        f"GPT-2's tokenizer is assumed, as {tmp_path / 'ckpt.pt'} has none and a vocabulary of {vocab_size}"
    )
    where_kept = {"cache_dir": None, "local_files_only": True}  # another repository's revision and token are not for it
    assert asked == [("openai-community/gpt2", ("tokenizer.json",), where_kept)]
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))
    assert load_tokenizer(tmp_path).assumed


def test_without_files_and_network_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo_id: str, names: Iterable[str], **options: Any) -> dict[str, Path]:
        raise CheckpointError("no route to host", hint="check the network")

    monkeypatch.setattr(hub, "fetch", offline)
    with pytest.raises(TokenizerError, match=r"GPT-2's cannot be fetched: no route to host\n.*connect once"):
        load_tokenizer(tmp_path, vocab_size=50257)


@pytest.mark.parametrize(
    ("files", "vocab_size", "message"),
    [
        ([], None, "has no tokenizer files\n  hint: expected tokenizer.json, or vocab.json with merges.txt, or enc"),
        ([], 27, r"has no tokenizer files, and a vocabulary of 27; GPT-2's has 50257 \(50304"),
        (["vocab.json"], 50257, "has vocab.json, not a whole tokenizer"),
        (["vocab.json", "vocab.bpe"], 50257, "has vocab.json, vocab.bpe, not a whole tokenizer"),
        (["tokenizer_config.json"], 50257, "has tokenizer_config.json, not a whole tokenizer"),
        (["spiece.model"], 50257, "has spiece.model, a sentencepiece model: not GPT-2's byte-level BPE"),
        (["ja.model", "en.model"], 50257, "has en.model, ja.model, a sentencepiece model"),
        (
            ["vocab.txt"],
            50257,
            r"has vocab.txt, a word list, as of WordPiece \(BERT\): (.|\n)*`gpt2 verify` needs no tok",
        ),
        (["meta.pkl"], 50304, "has meta.pkl, nanoGPT's table of characters: (.|\n)*--ids"),
    ],
)
def test_gpt2_does_not_take_another_tokenizers_place(
    files: list[str], vocab_size: int | None, message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path, vocab_size=vocab_size)


def test_half_a_tokenizer_is_called_what_it_says_it_is(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "\n": 2}))
    with pytest.raises(TokenizerError, match="not a whole tokenizer; its 3 tokens are single characters\n"):
        load_tokenizer(tmp_path, vocab_size=50257)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(TokenizerError, match="not a whole tokenizer; its class is BertTokenizer\n"):
        load_tokenizer(tmp_path, vocab_size=50257)


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "/nowhere/model.safetensors", Path("nowhere")])
def test_a_path_that_is_not_there_is_no_hub_id(source: str | Path) -> None:
    with pytest.raises(TokenizerError, match=r"does not exist\n  hint: give a directory"):
        load_tokenizer(source)


def test_a_hub_id_is_fetched(trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, names: Iterable[str], **options: Any) -> dict[str, Path]:
        asked.update(options, repo_id=repo_id, names=tuple(names))
        return {path.name: path for path in tmp_path.iterdir()}

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(hub, "unknown", lambda *_, **__: [])
    with pytest.raises(TokenizerError, match=r"^owner/name has no tokenizer files"):
        load_tokenizer("owner/name")
    write(tmp_path, trained)
    options = {"revision": "v2", "token": "t", "cache_dir": tmp_path, "local_files_only": True}
    assert load_tokenizer("owner/name", **options).eot_token == 0
    assert not {"model.safetensors", "pytorch_model.bin"} & set(asked.pop("names"))
    assert asked == {"repo_id": "owner/name", **options}


# ---- Inside a GGUF file, written by llama.cpp's own package ----


def write_gguf(path: Path, content: dict[str, Any], *, unused: int = 0, **changes: Any) -> Path:
    """The tokenizer of a tokenizer.json, its added tokens as control tokens, then ids without a token."""
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    tokens = {token_id: token for token, token_id in content["model"]["vocab"].items()} | added
    count = max(tokens) + 1 + unused
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    fields = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [tokens.get(token_id, f"[PAD{token_id}]") for token_id in range(count)],
        "token_type": [3 if token_id in added else 1 if token_id in tokens else 5 for token_id in range(count)],
        "merges": merges,
    } | changes
    writer = gguf.GGUFWriter(path, "gpt2")
    for name, value in fields.items():
        add = writer.add_string if isinstance(value, str) else writer.add_array
        if value is not None:
            add(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_the_tokenizer_inside_a_gguf_file(trained: dict[str, Any], encoding: Tokenizer, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", trained, unused=12)
    text = "".join(CORPUS) + EOT
    ids = encoding.encode(text, allowed_special="all")
    for place in (path, tmp_path):
        found = load_tokenizer(place)
        assert found.encode(text, allowed_special="all") == ids and found.decode(ids) == text
        assert found.name == str(path) and found.special_tokens == {EOT: 0}
        assert found.n_vocab == encoding.n_vocab, "an id that fills the embedding has no token"
    (tmp_path / "config.json").write_text('{"vocab_size": 7}')  # of another model: the file has its own rows
    assert load_tokenizer(path).encode(text, allowed_special="all") == ids
    with pytest.raises(TokenizerError, match="ids are outside the model's 7 rows"):
        load_tokenizer(path, vocab_size=7)


def test_a_gguf_files_own_tokenizer_goes_before_its_neighbours(trained: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, by_hand([]))
    assert load_tokenizer(write_gguf(tmp_path / "model.gguf", trained)).name == str(tmp_path / "model.gguf")
    assert load_tokenizer(tmp_path).name == str(tmp_path / "tokenizer.json")
    bare = write_gguf(tmp_path / "bare.gguf", trained, model="none", tokens=None, merges=None)
    assert load_tokenizer(bare).name == str(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="has no tokenizer files"):  # one of two, and nothing says which
        load_tokenizer(tmp_path)


GGUF_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sentencepiece": ({"model": "llama"}, "holds a tokenizer of the kind 'llama'"),
    "another split": (
        {"pre": "qwen2"},
        "cuts text as 'qwen2'; GPT-2's is gpt2, and gpt-2\n  hint: tokenize with",
    ),
    "no merges": ({"merges": None}, "without tokens or without merges"),
    "no tokens": ({"tokens": None}, "without tokens or without merges"),
    "tokens are numbers": ({"tokens": [1, 2]}, "without tokens or without merges"),
    "a type too few": ({"token_type": [1, 1]}, "does not give each of its tokens a type"),
    "types are texts": ({"token_type": ["1"]}, "does not give each of its tokens a type"),
    "twice": ({"tokens": ["a", "a"], "token_type": None}, "two ids have the same token"),
    "few bytes": (
        {"tokens": ["a", "b", "ab"], "merges": ["a b"], "token_type": None},
        "254 of the 256 byte symbols are missing",
    ),
    "merges are words": ({"merges": ["ab"]}, "merge 1 is 'ab', not two tokens"),
    "merges of others": (
        {"merges": ["a b", "q q"]},
        "needs or makes a token that is not in the vocabulary|made by none",
    ),
}


@pytest.mark.parametrize("case", GGUF_REFUSED)
def test_a_gguf_files_tokenizer_is_refused_by_name(case: str, trained: dict[str, Any], tmp_path: Path) -> None:
    changes, message = GGUF_REFUSED[case]
    path = write_gguf(tmp_path / "model.gguf", trained, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(path)
    assert caught.value.message.startswith(str(path))


def test_a_gguf_file_from_before_types_and_splits_had_names(
    trained: dict[str, Any], encoding: Tokenizer, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", trained, pre=None, token_type=None)
    assert load_tokenizer(path).encode(CORPUS[0]) == encoding.encode(CORPUS[0])


# ---- Streaming ----


@given(ids=st.lists(st.integers(0, 300)))
def test_the_stream_is_the_text_whatever_the_bytes(ids: list[int], encoding: Tokenizer) -> None:
    stream = StreamDecoder(encoding)
    pieces = [stream.feed(token_id) for token_id in ids]
    assert "".join(pieces) + stream.flush() == encoding.decode(ids)
    assert stream.flush() == ""


@given(text=texts.filter(lambda text: "\ufffd" not in text))
def test_the_stream_never_shows_half_a_character(text: str, encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    stream = StreamDecoder(encoding)
    shown, fed = "", b""
    for token_id in encoding.encode_ordinary(text):
        shown += stream.feed(token_id)
        fed += tik.decode_single_token_bytes(token_id)
        assert shown == fed.decode(errors="ignore")  # every whole character, at once
    assert stream.flush() == ""
    assert shown == text


def test_what_never_becomes_a_character_is_shown_at_the_end(encoding: Tokenizer, tik: tiktoken.Encoding) -> None:
    stream = StreamDecoder(encoding)
    half = tik.encode_single_token("é".encode()[:1])
    assert (stream.feed(half), stream.flush()) == ("", "\ufffd")
    assert stream.feed(tik.encode_single_token(b"!")) == "!"  # as new


@pytest.mark.parametrize("token_id", [50300, -1, 2**40])
def test_an_id_without_a_token_is_named(token_id: int, encoding: Tokenizer) -> None:
    with pytest.raises(
        TokenizerError, match=rf"has no token with id {token_id}; its ids end at {encoding.n_vocab - 1}"
    ):
        StreamDecoder(encoding).feed(token_id)
    with pytest.raises(TokenizerError, match=f"has no token with id {token_id}"):
        encoding.decode([1, token_id])
    assert encoding.text_of(token_id) == f"[{token_id}]"
    assert encoding.text_of(1) == encoding.decode([1])


# ---- GPT-2's own files ----


@pytest.fixture(scope="module")
def gpt2_folder(shared_checkpoints: Path) -> Path:
    return shared_checkpoints / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> Tokenizer:
    return load_tokenizer(gpt2_folder)


@pytest.fixture(scope="module")
def gpt2_tik(gpt2_folder: Path) -> tiktoken.Encoding:
    """GPT-2's in tiktoken, from OpenAI's files."""
    loaded = data_gym_to_mergeable_bpe_ranks(str(gpt2_folder / "vocab.bpe"), str(gpt2_folder / "encoder.json"))
    return tiktoken.Encoding("gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=loaded, special_tokens={EOT: 50256})


@pytest.fixture(scope="module")
def gpt2_transformers(gpt2_folder: Path) -> Any:
    from transformers import GPT2TokenizerFast

    return GPT2TokenizerFast.from_pretrained(str(gpt2_folder))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        (EOT, [50256]),
        # Published with the logits of other people's GPT-2s, so typed in by hand once:
        ("Hello world ", [15496, 995, 220]),
        ("Ondřej Čertík was born in", [46, 358, 129, 247, 68, 73, 34754, 234, 861, 8836, 74, 373, 4642, 287]),
    ],
)
def test_published_ids(text: str, ids: list[int], gpt2: Tokenizer) -> None:
    assert gpt2.encode(text, allowed_special="all") == ids
    assert gpt2.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_gpt2_ids_are_those_of_tiktoken_and_transformers(
    text: str, gpt2: Tokenizer, gpt2_tik: tiktoken.Encoding, gpt2_transformers: Any
) -> None:
    ids = gpt2.encode_ordinary(text)
    assert ids == gpt2_tik.encode_ordinary(text) == gpt2_transformers(text).input_ids
    assert gpt2.decode(ids) == text
    with_end = text + EOT
    assert gpt2.encode(with_end, allowed_special="all") == gpt2_transformers(with_end).input_ids


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_gpt2_token_is_its_own_encoding(step: int, gpt2: Tokenizer, gpt2_tik: tiktoken.Encoding) -> None:
    """Each token as a text of its own, and each beside its neighbour: all merges are used, and many pairs."""
    tokens = [gpt2.decode([i]) for i in range(0, 50256, step)]
    texts = [token for token in tokens if "\ufffd" not in token]
    texts += [a + b for a, b in zip(texts[::5], texts[1::5], strict=False)]
    assert [gpt2.encode_ordinary(text) for text in texts] == gpt2_tik.encode_ordinary_batch(texts, num_threads=1)


def test_openais_files_with_either_line_end(
    gpt2: Tokenizer, gpt2_folder: Path, shared_checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "encoder.json").write_bytes((gpt2_folder / "encoder.json").read_bytes())
    expected = vocabulary(gpt2_folder)
    for merges in (gpt2_folder / "vocab.bpe", shared_checkpoints / "negative" / "vocab.bpe.crlf"):
        (tmp_path / "vocab.bpe").write_bytes(merges.read_bytes())
        assert load_tokenizer(tmp_path, vocab_size=50257).special_tokens == gpt2.special_tokens == {EOT: 50256}
        assert vocabulary(tmp_path) == expected
    assert len(expected.merges) == 50_000
