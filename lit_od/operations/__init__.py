"""What is done with a bundle in use: images accepted as normal, the history of changes, the way back."""
