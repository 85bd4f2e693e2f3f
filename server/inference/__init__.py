"""The way of an image: admission, queue, batches, engines."""
