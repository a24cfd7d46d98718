"""Live separation between the inputs and outputs of sound cards."""
