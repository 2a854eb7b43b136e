"""What the command line does once the settings are known to be sound, a module for each command."""
