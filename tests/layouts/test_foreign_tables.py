"""Tables for the styles of `tests.foreign` that no row helper alone can say, each against the style's own answer.

The answers in `tests.foreign` are written without `mapping`: they cut and join tensors. A table has to move every
element to the same place, in both directions.
"""

import pytest
import torch

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping import match, read_canonical, write_theirs
from tests.foreign import STYLES
from tests.perturbed import SIZES

# Others are loaded by their tables in `test_foreign_styles`.
TABLES = {
    name: style.layout
    for name, style in STYLES.items()
    if style.functions or name in ("numbered_sequence", "einsum_fused", "one_norm_tensor")
}
CONFIG = GPTConfig(**SIZES | {"n_inner": None})  # most styles have no inner width of their own


def test_every_style_has_a_table() -> None:
    assert [style.name for style in STYLES.values() if style.layout is None] == []


@pytest.mark.parametrize("name", TABLES)
def test_the_table_moves_every_element_to_where_the_answer_has_it(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in CONFIG.tensor_shapes().items()}
    layout = TABLES[name]
    assert layout is not None
    expected = STYLES[name].arrange(tensors, CONFIG)
    written = {key: read() for key, read in write_theirs(layout, CONFIG, tensors.__getitem__).items()}
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(written[key], tensor), key

    matching = match(layout, CONFIG, {key: tuple(tensor.shape) for key, tensor in expected.items()})
    assert matching, str(matching)
    back = {key: read() for key, read in read_canonical(matching, CONFIG, expected.__getitem__).items()}
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(back[key], tensor), key
