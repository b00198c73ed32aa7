"""From raw data to a study folder."""
