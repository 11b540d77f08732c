"""From a checkpoint to weights in a module, and from weights to files.

`opening` opens a checkpoint and settles everything about it; `into_module` copies its weights into anybody's module;
`saving` writes a directory. `configuration` works out the model's configuration from what the files say.
"""

from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.loading.into_module import load_into
from gpt2_from_scratch.loading.opening import (
    Checkpoint,
    LayoutChoice,
    OpenOptions,
    Source,
    check_values,
    dtype_name,
    layout_variants,
    open_checkpoint,
)
from gpt2_from_scratch.loading.report import LoadReport, report_of
from gpt2_from_scratch.loading.saving import config_json, parse_size, write_directory

__all__ = [
    "TINY",
    "Checkpoint",
    "LayoutChoice",
    "LoadReport",
    "OpenOptions",
    "Source",
    "check_values",
    "config_json",
    "dtype_name",
    "layout_variants",
    "load_into",
    "open_checkpoint",
    "parse_size",
    "report_of",
    "write_directory",
]
