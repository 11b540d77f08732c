"""One file for each kind of evidence about a candidate: weights, self-tests, logits, generation, gradients."""
