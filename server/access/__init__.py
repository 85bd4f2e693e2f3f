"""Who may call, and what a connection may do: TLS, tokens, quotas, sizes."""
