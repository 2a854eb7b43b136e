"""Long measurements of reliability; the tests have short versions of them."""
