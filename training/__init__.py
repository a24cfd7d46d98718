"""Everything behind the weights: data, examples, losses, training, evaluation."""
