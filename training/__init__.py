"""Everything that produces the weights: data, examples, losses, training, evaluation."""
