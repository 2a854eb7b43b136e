"""What a trained network keeps apart, and what would happen if it did not."""
