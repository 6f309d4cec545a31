"""Result files as one HTML page that needs nothing but itself. Touches no device."""
