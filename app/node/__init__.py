"""What runs on a rented machine, and how it gets there."""
