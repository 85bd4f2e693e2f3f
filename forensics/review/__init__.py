"""`heatward review`: what was recorded and looked suspicious, on a page that takes the truth about it."""
