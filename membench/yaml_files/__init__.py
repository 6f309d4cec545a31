"""YAML as users write it: read strictly, and what is wrong said with its line."""
