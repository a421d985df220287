"""What other packages offer for the same work; each is measured where it is installed."""
