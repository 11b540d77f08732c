"""The fault table: everything that can be named, in the order in which a forward pass meets it.

To add a fault, add a row to the file it belongs to and a mutant to ``tests/mutants.py``; the search, `gpt2 grade` and
the page follow from the row.
"""

from gpt2_from_scratch.diagnose.table import attention, formulas, weights, wiring

FAULTS = (
    *weights.FAULTS,
    *formulas.NORM_FAULTS,
    *formulas.ACTIVATION_FAULTS,
    *attention.SCALE_FAULTS,
    *attention.MASK_FAULTS,
    *attention.HEAD_FAULTS,
    *wiring.BLOCK_FAULTS,
    *wiring.EMBEDDING_FAULTS,
    *wiring.HEAD_FAULTS,
)
PRECISIONS = weights.PRECISIONS
FAULT = {fault.name: fault for fault in (*FAULTS, *PRECISIONS)}
