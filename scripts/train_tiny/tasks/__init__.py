"""One module per skill; each makes a Sample from a random generator."""
