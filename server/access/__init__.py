"""Who may come in: certificates and tokens, followed when their files change."""
