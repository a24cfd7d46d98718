"""Programs that fetch or prepare training data."""
