"""Long reliability measurements; the tests have short versions."""
