"""Lightning callbacks shared by all methods."""
