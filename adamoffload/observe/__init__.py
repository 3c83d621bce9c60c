"""Who watches: every hop in the `ledger`, every moment in `probes`, and what is made of them."""
