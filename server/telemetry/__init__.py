"""What the server shows of itself: metrics, drift, traces, logs."""
