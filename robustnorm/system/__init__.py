"""Protection against kills, full disks, little memory and hostile files."""
