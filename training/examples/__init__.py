"""What training hears, made of songs."""
