"""OpenAI's TensorFlow variables: ``model/h0/attn/c_attn/w``. Linear weights are ``[1, in, out]``; the head is tied.

The leading 1 is the width of a convolution, which is how OpenAI wrote a linear layer. Files saved in the middle of a
training hold the optimizer's averages beside each variable; they are no parameters.
"""

from gpt2_from_scratch.mapping import Ignore, Layout, Parameter, Row, bare, ignore, norm, tied

# What `tf.train.AdamOptimizer` adds: two slots for each variable, and three numbers.
_SLOTS = ("Adam", "Adam_1")
_NUMBERS = ("beta1_power", "beta2_power", "global_step")


def _conv1d(site: str, theirs: str) -> Row:
    return Row(site, (theirs,), (Parameter("weight", "w", "i o -> 1 i o"), Parameter("bias", "b")))


_ROWS = (
    bare("wte", "model/wte"),
    bare("wpe", "model/wpe"),
    norm("h.*.ln_1", "model/h*/ln_1", weight="g", bias="b"),
    _conv1d("h.*.attn.c_attn", "model/h*/attn/c_attn"),
    _conv1d("h.*.attn.c_proj", "model/h*/attn/c_proj"),
    norm("h.*.ln_2", "model/h*/ln_2", weight="g", bias="b"),
    _conv1d("h.*.mlp.c_fc", "model/h*/mlp/c_fc"),
    _conv1d("h.*.mlp.c_proj", "model/h*/mlp/c_proj"),
    norm("ln_f", "model/ln_f", weight="g", bias="b"),
    tied("lm_head", "", to="wte", weight="model/lm_head", written=False),
)


def _optimizer() -> tuple[Ignore, ...]:
    variables = [name for row in _ROWS for parameter in row.parameters for name in row.names(parameter, "/")]
    slots = [f"{variable}/{slot}" for variable in variables for slot in _SLOTS]
    return tuple(ignore(name, why="state of the optimizer, not a parameter") for name in (*slots, *_NUMBERS))


OPENAI = (Layout("openai", (*_ROWS, *_optimizer()), separator="/", about="OpenAI's TensorFlow variables"),)
