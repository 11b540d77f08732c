"""Which parameter of a GPT-2 that nobody has seen is which of GPT-2's, proven. No name is read.

`infer_layout` runs the module once and follows every element of every parameter (`tracing`, `events`), reads what was
recorded as GPT-2 (`skeleton`), fills the module with random weights accordingly, and compares its logits in float64
with GPT-2's (`proof`). If they differ, it looks for what the module computes otherwise (`deviations`). What was read is
then written as a table (`arrangement`), which `to_python` prints. `find_layout` tries the names of the built-in layouts
first.
"""

from gpt2_from_scratch.infer_layout.finding import FoundLayout, find_layout
from gpt2_from_scratch.infer_layout.inference import InferredLayout, Status, infer_layout
from gpt2_from_scratch.infer_layout.printing import to_python
from gpt2_from_scratch.infer_layout.recognition import holds_some

__all__ = ["FoundLayout", "InferredLayout", "Status", "find_layout", "holds_some", "infer_layout", "to_python"]
