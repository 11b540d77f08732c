"""GPT-2 in float64, spelled out: what it computes on the way from ids to logits, and what a given value is among that.

forward.py      the whole model in pure functions: start here
activations.py  every activation as a formula
entries.py      every intermediate of a run, as a list
identity.py     which of them a value is
"""
