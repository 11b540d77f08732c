"""Other people's names for GPT-2's settings, and the values that a checkpoint's configuration gives them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpt2_from_scratch.config import GPTConfig

# Other people's names for GPT-2's settings, in lower case and without underscores. A list for each setting of
# `settings_of`. Words that mean different things in different code (``hidden_dim``) are in `DOUBTFUL`.
WORDS: Mapping[str, str] = {
    "vocab_size": "vocabsize nvocab numvocab dvocab vocab vocabulary vocabularysize vocablen vocabdim paddedvocabsize "
    "nwords ntoken ntokens numtokens numembeddings",
    "n_positions": "npositions nctx dctx ctxlen ctxsize contextlength contextlen contextsize contextwindow context "
    "blocksize blocklength maxseqlen maxseqlength maxsequencelength maxsequencelen seqlen seqlength sequencelength "
    "sequencelen maxlen maxlength maxcontext maxcontextlength maxpositionembeddings maxpositions maxposition maxpos "
    "numpositions npos windowsize length",
    "n_embd": "nembd nembed nemb embd embdim embdsize embsize embeddim embedsize embeddingdim embeddingsize "
    "embeddingdimension demb dembed dmodel modeldim modelsize ninp hiddensize width dim nchannels "
    "residdim dresid hiddenchannels",
    "n_layer": "nlayer nlayers nunits numlayers numhiddenlayers numblocks nblock nblocks layers depth "
    "ntransformerlayers numtransformerlayers numtransformerblocks numdecoderlayers",
    "n_head": "nhead nheads numheads numhead heads nattnheads numattnheads numattentionheads attentionheads attnheads",
    "head_dim": "headdim headsize headwidth dhead dimhead",
    "inner_dim": "ninner innerdim dinner dff ffdim ffndim ffsize ffnsize ffhidden ffnhidden ffnhiddensize ffhiddensize "
    "ffhiddendim ffnhiddendim "
    "dmlp mlpdim mlpsize mlphidden mlphiddendim mlphiddensize intermediatesize intermediatedim dimfeedforward "
    "feedforwarddim feedforwardsize filterchannels",
    "inner_ratio": "mlpratio ffratio ffmult ffnmult ffnmultiplier mlpmult mlpmultiplier expansionfactor expansion "
    "ffexpansion mlpexpansion",
    "layer_norm_epsilon": "layernormepsilon layernormeps lnepsilon lneps normeps normepsilon eps epsilon",
    "resid_pdrop": "dropout droprate dropoutrate dropoutp dropoutprob pdrop pdropout residpdrop residdropout "
    "resdropout hiddendropout droprateshortcut mlpdropout ffdropout",
    "attn_pdrop": "attnpdrop attndropout attentiondropout attndroprate droprateattn",
    "embd_pdrop": "embdpdrop embpdrop embdropout embeddropout embeddingdropout embdroprate droprateemb",
    "bias": "bias qkvbias usebias hasbias attnbias attentionbias linearbias mlpbias projbias",
    "tie_word_embeddings": "tieweights tiewordembeddings weighttying tieembeddings tiehead tieembedding tied",
    "activation_function": "activationfunction",
    "device": "device",
    "model_type": "modeltype",
}
SETTING = {word: setting for setting, words in WORDS.items() for word in words.split()}

# They mean the width of the feed-forward layer in code that has another word for the model's width, and the model's
# width in other code.
DOUBTFUL = ("hiddendim", "dhidden", "nhidden", "nhid", "hidden")
KNOWN = frozenset((*SETTING, *DOUBTFUL))

# Letters that papers use; case matters. They are recognised only as arguments beside words that are known.
LETTERS = {"N": "n_layer", "L": "n_layer", "h": "n_head", "H": "n_head", "V": "vocab_size"}

# Names of settings inside settings, as in ``config["model"]["n_layer"]``.
GROUPS = ("model", "transformer", "gpt", "gpt2", "network", "architecture", "hparams", "params", "config", "data")


@dataclass(frozen=True)
class Setting:
    """One value that somebody's code was given.

    Args:
        name: in their words.
        value: what it was given.
        source: where the value comes from: a field of the checkpoint's configuration, ``--config``, or a place in their
            file.
        of_checkpoint: whether `source` is such a field.
    """

    name: str
    value: Any
    source: str
    of_checkpoint: bool = False

    def __str__(self) -> str:
        whose = "the checkpoint's " if self.of_checkpoint else ""
        return f"{self.name}={self.value!r} ({whose}{self.source})"


def built_with(settings: Iterable[Setting]) -> str:
    """What a constructor was given, in one sentence.

    A field of the checkpoint's configuration is named where its name is another one.

    Example:
        >>> print(built_with([Setting("d_model", 64, "n_embd", True), Setting("p", 0.1, "set by you")]))
        built with p=0.1 (set by you), and the checkpoint's d_model=64 (n_embd)
    """
    others, theirs = [], []
    for each in settings:
        if each.of_checkpoint:
            theirs.append(f"{each.name}={each.value!r}" + (f" ({each.source})" if each.source != each.name else ""))
        else:
            others.append(str(each))
    parts = [", ".join(others), "the checkpoint's " + ", ".join(theirs) if theirs else ""]
    return "built with " + ", and ".join(part for part in parts if part)


def settings_of(config: GPTConfig, biases: bool) -> dict[str, Setting]:
    """The settings that `WORDS` has names for, under our names.

    Args:
        config: of the checkpoint.
        biases: whether the checkpoint has biases.
    """
    ratio = config.inner_dim / config.n_embd
    names = (
        *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "activation_function"),
        *("resid_pdrop", "attn_pdrop", "embd_pdrop", "tie_word_embeddings"),
    )
    settings = [
        *(Setting(name, getattr(config, name), name, True) for name in names),
        Setting("head_dim", config.head_dim, "n_embd / n_head", True),
        Setting("inner_dim", config.inner_dim, "feed-forward width", True),
        Setting("inner_ratio", int(ratio) if ratio.is_integer() else ratio, "feed-forward width / n_embd", True),
        Setting("bias", biases, "the checkpoint has biases" if biases else "the checkpoint has no biases"),
        Setting("device", "cpu", "built on the CPU"),
        Setting("model_type", None, "the sizes are given one by one"),
    ]
    return {setting.name: setting for setting in settings}
