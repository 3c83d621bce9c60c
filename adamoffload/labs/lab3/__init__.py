"""Lab 3: the byte ledger."""
