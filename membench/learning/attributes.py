"""What a person has a value of."""

_WORDS = """
city employer school field hobby spouse car pet language team dish colour river song street mentor
planet instrument sport author painter island mountain lake bird tree flower fruit spice cheese drink bread
metal stone fabric dance film opera novel poem game puzzle tool ship train bridge tower palace temple
garden forest desert valley harbour village country capital museum library theatre market festival season
ocean
"""
ATTRIBUTES = tuple(_WORDS.split())
