"""Networks, and the layers that their features come from."""
