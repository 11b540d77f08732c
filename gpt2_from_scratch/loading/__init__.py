"""From a checkpoint to weights in a module.

opening.py         opens a checkpoint: its files, its configuration, its layout
renaming.py        leaves tensors out, and takes prefixes and wrappers off their names
configuration.py   works out the model's configuration
facts.py           where each field of the configuration comes from
values.py          checks that read values: dtypes, zeros, the tied head
hints.py           why a file does not fit, and options with which it opens
into_module.py     copies weights into anybody's module
report.py          what was loaded
"""

from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.loading.facts import Fact, Origin
from gpt2_from_scratch.loading.into_module import load_into
from gpt2_from_scratch.loading.opening import Checkpoint, OpenOptions, Source, hub_options, open_anew, open_checkpoint
from gpt2_from_scratch.loading.report import LoadReport, report_of
from gpt2_from_scratch.loading.values import check_values

__all__ = [
    "TINY",
    "Checkpoint",
    "Fact",
    "LoadReport",
    "OpenOptions",
    "Origin",
    "Source",
    "check_values",
    "hub_options",
    "load_into",
    "open_anew",
    "open_checkpoint",
    "report_of",
]
