"""Importing weights from other code and exporting one branch to other tools."""
