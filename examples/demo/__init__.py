"""`heatward demo`: a server, attacks made live, and its verdicts on them."""
