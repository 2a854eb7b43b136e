"""What a kill, a full disk, little memory or a hostile file must not harm."""
