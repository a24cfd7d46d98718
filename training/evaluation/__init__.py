"""How good stems are, and how good others are."""
