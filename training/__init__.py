"""Offline jobs: images + classifier → attack → attribute → fit → calibrate → evaluate → bundle.

Every stage reads the shards of the one before and can be run alone and again (`heatward train STAGE --config FILE`).
"""
