"""Images for Lightning."""
