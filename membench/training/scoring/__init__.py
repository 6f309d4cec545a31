"""How answers are scored: their loss, exact match, F1, and what a model writes by itself."""
