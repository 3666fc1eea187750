"""The exported graph as an object, and the extractor that runs images through it."""
