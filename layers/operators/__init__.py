"""Single operators behind the face of a layer, for scenarios of level ``op``."""
