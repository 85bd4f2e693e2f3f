"""Retraining: a store of bundles with its champion, new data and attacks in; a better champion, or a reason, out.

configuration ─▶ the ordinary stages ─▶ challenger ─┐
store ─▶ champion ──────────────────────────────────┴─▶ compare, on the same images ─▶ decide ─▶ store
"""
