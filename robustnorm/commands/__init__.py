"""What the command line does once the settings are known to be sound, a file a command."""
