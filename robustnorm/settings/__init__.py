"""What a user may set: typed, checked, free of torch."""
