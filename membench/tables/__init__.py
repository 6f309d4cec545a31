"""Plans and records as tables. Touches no device."""
