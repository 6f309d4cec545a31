"""Decoders made of the layers."""
