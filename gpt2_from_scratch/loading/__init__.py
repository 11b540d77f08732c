"""From a checkpoint to weights in a module.

`opening` opens a checkpoint and settles everything about it; `configuration` works out the model's configuration from
what the files say; `into_module` copies the weights into anybody's module.
"""

from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.loading.into_module import load_into
from gpt2_from_scratch.loading.opening import (
    Checkpoint,
    OpenOptions,
    Source,
    check_values,
    dtype_name,
    open_checkpoint,
)
from gpt2_from_scratch.loading.report import LoadReport, report_of

__all__ = [
    "TINY",
    "Checkpoint",
    "LoadReport",
    "OpenOptions",
    "Source",
    "check_values",
    "dtype_name",
    "load_into",
    "open_checkpoint",
    "report_of",
]
