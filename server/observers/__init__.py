"""Who looks on: metrics, traces, logs, drift, the shadow."""
