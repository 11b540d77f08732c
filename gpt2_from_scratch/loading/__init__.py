"""From a checkpoint to weights in a module.

opening.py         opens a checkpoint and settles everything about it
renaming.py        names as the file has them, without wrappers and what is left out
configuration.py   the model's configuration, and who said it
facts.py           what was said by whom, and what is assumed
values.py          what only values can tell: dtypes, zeros, the tied head
hints.py           why a file does not fit, and what was tried
into_module.py     copies weights into anybody's module
report.py          what was loaded
"""

from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.loading.facts import Fact, Said
from gpt2_from_scratch.loading.into_module import load_into
from gpt2_from_scratch.loading.opening import (
    Checkpoint,
    OpenOptions,
    Source,
    hub_options,
    open_checkpoint,
)
from gpt2_from_scratch.loading.report import LoadReport, report_of
from gpt2_from_scratch.loading.values import check_values, dtype_name

__all__ = [
    "TINY",
    "Checkpoint",
    "Fact",
    "LoadReport",
    "OpenOptions",
    "Said",
    "Source",
    "check_values",
    "dtype_name",
    "hub_options",
    "load_into",
    "open_checkpoint",
    "report_of",
]
