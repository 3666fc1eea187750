"""Images as Lightning takes them."""
