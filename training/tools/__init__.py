"""Programs that get or prepare data."""
