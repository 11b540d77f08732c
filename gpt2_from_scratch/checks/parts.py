"""The kinds of evidence, by name. No torch is imported here: the command line needs the names before anything else."""

from typing import Literal, TypeAlias, get_args

PartName: TypeAlias = Literal["weights", "self-tests", "logits", "generation", "gradients", "where"]

# In the order in which the evidence is taken. Gradients are compared on request; all others unless skipped.
PARTS: tuple[PartName, ...] = get_args(PartName)

Status: TypeAlias = Literal["passed", "failed", "not checked"]
