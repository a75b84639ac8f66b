"""Results for people: tables in the terminal, pictures, one HTML page."""
