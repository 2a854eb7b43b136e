"""Networks: built, converted, folded, served."""
